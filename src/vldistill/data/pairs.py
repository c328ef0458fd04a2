"""Pairs: images, their captions and which caption belongs to which image. The one data type of the library."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, overload, runtime_checkable

import numpy as np

from vldistill.errors import DataError
from vldistill.storage.files import digest

if TYPE_CHECKING:
    from PIL import Image

    from vldistill.data.account import Account
    from vldistill.data.classes import Classes
    from vldistill.data.photos import PhotoLimits
    from vldistill.data.vectors import PairVectors

SPLITS = ("train", "val", "test")
LARGE = 2**15  # images; fingerprints of larger splits are hashes of hashes
HASHED_AT_ONCE = 4096  # images, or captions, hashed at a time there


def in_order(splits: Iterable[str]) -> list[str]:
    """Distinct splits in the order train, val, test."""
    found = set(splits)
    return [split for split in SPLITS if split in found]


class ImageStore(Protocol):
    """Where images come from: files, members of a tar, drawings. Picklable, safe in threads and processes."""

    @property
    def names(self) -> Sequence[str]:
        """A unique name per image, as shown in messages."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """Decode one image, upright and in RGB.

        Args:
            index: which image.
            at_least: when positive, sides of this many pixels are enough: a large JPEG may be decoded at a
                fraction of its size, which is much faster. 0 is the full size.

        Raises:
            DataError: the image is missing or broken; the message names it.
        """
        ...

    def signature(self, index: int) -> bytes:
        """A cheap identity of the content: it changes when the image changes. Raises DataError when missing."""
        ...

    def encoded(self, index: int) -> bytes:
        """The image's file as the source holds it; drawings as PNG. Raises DataError when missing."""
        ...


@dataclass(frozen=True)
class ChosenImages:
    """Some images of a store, in a chosen order, as a store."""

    store: ImageStore
    indices: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def limits(self) -> PhotoLimits | None:
        """What the store refuses as too large, if it has limits."""
        return getattr(self.store, "limits", None)

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """See ImageStore."""
        return self.store.read(self.indices[index], at_least)

    def signature(self, index: int) -> bytes:
        """See ImageStore."""
        return self.store.signature(self.indices[index])

    def encoded(self, index: int) -> bytes:
        """See ImageStore."""
        return self.store.encoded(self.indices[index])


@runtime_checkable
class Choosable(Protocol):
    """A store that gives a choice of its images itself."""

    def chosen(self, rows: np.ndarray) -> ImageStore:
        """The images ``rows``, in that order."""
        ...


def choose(store: ImageStore, indices: Sequence[int]) -> ImageStore:
    """The images of ``store`` at ``indices``, in that order; a choice of a choice stays one layer deep."""
    if isinstance(store, Choosable):
        return store.chosen(np.asarray(indices, np.int64))
    names = store.names
    chosen = tuple(names[index] for index in indices)
    if isinstance(store, ChosenImages):
        return ChosenImages(store.store, tuple(store.indices[index] for index in indices), chosen)
    return ChosenImages(store, tuple(indices), chosen)


class CaptionRows(Sequence[np.ndarray]):
    """For each image the rows of its captions, as views of one array.

    Args:
        caption_image: int64 (M,), the image of each caption.
        count: N, the number of images.
    """

    def __init__(self, caption_image: np.ndarray, count: int) -> None:
        self._order = np.argsort(caption_image, kind="stable")
        self._ends = np.cumsum(np.bincount(caption_image, minlength=count))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        """Rows of one image, ascending, int64; of several as a list."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = int(index) + len(self) if index < 0 else int(index)
        if not 0 <= place < len(self):
            raise IndexError(index)
        end = int(self._ends[place])
        return self._order[int(self._ends[place - 1]) if place else 0 : end]


@dataclass(frozen=True, eq=False)
class Pairs:
    """N images and their M captions: one split of one data source.

    Attributes:
        source: where the data came from, as the user wrote it.
        split: train, val or test.
        images: the N images, decoded on demand.
        captions: M non-empty texts, as in the source but for outer whitespace.
        caption_image: int64 (M,), the index in 0..N-1 of each caption's image; every image has a caption.
        notes: what was left out on the way, counted, one sentence each.
        accounts: of the source and of this split: what was seen, used and left out.
        classes: of a class set, the classes and the label of every image.
        vectors: of pairs that are given by their vectors, these.

    Raises:
        DataError: the parts do not fit together.
    """

    source: str
    split: str
    images: ImageStore
    captions: Sequence[str]
    caption_image: np.ndarray
    notes: tuple[str, ...] = ()
    accounts: tuple[Account, ...] = ()
    classes: Classes | None = None
    vectors: PairVectors | None = None

    def __post_init__(self) -> None:
        where = f"pairs of {self.source}, split {self.split!r}"
        count = len(self.images)
        if count == 0:
            raise DataError(f"{where}: no images; expected at least one.")
        if self.vectors is None:  # those of vectors are checked where they are read: ten million take a minute
            self._check_texts(where)
        image_of = np.array(self.caption_image)  # a copy: frozen below, whatever the caller does with theirs
        if image_of.shape != (len(self.captions),) or image_of.dtype.kind not in "iu":
            raise DataError(
                f"{where}: caption_image is {image_of.dtype} {image_of.shape}; expected integers "
                f"({len(self.captions)},), one per caption."
            )
        if image_of.size and (image_of.min() < 0 or image_of.max() >= count):
            raise DataError(f"{where}: caption_image runs {image_of.min()}..{image_of.max()}; expected 0..{count - 1}.")
        counts = np.bincount(image_of, minlength=count)
        if not counts.all():
            name = self.images.names[int(np.argmin(counts))]
            raise DataError(f"{where}: images without a caption: {int((counts == 0).sum())}, the first is {name}.")
        if self.classes is not None and (len(self.classes.labels) != count or self.classes.labels.min() < 0):
            raise DataError(f"{where}: {count} images, {len(self.classes.labels)} labels; expected one class each.")
        image_of = image_of.astype(np.int64)
        image_of.setflags(write=False)
        object.__setattr__(self, "caption_image", image_of)

    def _check_texts(self, where: str) -> None:
        """Refuse names that are not distinct, and captions that are empty."""
        count, distinct = len(self.images), len(set(self.images.names))
        if len(self.images.names) != count or distinct != count:
            raise DataError(f"{where}: {count} images, but {distinct} distinct names; expected one each.")
        for index, caption in enumerate(self.captions):
            if not isinstance(caption, str) or not caption.strip():
                raise DataError(f"{where}: caption {index} is {caption!r}; expected a text that is not empty.")

    @property
    def count_images(self) -> int:
        """N."""
        return len(self.images)

    @property
    def count_captions(self) -> int:
        """M."""
        return len(self.captions)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any image, name, caption, the order or the split; not with the place.

        Reads a little of every image once. Raises DataError when an image has gone meanwhile.
        """
        image_of = self.caption_image.astype("<i8").tobytes()
        if self.vectors is not None:
            return digest(self.split, self.vectors.fingerprint, *self._chunk_digests(), image_of)
        if len(self.images) > LARGE:
            return digest(self.split, *self._chunk_digests(), image_of)
        signatures = [self.images.signature(index).hex() for index in range(len(self.images))]
        return digest(self.split, list(self.images.names), signatures, self.captions, image_of)

    def _chunk_digests(self) -> Iterator[str]:
        """Hashes of images and captions a few thousand at a time: all signatures at once are 8 GB for a million."""
        for start in range(0, len(self.images), HASHED_AT_ONCE):
            rows = range(start, min(start + HASHED_AT_ONCE, len(self.images)))
            signatures = [self.images.signature(index).hex() for index in rows]
            yield digest(list(self.images.names[rows.start : rows.stop]), signatures)
        for start in range(0, len(self.captions), HASHED_AT_ONCE):
            yield digest(list(self.captions[start : start + HASHED_AT_ONCE]))

    @cached_property
    def image_captions(self) -> CaptionRows:
        """For each of the N images the int64 indices of its captions, ascending."""
        return CaptionRows(self.caption_image, len(self.images))

    @property
    def caption_keys(self) -> Sequence[Hashable]:
        """What is equal for captions that say the same: the texts, of a class set (M,) labels."""
        return self.captions if self.classes is None else self.classes.labels[self.caption_image].tolist()

    def select_images(self, indices: Iterable[int]) -> Pairs:
        """These images in this order with all their captions, which follow the order of the images.

        Raises:
            DataError: an index twice or out of range, or none at all.
        """
        chosen = [int(index) for index in indices]
        where = f"selecting images of {self.source}, split {self.split!r}"
        if not chosen:
            raise DataError(f"{where}: none chosen; expected at least one of {len(self.images):,}.")
        if len(set(chosen)) != len(chosen):
            raise DataError(f"{where}: an index is given twice; expected distinct images.")
        if min(chosen) < 0 or max(chosen) >= len(self.images):
            raise DataError(f"{where}: indices run {min(chosen)}..{max(chosen)}; expected 0..{len(self.images) - 1}.")
        groups = [self.image_captions[index] for index in chosen]
        rows = [int(caption) for group in groups for caption in group]
        return replace(
            self,
            images=choose(self.images, chosen),
            classes=self.classes and self.classes.select(chosen),
            captions=[self.captions[caption] for caption in rows],
            caption_image=np.repeat(np.arange(len(chosen)), [len(group) for group in groups]),
            vectors=self.vectors and self.vectors.select(np.array(chosen), np.array(rows)),
        )
