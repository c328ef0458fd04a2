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


def split_of_file(path: Path) -> str | None:
    """The split that the name of a file speaks of, or that the folder it is in is called."""
    return split_in(path.stem) or WORDS.get(path.parent.name.lower())


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


def with_splits(collection: Collection, options: Mapping[str, str]) -> Collection:
    """The collection with the splits it lacks, made of images of train.

    An image goes to test where the hash of its name, as a number in [0, 1), is below test's share, and to val where it
    is above one less val's share: adding pairs moves none that was there before. A share of 0 makes no split.

    Raises:
        DataError: shares that cannot be, or one for a split that the source has.
    """
    shares = shares_asked(collection.source, options)
    present = set(collection.splits)
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
    splits = list(collection.splits)
    for index, place in _places(collection.images.names, splits):
        if place < wanted.get("test", 0):
            splits[index] = "test"
        elif place >= 1 - wanted.get("val", 0):
            splits[index] = "val"
    made = {
        split: f"made by a hash of image names: {share:g} of the images of train ({splits.count(split):,}); "
        f"another share is asked for with ?{split}=..., 0 for none"
        for split, share in wanted.items()
    }
    return replace(collection, splits=splits, made=made)


def _places(names: Sequence[str], splits: Sequence[str]) -> Iterable[tuple[int, float]]:
    """Every image of train with the hash of its name in [0, 1)."""
    for index, (name, split) in enumerate(zip(names, splits, strict=True)):
        if split == "train":
            raw = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            yield index, int.from_bytes(raw, "little") / 2**64
