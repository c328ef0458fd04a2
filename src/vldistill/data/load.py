"""A data source by its name: the reader that recognises it, and what it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vldistill.data.account import files_account
from vldistill.data.collection import Collection
from vldistill.data.columns import DOWNLOAD
from vldistill.data.embedded.collection import EmbeddedCollection, with_made_splits
from vldistill.data.evidence import TABLES, TARS, passed_over
from vldistill.data.jsonfile import describe, load_json
from vldistill.data.pairs import SPLITS, Pairs
from vldistill.data.patterns import advice_to_unpack, walk
from vldistill.data.reader import READERS, Reader, source_of
from vldistill.data.samples import IMAGE_SUFFIXES
from vldistill.data.splits import with_splits
from vldistill.errors import DataError, unknown

if TYPE_CHECKING:
    from vldistill.data.photos import PhotoLimits

MOST_WEIGHED = 10_000  # files listed for the message that a folder is no source


def find_reader(source: str | Path) -> Reader:
    """The reader for a source. Raises DataError when none or several recognise it."""
    text = str(source)
    if not text.strip():
        raise DataError("the data source is empty; expected a path, or a name such as scenes.")
    kind = source_of(text).kind
    if kind:
        return READERS[kind]
    try:
        found = [one for one in READERS.values() if one.matches(text)]
        if not found:
            raise DataError(_nothing_fits(text))
        found = [one for one in found if not one.fallback] or found
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a name too long, NUL, ~ of nobody
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data source {text[:200]!r} cannot be read ({reason}).") from None
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        prefixed = ", ".join(f"{one.name}:{text}" for one in found if one.prefixed)
        raise DataError(
            f"data source {text!r} is recognised by several readers: {names}. Give a more exact path."
            + (f" Or name the kind: {prefixed}." if prefixed else "")
        )
    return found[0]


def _nothing_fits(source: str) -> str:
    """The message for a source that no reader recognises."""
    path = source_of(source).place
    if path.is_dir():
        listing = sorted(entry.name for entry in path.iterdir())
        holds = ", ".join(listing[:5]) + (", ..." if len(listing) > 5 else "") if listing else "nothing"
        if any(path.glob("*.npy")) or any(path.glob("*/*.npy")):
            return (
                f"the folder {path} holds embeddings (.npy), not images: {holds}. embeddings:{path} reads them where "
                f"both sides are there. For images: {DOWNLOAD}"
            )
        weighed = "".join(_weighed(path))
        return f"the folder {path} is not a data source: it holds {holds}. {weighed}{_kinds()}"
    if path.exists():
        return f"the file {path} is not a data source. {advice_to_unpack([path])}{_kinds()}"
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    kind = source.partition(":")[0]
    near = get_close_matches(kind, READERS)
    near += [str(path.with_name(name)) for name in get_close_matches(path.name, beside)]
    strange = f", and {kind!r} is not a kind of source" if re.match(r"\w\w+:", source) and kind not in READERS else ""
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    return (
        f"the data source {source} does not exist{strange}{meant}. Expected the path of a file, a folder or a pattern, "
        f"or scenes, or hf:OWNER/NAME. `vldistill ls readers` lists the kinds."
    )


def _weighed(folder: Path) -> Iterator[str]:
    """What in a folder was considered, and the prefix under which it is read all the same."""
    ends = {"csv": TABLES, "wds": TARS, "parquet": (".parquet",), "karpathy": (".json",)}
    for kind, suffixes in ends.items():
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.lower().endswith(suffixes))
        if names:
            about = _json_is(folder / names[0]) if names[0].lower().endswith(".json") else ""
            yield (
                f"{names[0]} was weighed and does not look like captions of images{about}; {kind}:{folder} reads the "
                f"folder as {kind} all the same. "
            )
    below = [path.relative_to(folder) for path in islice(walk(folder), MOST_WEIGHED)]
    deeper = [path for path in below if len(path.parts) > 1 and path.name.lower().endswith((*sum(ends.values(), ()),))]
    if deeper:
        yield f"Deeper there is {deeper[0]}: give the folder with it. "
    elif any(path.suffix.lower() in IMAGE_SUFFIXES for path in below):
        yield "It holds images, but nothing that gives them captions: no text beside them, no table, no json. "
        if len({path.parts[0] for path in below if len(path.parts) > 1}) > 1:
            yield f"Where its folders are classes, classes:{folder} makes the captions of their names. "
    yield advice_to_unpack(folder.iterdir())


def _json_is(path: Path) -> str:
    try:
        return f": it looks like {describe(load_json(path))}"
    except DataError as error:
        return f": {str(error).rstrip('.')}"


def _kinds() -> str:
    return "Expected one of:" + "".join(f"\n  [{name}] {entry.summary}" for name, entry in READERS.items())


def read_collection(source: str | Path, *, former_splits: bool = False) -> Collection:
    """Read a source with the reader that recognises it, and make the splits that it lacks.

    Args:
        source: as :func:`load_pairs` takes it.
        former_splits: make splits as runs of former versions have them, see :func:`.splits.with_splits`.

    Raises:
        DataError: no reader knows the source, or it is malformed.
    """
    found = find_reader(source)
    collection = replace(found.read(str(source)), reader=found.name)
    if not collection.accounts:
        raise DataError(f"reader {found.name} gives no account of {source}; expected Collection.accounts. Correct it.")
    if isinstance(collection, EmbeddedCollection):  # its tables are part of it
        return with_made_splits(collection)
    if others := passed_over(source_of(str(source)).place, found.name):
        left = files_account([], {"of another kind than is read": others}, len(others))
        collection = replace(collection, accounts=(*collection.accounts, left))
    return with_splits(collection, former=former_splits)


def load_pairs(source: str | Path, split: str, *, strict: bool = False, limits: PhotoLimits | None = None) -> Pairs:
    """Read one split of a data source; no image is decoded yet.

    Args:
        source: a path or a name such as ``scenes``; ``vldistill ls readers`` lists the kinds.
        split: train, val or test.
        strict: refuse what would otherwise be left out with a counted note: images without a caption, missing
            images, empty captions and captions as long as a book.
        limits: photos with more pixels or bytes are refused unread; None means :class:`~.photos.PhotoLimits`.

    Raises:
        DataError: no reader knows the source, it is malformed, the split is missing, or nothing of it is usable.
    """
    if split not in SPLITS:
        raise DataError(unknown("split", split, SPLITS))
    collection = read_collection(source)
    if limits is not None:
        collection = collection.limited(limits)
    return collection.pairs(split, strict=strict)


def source_summary(source: str | Path) -> dict[str, Any]:
    """What a data source holds, without decoding images.

    Returns:
        ``source``, ``reader``, ``understood`` (format, columns, files), ``account`` (what was seen, used and left out)
        and ``splits``: for each split present ``images`` and ``captions`` (usable ones), ``notes`` (what is left out
        and why) and an ``account`` of both.

    Raises:
        DataError: no reader knows the source, or it is malformed.
    """
    return read_collection(source).summary()
