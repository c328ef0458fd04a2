"""Images in files and inside tar archives, decoded on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from vldistill.data.archives import tar_members
from vldistill.data.photos import PHOTO_LIMITS, PhotoLimits, decode
from vldistill.errors import DataError

if TYPE_CHECKING:
    from _typeshed import SupportsGetItem

TAIL_BYTES = 4096  # PNG and JPEG both end differently when their picture differs


class Place(NamedTuple):
    """Bytes of an image: a whole file, or ``size`` bytes of it from ``offset`` on (a member of a tar)."""

    path: Path
    offset: int = 0
    size: int | None = None


class TarPlaces:
    """Places in a few tars, 20 bytes each: as objects those of ten million photos would take 2 GB.

    Args:
        tars: the files.
        number: int32 (N,), which of them.
        offset: int64 (N,), where the image begins.
        size: int64 (N,), its bytes.
    """

    def __init__(self, tars: Sequence[Path], number: Iterable[int], offset: Iterable[int], size: Iterable[int]) -> None:
        self.tars = tuple(tars)
        self.number = np.array(number, np.int32)
        self.offset, self.size = np.array(offset, np.int64), np.array(size, np.int64)

    def __getitem__(self, index: int) -> Place:
        return Place(self.tars[self.number[index]], int(self.offset[index]), int(self.size[index]))


@dataclass(frozen=True)
class EncodedImages(ABC):
    """An image store over the bytes of image files; subclasses know where these are.

    Attributes:
        names: of the images.
        limits: what is too large.
    """

    names: tuple[str, ...]
    limits: PhotoLimits = field(default=PHOTO_LIMITS, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """See ImageStore."""

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """See ImageStore."""
        return decode(self.encoded(index), self.label(index), at_least, self.limits)

    def signature(self, index: int) -> bytes:
        """That of a file with the same bytes."""
        return signature_of(self.encoded(index))

    def label(self, index: int) -> str:
        """How messages name an image."""
        return f"image {self.names[index]}"


@dataclass(frozen=True)
class FileImages(EncodedImages):
    """An image store over files and tar members.

    A file is opened for each read and closed at once: nothing is shared between threads or processes, and an
    open costs little beside decoding. ``places[i]`` is None for an image that was not found.
    """

    places: SupportsGetItem[int, Place | None]

    def signature(self, index: int) -> bytes:
        """The byte size and the last 4 KB. Raises DataError when missing."""
        with self._opened(index) as (handle, place, size):
            length = min(size, TAIL_BYTES)
            handle.seek(place.offset + size - length)
            return size.to_bytes(8, "little") + handle.read(length)

    def encoded(self, index: int) -> bytes:
        """The file, or the member of the tar, as it is."""
        with self._opened(index) as (handle, place, size):
            self.limits.check_bytes(size, self.label(index))
            handle.seek(place.offset)
            raw = handle.read(size)
        if place.size is not None and len(raw) < size:
            raise DataError(f"{self.label(index)}: the tar has become shorter than it was. Make it again.")
        return raw

    def label(self, index: int) -> str:
        """How messages name an image."""
        place = self.places[index]
        return super().label(index) + (f" in {place.path}" if place and place.size is not None else "")

    @contextmanager
    def _opened(self, index: int) -> Iterator[tuple[IO[bytes], Place, int]]:
        """The file that an image is in, its place there and its bytes. Raises DataError."""
        place = self.places[index]
        if place is None:
            raise DataError(f"image {self.names[index]} is missing. Restore it, or take it out of the source.")
        try:
            with place.path.open("rb") as handle:
                yield handle, place, handle.seek(0, 2) if place.size is None else place.size
        except OSError as error:
            raise DataError(f"{self.label(index)}: {place.path} cannot be read ({error.strerror}).") from None


def signature_of(raw: bytes) -> bytes:
    """The signature that a file with these bytes has, whatever holds it."""
    return len(raw).to_bytes(8, "little") + raw[-TAIL_BYTES:]


def as_png(image: Image.Image) -> bytes:
    """The image as a PNG file, which keeps every pixel."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class TarIndex:
    """Where the regular files of one uncompressed tar are: name -> offset and size."""

    path: Path
    members: dict[str, tuple[int, int]]

    @cached_property
    def by_base(self) -> dict[str, list[str]]:
        """Base name -> the full names of the members that have it."""
        found: dict[str, list[str]] = {}
        for name in self.members:
            found.setdefault(PurePosixPath(name).name, []).append(name)
        return found


def tar_index(path: Path) -> TarIndex:
    """List a tar without extracting it; remembered while the file stays the same. Raises DataError."""
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"tar {path} cannot be read ({error.strerror}).") from None
    return _tar_index(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _tar_index(path: Path, size: int, changed: int) -> TarIndex:
    return TarIndex(path, {member.name: (member.offset, member.size) for member in tar_members(path)})


def find_in_tars(name: str, tars: Sequence[TarIndex]) -> Place | None:
    """The place of image ``name`` in the tars: the full path first, then the base name where it is unique.

    Raises:
        DataError: the name fits several members.
    """
    base = PurePosixPath(name).name
    exact = [(tar, name) for tar in tars if name in tar.members]
    found = exact or [(tar, full) for tar in tars for full in tar.by_base.get(base, ())]
    if len(found) > 1:
        places = ", ".join(f"{full} in {tar.path}" for tar, full in found[:3])
        raise DataError(f"image {name} fits several tar members: {places}. Expected one: remove or rename the others.")
    if not found:
        return None
    tar, full = found[0]
    offset, size = tar.members[full]
    return Place(tar.path, offset, size)
