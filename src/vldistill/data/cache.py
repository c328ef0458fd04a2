"""Images decoded once: a memory-mapped uint8 array per (pairs, size), shared by every later run and process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from vldistill.data.pairs import Pairs
from vldistill.errors import ArtefactError, DataError, VldistillError
from vldistill.storage.arrays import open_array
from vldistill.storage.checked_rows import DIGEST_BYTES, CheckedRows, row_digest
from vldistill.storage.files import atomic, digest, human_bytes, read_json, require_space, storage_errors, write_record
from vldistill.version import __version__

DECODED_AT_ONCE = 256  # images decoded between two writes; bounds the memory
BLOCK = 65536  # bytes at the end of the array that the checksum covers
HEADER_BYTES = 128  # of an .npy file of this kind; numpy pads it, whatever the number of images

Progress = Callable[[int, int], None]


class Pixels(Protocol):
    """Decoded images (N, 3, S, S) uint8, by row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, S, S)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows as numpy gives them. Raises DataError, or DamagedError for a row that was changed."""
        ...


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Decoded images and the pairs they belong to.

    Attributes:
        pairs: the requested pairs, less those whose image is broken.
        array: uint8 (N, 3, size, size), RGB, read-only memory map; row i is image i of ``pairs``. A row is checked
            when it is first read.
        broken: names of the images left out.
    """

    pairs: Pairs
    array: Pixels
    broken: tuple[str, ...]


def open_images(
    pairs: Pairs, size: int, folder: Path, *, strict: bool = False, progress: Progress | None = None
) -> DecodedImages:
    """Decode the images of ``pairs`` once, or open what an earlier call decoded.

    Each image is turned upright (EXIF), converted to RGB and resized straight to ``size`` x ``size`` with a
    bicubic filter: the convention of the field, which does not keep the aspect ratio. Processes that build the
    same array at the same time each write their own and rename it into place, so the last one wins unharmed.

    Args:
        pairs: what to decode.
        size: side in pixels, from 1 on.
        folder: the cache; the array goes to ``folder/images-{fingerprint}-{size}/images.npy``.
        strict: refuse broken images instead of leaving them out.
        progress: called with (images done, images in all) while decoding.

    Raises:
        DataError: every image is broken, or one is and ``strict`` is set.
        VldistillError: the disk is too small.
    """
    if size < 1:
        raise DataError(f"image size {size}: expected at least 1 pixel.")
    place = folder / f"images-{pairs.fingerprint}-{size}"
    broken, digests = _valid(place, pairs, size) or _build(place, pairs, size, progress)
    where = f"{pairs.source}, split {pairs.split!r}"
    if broken:
        shown = "; ".join(list(broken.values())[:3])
        if len(broken) == pairs.count_images:
            raise DataError(f"{where}: all {len(broken):,} images are broken: {shown}")
        if strict:
            raise DataError(f"{where}: broken images: {len(broken):,}, and --strict refuses them: {shown}")
        pairs = _without(pairs, broken)
    array = open_array(place / "images.npy", where)
    if array.shape != (pairs.count_images, 3, size, size):  # another process met other broken ones
        raise DataError(f"{where}: images changed while {place} was written. Run the command again.")
    rows = CheckedRows(array, digests or None, place / "images.npy")
    return DecodedImages(pairs, rows, tuple(broken))


class _NoPixels:
    """Where pictures would be, of pairs that are given by their vectors."""

    def __init__(self, pairs: Pairs) -> None:
        self._source, self.shape = pairs.source, (pairs.count_images, 3, 0, 0)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Refuse. Raises DataError."""
        raise DataError(f"{self._source} holds vectors and no pixels, which this needs. Give photos and captions.")


def undecoded(pairs: Pairs) -> DecodedImages:
    """Pairs that are given by their vectors, without pixels: reading any is a DataError."""
    return DecodedImages(pairs, _NoPixels(pairs), ())


def _without(pairs: Pairs, broken: dict[str, str]) -> Pairs:
    """The pairs less the broken images, with a counted note."""
    kept = [index for index, name in enumerate(pairs.images.names) if name not in broken]
    shown = ", ".join(list(broken)[:3]) + (", ..." if len(broken) > 3 else "")
    note = f"{len(broken):,} broken image{'s' if len(broken) > 1 else ''} left out ({shown})"
    return replace(pairs.select_images(kept), notes=(*pairs.notes, note))


def _valid(place: Path, pairs: Pairs, size: int) -> tuple[dict[str, str], bytes] | None:
    """Of a finished array name -> reason of the broken images, and the digests of its rows; None: (re)build it."""
    try:
        about = read_json(place / "images.json", "decoded images")
        broken = {str(name): str(reason) for name, reason in about["broken"].items()}
        if not broken.keys() <= set(pairs.images.names):
            return None
        if broken and about.get("limits") != _limits(pairs):  # what was too large then may be fine now
            return None
        rows = pairs.count_images - len(broken)
        if rows == 0:
            return broken, b""
        digests = bytes.fromhex(about.get("rows", ""))
        if len(digests) not in (0, DIGEST_BYTES * rows):
            return None
        expected = HEADER_BYTES + rows * 3 * size * size
        path = place / "images.npy"
        if about["bytes"] == expected == path.stat().st_size and about["checksum"] == _checksum(path):
            return broken, digests
    except (ArtefactError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # missing, half copied or edited: decoding again is the remedy
    return None


def _limits(pairs: Pairs) -> list[int] | None:
    """Largest pixels and bytes of a photo; None where the images have no limits."""
    limits = getattr(pairs.images, "limits", None)
    return limits and [limits.pixels, limits.bytes]


def _checksum(path: Path) -> str:
    """A hash of the header and of the last block."""
    with path.open("rb") as handle:
        header = handle.read(HEADER_BYTES)
        handle.seek(max(0, path.stat().st_size - BLOCK))
        return digest(header, handle.read(BLOCK))


def _build(place: Path, pairs: Pairs, size: int, progress: Progress | None) -> tuple[dict[str, str], bytes]:
    """Decode everything into ``place``; as :func:`_valid`, name -> reason of the broken images, which get no row."""
    needed = HEADER_BYTES + pairs.count_images * 3 * size * size
    what = f"decoding {pairs.count_images:,} images at {size} x {size} pixels"
    require_space(place, needed, what)
    with storage_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    broken: dict[str, str] = {}
    digests = bytearray()
    path = place / "images.npy"
    try:
        with atomic(path) as temporary:
            with temporary.open("wb") as handle:
                handle.write(bytes(HEADER_BYTES))
                for name, row in _decoded(pairs, size, progress):
                    if isinstance(row, str):
                        broken[name] = row
                    else:
                        handle.write(row.data)
                        digests += row_digest(row)
                _write_header(handle, pairs.count_images - len(broken), size)
            about = {
                "images": pairs.count_images,
                "size": size,
                "bytes": temporary.stat().st_size,
                "checksum": _checksum(temporary),
                "broken": broken,
                "rows": digests.hex(),
                "version": __version__,
                "limits": _limits(pairs),
            }
        write_record(place / "images.json", about)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise VldistillError(f"{what}: the disk of {place} filled up; {human_bytes(needed)} are needed.") from None
    return broken, bytes(digests)


def _write_header(handle: IO[bytes], rows: int, size: int) -> None:
    """Put the .npy header into the space kept for it."""
    handle.seek(0)
    header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (rows, 3, size, size)}
    np.lib.format.write_array_header_1_0(handle, header)
    if handle.tell() != HEADER_BYTES:
        raise AssertionError(f"numpy wrote {handle.tell()} bytes of header; expected {HEADER_BYTES}.")


def _decoded(pairs: Pairs, size: int, progress: Progress | None) -> Iterator[tuple[str, np.ndarray | str]]:
    """Every image's name with its uint8 (3, size, size) array, or with the reason why there is none, in order."""
    count = pairs.count_images
    # Pillow decodes and resizes without the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(16, max(2, os.cpu_count() or 2))) as pool:
        for start in range(0, count, DECODED_AT_ONCE):
            indices = range(start, min(start + DECODED_AT_ONCE, count))
            for index, row in zip(indices, pool.map(partial(_decode, pairs, size), indices), strict=True):
                yield pairs.images.names[index], row
            if progress is not None:
                progress(indices.stop, count)


def _decode(pairs: Pairs, size: int, index: int) -> np.ndarray | str:
    """One image as uint8 (3, size, size), contiguous, or the reason why there is none."""
    try:
        image = pairs.images.read(index, size)
    except DataError as error:
        return str(error)
    return squashed(image, size)


def squashed(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image as uint8 (3, size, size), contiguous; the aspect ratio is not kept, as in the field."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
