"""A collection of pairs that are given by their vectors; ten million of them, so nothing here is a list of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from vldistill.data.account import Account
from vldistill.data.collection import Collection
from vldistill.data.pairs import SPLITS, CaptionRows, Pairs
from vldistill.data.photos import PHOTO_LIMITS, PhotoLimits, decode
from vldistill.data.splits import LEAST, PART, SHARE, how_made
from vldistill.data.texts import Texts
from vldistill.data.vectors import PairVectors
from vldistill.errors import DataError

MOST = 10_000  # images of val, and of test, where a split is made and no share of it is named


@dataclass(frozen=True)
class EmbeddedImages:
    """An image store for messages and pictures: what stands on the image side is a vector.

    Attributes:
        names: of the images.
        paths: of the pictures that may be there; None where no table names any.
        folder: where they are looked for.
        limits: what is too large.
    """

    names: Texts
    paths: Texts | None = None
    folder: Path = Path()
    limits: PhotoLimits = PHOTO_LIMITS

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path | None:
        """The file of a picture, where there is one."""
        given = self.paths[index] if self.paths is not None else ""
        if not given or "\0" in given or len(given) > 1000:
            return None
        try:
            return next((path for path in (self.folder / given, Path(given)) if path.is_file()), None)
        except OSError:  # a name that is too long
            return None

    def read(self, index: int, at_least: int = 0) -> Any:
        """The picture. Raises DataError where there is none."""
        return decode(self.encoded(index), f"image {self.names[index]}", at_least, self.limits)

    def encoded(self, index: int) -> bytes:
        """The picture's file. Raises DataError where there is none."""
        path = self.path(index)
        if path is None:
            raise DataError(
                f"{self.names[index]} is given by its vector and has no picture here. What needs pixels needs photos: "
                f"give their source, or ?images=FOLDER for pictures to show."
            )
        try:
            self.limits.check_bytes(path.stat().st_size, f"image {self.names[index]}")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"image {self.names[index]}: {path} cannot be read ({error.strerror}).") from None

    def signature(self, index: int) -> bytes:
        """Its name: the content is in the fingerprint of the vectors."""
        return self.names[index].encode("utf-8", "surrogatepass")

    def chosen(self, rows: np.ndarray) -> EmbeddedImages:
        """Some of them, in another order."""
        return replace(self, names=self.names.chosen(rows), paths=self.paths and self.paths.chosen(rows))


class _SplitWords(Sequence[str]):
    """The split of every image, as a word."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self.codes[index]
        return [SPLITS[code] for code in found.tolist()] if isinstance(index, slice) else SPLITS[int(found)]

    def count(self, value: str) -> int:
        """How many images are of a split."""
        return int((self.codes == SPLITS.index(value)).sum())


class _CaptionLists(Sequence[Sequence[str]]):
    """The captions of every image."""

    def __init__(self, captions: Texts, caption_image: np.ndarray, count: int) -> None:
        self._captions, self._rows = captions, CaptionRows(caption_image, count)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sequence[str]: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sequence[str]]: ...

    def __getitem__(self, index: int | slice) -> Sequence[str] | list[Sequence[str]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return [self._captions[int(row)] for row in self._rows[index]]


@dataclass(frozen=True, kw_only=True)
class EmbeddedCollection(Collection):
    """All pairs of a source of vectors.

    Attributes:
        vectors: of the N images and the M captions, which stand in the order of their images.
        texts: the M captions.
        caption_image: int64 (M,).
        codes: int8 (N,), the number of every image's split in SPLITS.
        hashes: uint64 (N,), of the names.
    """

    vectors: PairVectors
    texts: Texts
    caption_image: np.ndarray
    codes: np.ndarray
    hashes: np.ndarray
    captions: Sequence[Sequence[str]] = field(init=False)
    splits: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", _SplitWords(self.codes))
        object.__setattr__(self, "captions", _CaptionLists(self.texts, self.caption_image, len(self.codes)))

    def splits_present(self) -> list[str]:
        """The splits that have an image, in the order train, val, test."""
        return [SPLITS[code] for code in np.unique(self.codes).tolist()]

    def _no_split(self, split: str) -> str:
        return super()._no_split(split) if len(self.codes) < MOST else f"{self.source} has no split {split!r}."

    def _members(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The images and the captions of a split. Raises DataError."""
        inside = self.codes == SPLITS.index(split)
        if not inside.any():
            raise DataError(self._no_split(split))
        return np.flatnonzero(inside), np.flatnonzero(inside[self.caption_image])

    def pairs(self, split: str, *, strict: bool = False) -> Pairs:
        """One split as Pairs; with ``strict`` anything left out is an error. Raises DataError."""
        images, captions = self._members(split)
        losses = self.losses(split)
        if strict and losses:
            raise DataError(
                f"{self.source}, split {split!r}: {'; '.join(losses)}. Correct the source, or leave out --strict "
                f"(data.strict)."
            )
        assert isinstance(self.images, EmbeddedImages)
        return Pairs(
            source=self.source,
            split=split,
            images=self.images.chosen(images),
            captions=self.texts.chosen(captions),
            caption_image=np.searchsorted(images, self.caption_image[captions]),
            notes=(*losses, *(note for name, note in self.made.items() if name == split)),
            accounts=(*self.accounts, *self.split_accounts(split)),
            vectors=self.vectors.select(images, captions),
        )

    def split_accounts(self, split: str) -> tuple[Account, Account]:
        """The accounts of the images and the captions of a split: what cannot be used is in the account of rows."""
        images, captions = self._members(split)
        return Account("images", len(images), len(images)), Account("captions", len(captions), len(captions))


def with_made_splits(found: EmbeddedCollection) -> EmbeddedCollection:
    """The collection with the splits it lacks, by the hashes of names as everywhere (:mod:`vldistill.data.splits`).

    A split whose share is not named has at most :data:`MOST` images, for val and test are ranked as a whole.

    Raises:
        DataError: a share for a split that the source has beside others.
    """
    shares, present = found.shares, set(found.splits_present())
    if shares is None:
        return found
    again = any(shares.values()) and len(present) == 1
    codes = np.zeros_like(found.codes) if again else found.codes.copy()
    present = {"train"} if again else present
    for split, share in shares.items():
        if share and split in present:
            raise DataError(
                f"{found.source}: {split} is given a share, but the source has that split. Leave out ?{split}=..."
            )
    wanted = {split: shares.get(split, SHARE) for split in ("val", "test") if split not in present}
    wanted = {split: share for split, share in wanted.items() if share and "train" in present}
    train = np.flatnonzero(codes == 0)
    ranked = train[np.argsort(found.hashes[train], kind="stable")]
    made: dict[str, str] = {}
    for split in ("test", "val"):
        if split not in wanted:
            continue
        share, named, count = wanted[split], split in shares, len(train)
        least = 0 if named or count < 3 else min(LEAST, -(-count // PART))
        ordered = ranked if split == "test" else ranked[::-1]
        places = found.hashes[ordered].astype(np.float64) / 2.0**64
        reached = int((places < share).sum() if split == "test" else (places >= 1 - share).sum())
        taken = ordered[: max(least, reached if named else min(reached, MOST))]
        taken = taken[codes[taken] == 0]
        codes[taken] = SPLITS.index(split)
        capped = f", and at most {MOST:,}" if not named and reached > MOST else ""
        made[split] = how_made(split, share, len(taken), least) + capped
    return replace(found, codes=codes, made={split: made[split] for split in ("val", "test") if split in made})
