"""Images in files and inside tar archives, decoded on demand."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from vldistill.errors import DataError

TAIL_BYTES = 4096  # PNG and JPEG both end differently when their picture differs
# Raster formats only: Pillow would also hand PostScript to an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Place(NamedTuple):
    """Bytes of an image: a whole file, or ``size`` bytes of it from ``offset`` on (a member of a tar)."""

    path: Path
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class FileImages:
    """An image store over files and tar members.

    A file is opened for each read and closed at once: nothing is shared between threads or processes, and an
    open costs little beside decoding. ``places[i]`` is None for an image that was not found.
    """

    names: tuple[str, ...]
    places: tuple[Place | None, ...]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """See ImageStore."""
        return decode(self._bytes(index), self._label(index), at_least)

    def signature(self, index: int) -> bytes:
        """The byte size and the last 4 KB. Raises DataError when missing."""
        size, tail = self._bytes_at_end(index)
        return size.to_bytes(8, "little") + tail

    def encoded(self, index: int) -> bytes:
        """The file, or the member of the tar, as it is."""
        return self._bytes(index)

    def _label(self, index: int) -> str:
        place = self.places[index]
        return f"image {self.names[index]}" + (f" in {place.path}" if place and place.size is not None else "")

    def _bytes(self, index: int) -> bytes:
        place = self._place(index)
        try:
            with place.path.open("rb") as handle:
                handle.seek(place.offset)
                raw = handle.read(-1 if place.size is None else place.size)
        except OSError as error:
            raise DataError(f"{self._label(index)}: {place.path} cannot be read ({error.strerror}).") from None
        if place.size is not None and len(raw) < place.size:
            raise DataError(f"{self._label(index)}: the tar has become shorter than it was. Make it again.")
        return raw

    def _bytes_at_end(self, index: int) -> tuple[int, bytes]:
        place = self._place(index)
        try:
            with place.path.open("rb") as handle:
                size = handle.seek(0, 2) if place.size is None else place.size
                length = min(size, TAIL_BYTES)
                handle.seek(place.offset + size - length)
                return size, handle.read(length)
        except OSError as error:
            raise DataError(f"{self._label(index)}: {place.path} cannot be read ({error.strerror}).") from None

    def _place(self, index: int) -> Place:
        place = self.places[index]
        if place is None:
            raise DataError(f"image {self.names[index]} is missing. Restore it, or take it out of the source.")
        return place


def signature_of(raw: bytes) -> bytes:
    """The signature that a file with these bytes has, whatever holds it."""
    return len(raw).to_bytes(8, "little") + raw[-TAIL_BYTES:]


def as_png(image: Image.Image) -> bytes:
    """The image as a PNG file, which keeps every pixel."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode(raw: bytes, label: str, at_least: int = 0) -> Image.Image:
    """Decode an encoded image to upright RGB.

    Args:
        raw: the encoded bytes, PNG, JPEG or another raster format.
        label: how messages name it.
        at_least: see ImageStore.read.

    Raises:
        DataError: broken, truncated, empty, of another format, or with more pixels than Image.MAX_IMAGE_PIXELS.
    """
    giant = f"{label}: more than {Image.MAX_IMAGE_PIXELS:,} pixels. Make it smaller." if Image.MAX_IMAGE_PIXELS else ""
    try:
        with Image.open(BytesIO(raw), formats=_formats()) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise DataError(f"{giant} It is {image.width} x {image.height}.")
            if at_least:
                image.draft(None, (2 * at_least, 2 * at_least))  # twice: the rest is done by a good filter
            image.load()
            return _rgb(_upright(image))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(giant) from None
    except Exception as error:  # decoders raise nearly anything on broken bytes
        known = "of no known image format" if isinstance(error, UnidentifiedImageError) else str(error)
        reason = known if raw else "empty"
        raise DataError(
            f"{label} is not a readable image ({reason}). Replace it, or take it out of the source."
        ) from None


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says; broken EXIF data is no reason to lose a photo."""
    try:
        method = UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:
        method = None
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; transparency is dropped, 16-bit greys are scaled, not clipped."""
    if image.mode == "RGB":
        return image.copy()  # the original closes with its file
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclass(frozen=True)
class TarIndex:
    """The members of one uncompressed tar: regular files with safe names, and why others are refused."""

    path: Path
    members: dict[str, tuple[int, int]]
    refused: dict[str, str]

    @cached_property
    def by_base(self) -> dict[str, list[str]]:
        """Base name -> the full names of the regular members that have it."""
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
    members: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isdir():
                    continue
                if name.is_absolute() or ".." in name.parts:
                    refused[name.name] = f"its path in the tar is {member.name!r}, which leads outside"
                elif not member.isreg() or member.issparse():
                    kind = "link" if member.islnk() or member.issym() else "device or special file"
                    refused[str(name)] = refused[name.name] = f"it is a {kind} in the tar, not a regular file"
                else:
                    members[str(name)] = (member.offset_data, member.size)
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"tar {path} cannot be read ({error}). Expected an uncompressed, complete tar: "
            f"decompress it (gunzip, zstd -d), or copy it again."
        ) from None
    return TarIndex(path, members, refused)


def find_in_tars(name: str, tars: Sequence[TarIndex]) -> Place | None:
    """The place of image ``name`` in the tars: the full path first, then the base name where it is unique.

    Raises:
        DataError: the name fits several members, or only one that is refused.
    """
    base = PurePosixPath(name).name
    exact = [(tar, name) for tar in tars if name in tar.members]
    found = exact or [(tar, full) for tar in tars for full in tar.by_base.get(base, ())]
    if len(found) > 1:
        places = ", ".join(f"{full} in {tar.path}" for tar, full in found[:3])
        raise DataError(f"image {name} fits several tar members: {places}. Expected one: remove or rename the others.")
    if found:
        tar, full = found[0]
        offset, size = tar.members[full]
        return Place(tar.path, offset, size)
    for tar in tars:
        reason = tar.refused.get(name) or tar.refused.get(base)
        if reason:
            raise DataError(f"image {name} in {tar.path} is refused: {reason}. Make the tar from plain files.")
    return None
