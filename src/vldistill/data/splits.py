"""Splits of sources that have none of their own: words in file names, values of columns, and a hash of image names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from vldistill.data.collection import Collection
from vldistill.errors import DataError

SHARE = 0.05  # of the images, for each split that has to be made
LEAST, PART = 100, 5  # and at least the smaller of 100 images and a fifth
WORDS = {
    "train": "train",
    "training": "train",
    "restval": "train",  # of the Karpathy split of COCO
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}


def split_in(name: str) -> str | None:
    """The split that a file or folder name speaks of (``captions_train2017``, ``cc3m-validation-0001``), if one."""
    found = {WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS}
    return found.pop() if len(found) == 1 else None


def split_of_file(path: Path, source: Path) -> str | None:
    """The split that the name of a file speaks of, or that of a folder below ``source`` which it is in.

    What the source itself or a folder above it is called decides nothing.
    """
    inside = path.is_relative_to(source) and path.parent != source
    return split_in(path.stem) or (WORDS.get(path.parent.name.lower()) if inside else None)


def split_named(value: object, where: str) -> str:
    """The split of a value such as ``validation``. Raises DataError, naming ``where``."""
    split = WORDS.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"{where}: split is {value!r}; expected one of {', '.join(WORDS)}. Correct it.")
    return split


def shares_asked(source: str, options: Mapping[str, str]) -> dict[str, float]:
    """The shares ``val`` and ``test`` among the options of a source. Raises DataError."""
    shares: dict[str, float] = {}
    for split in ("val", "test"):
        if split in options:
            try:
                shares[split] = float(options[split])
            except ValueError:
                shares[split] = math.nan
            if not 0 <= shares[split] < 1:
                raise DataError(f"{source}: {split} is {options[split]!r}; expected a share of the images, e.g. 0.05.")
    if sum(shares.values()) >= 1:
        raise DataError(f"{source}: val and test are {sum(shares.values()):g} of the images together; expected less.")
    return shares


def with_splits(collection: Collection, *, former: bool = False) -> Collection:
    """The collection with the splits it lacks, made of images of train.

    An image goes to test where the hash of its name, as a number in [0, 1), is below test's share, and to val where it
    is above one less val's share. With the usual share, a split has at least 100 images or a fifth of them, whichever
    is less: those with the lowest hashes, or the highest. A share of 0 makes no split. With shares, the images of a
    source that has only one split are all split again.

    Args:
        collection: with the shares that its source names; None leaves it as it is.
        former: the usual share alone, however few images it gives, as runs of former versions have it.

    Raises:
        DataError: a share for a split that the source has beside others.
    """
    shares, present = collection.shares, set(collection.splits)
    if shares is None:
        return collection
    again = any(shares.values()) and len(present) == 1
    splits = ["train"] * len(collection.splits) if again else list(collection.splits)
    present = {"train"} if again else present
    for split, share in shares.items():
        if share and split in present:
            raise DataError(
                f"{collection.source}: {split} is given a share, but the source has that split. Leave out ?{split}=..."
            )
    lacking = [split for split in ("val", "test") if split not in present]
    wanted = {split: shares.get(split, SHARE) for split in lacking} if "train" in present else {}
    wanted = {split: share for split, share in wanted.items() if share}
    if not wanted:
        return collection
    count = splits.count("train")
    least = {split: 0 if former or split in shares or count < 3 else min(LEAST, -(-count // PART)) for split in wanted}
    _move(splits, collection.images.names, wanted, least)
    made = {split: how_made(split, share, splits.count(split), least[split]) for split, share in wanted.items()}
    return replace(collection, splits=splits, made=made)


def _move(splits: list[str], names: Sequence[str], wanted: Mapping[str, float], least: Mapping[str, int]) -> None:
    """Give images of train to test and val in place, by the hashes of their names."""
    ranked = sorted((place, index) for index, place in _places(names, splits))
    for split, ordered in (("test", ranked), ("val", ranked[::-1])):
        for rank, (place, index) in enumerate(ordered if split in wanted else ()):
            reached = place < wanted[split] if split == "test" else place >= 1 - wanted[split]
            if splits[index] == "train" and (rank < least[split] or reached):
                splits[index] = split


def how_made(split: str, share: float, count: int, least: int) -> str:
    """How a split of ``count`` images was made, as a sentence."""
    return (
        f"made by a hash of image names: {share:g} of the images of train ({count:,})"
        + (f", and at least {least:,}" if least else "")
        + f"; another share is requested with ?{split}=..., 0 for none"
    )


def _places(names: Sequence[str], splits: Sequence[str]) -> Iterable[tuple[int, float]]:
    """Every image of train with the hash of its name in [0, 1)."""
    for index, (name, split) in enumerate(zip(names, splits, strict=True)):
        if split == "train":
            raw = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            yield index, int.from_bytes(raw, "little") / 2**64
