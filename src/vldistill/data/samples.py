"""What image-text samples are made of, in a folder or in a WebDataset tar: suffixes, and the json beside an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from vldistill.data.columns import texts_of
from vldistill.data.jsonfile import kind
from vldistill.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".jp2",
        ".j2k",
        ".ppm",
    }
    | {".pgm", ".heic", ".heif"}
)
TEXT_SUFFIXES = frozenset({".txt", ".json", ".caption", ".cap"})
CAPTION_KEYS = ("captions", "caption", "text", "title", "txt")


HIDDEN = "hidden, or metadata of a system"


def is_hidden(parts: Sequence[str]) -> bool:
    """Whether a path is hidden, or what systems put beside photos: .ipynb_checkpoints, __MACOSX, Synology's @eaDir."""
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in parts)


def key_of(name: str) -> tuple[str, str]:
    """A member's name to its last dot, and its suffix in lower case."""
    pure = PurePosixPath(name)
    return str(pure.with_suffix("")), pure.suffix.lower()


def captions_of_json(value: Any, where: str, key: str = "") -> list[str]:
    """The captions in the json of a sample: an object with ``captions`` or ``caption``, or the key named.

    Raises:
        DataError: not an object, or captions that are not texts.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where} is {kind(value)}; expected an object with 'caption' or 'captions'.")
    found = next((name for name in ((key,) if key else CAPTION_KEYS) if value.get(name)), None)
    return [] if found is None else texts_of(value[found], where)
