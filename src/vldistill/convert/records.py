"""What is written: the images of each split with their file names, bytes and captions, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from vldistill.config.plain import Plain
from vldistill.data.pairs import Pairs
from vldistill.data.photos import PHOTO_LIMITS, decode, format_of
from vldistill.data.places import safe_name
from vldistill.data.samples import IMAGE_SUFFIXES
from vldistill.errors import DataError
from vldistill.runtime.log import Progress

SUFFIX_OF = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
CHECKED_AT = 32  # size in pixels at which photos are decoded to check them: a large JPEG takes a millisecond
LONGEST = 200  # bytes of one part of a path: file systems allow 255, and a suffix is added


@dataclass(frozen=True)
class Export:
    """Pairs to write.

    Attributes:
        source: where they come from.
        splits: split -> pairs.
        lossy: what is lost in comparison with the source; empty if nothing.
        about: for sets: method, seed, towers, ...
        notes: what was left out or not converted.
    """

    source: str
    splits: Mapping[str, Pairs]
    lossy: str = ""
    about: Mapping[str, Plain] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Record(NamedTuple):
    """One image: its name in the source, a safe relative file name unique in the split, its bytes and captions."""

    name: str
    file: str
    raw: bytes
    captions: list[str]


def files_to_write(
    pairs: Pairs, broken: list[str], counts: dict[str, int], bar: Progress, *, strict: bool, elsewhere: set[str]
) -> Iterator[Record]:
    """The images of a split in order.

    Args:
        pairs: of the split.
        broken: a message is appended for every image that cannot be read; the image is left out.
        counts: filled with the number of ``images`` and ``captions`` so far.
        bar: advances with every image.
        strict: refuse images that cannot be read.
        elsewhere: names of images of other splits; the names of this split are added. An image with such a name
            becomes ``SPLIT/NAME``, because readers identify images by name.

    Raises:
        DataError: an image cannot be read, with ``strict``; or the source holds vectors.
    """
    if pairs.vectors is not None:
        raise DataError(f"{pairs.source} holds vectors, and photos are written here. Copy its files as they are.")
    counts |= {"images": 0, "captions": 0}
    taken: set[str] = set()
    limits = getattr(pairs.images, "limits", None) or PHOTO_LIMITS
    for index, name in enumerate(pairs.images.names):
        bar.advance()
        try:
            raw = pairs.images.encoded(index)
            decode(raw, f"image {name}", CHECKED_AT, limits)  # a truncated file has a valid header
            kind = format_of(raw, f"image {name}")
        except DataError as error:
            if strict:
                raise
            broken.append(str(error))
            continue
        captions = [pairs.captions[int(row)] for row in pairs.image_captions[index]]
        counts["images"] += 1
        counts["captions"] += len(captions)
        own = f"{pairs.split}/{name}" if name in elsewhere else name
        yield Record(own, _file_name(name, SUFFIX_OF.get(kind, f".{kind.lower()}"), index, taken), raw, captions)
    elsewhere |= set(pairs.images.names)


def _file_name(name: str, suffix: str, index: int, taken: set[str]) -> str:
    """``name`` as a relative path with a suffix; its stem is unique, also without regard to case."""
    try:
        path = PurePosixPath(safe_name("", name))
        if any(len(part.encode()) > LONGEST for part in path.parts):
            raise DataError("")
    except DataError:
        path = PurePosixPath(f"{index:08d}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        path, suffix = path.with_suffix(""), path.suffix
    stem, number = path, 1
    while str(stem).casefold() in taken:
        number += 1
        stem = path.with_name(f"{path.name}-{number}")
    taken.add(str(stem).casefold())
    return f"{stem}{suffix}"
