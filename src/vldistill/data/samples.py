"""What image-text samples are made of, in a folder or in a WebDataset tar: suffixes, and the json beside an image."""

from __future__ import annotations

from typing import Any

from vldistill.data.columns import texts_of
from vldistill.data.jsonfile import kind
from vldistill.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
CAPTION_KEYS = ("captions", "caption", "text", "title", "txt")


def captions_of_json(value: Any, where: str, key: str = "") -> list[str]:
    """The captions in the json of a sample: an object with ``captions`` or ``caption``, or the key asked for.

    Raises:
        DataError: no object, or captions that are no texts.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where} is {kind(value)}; expected an object with 'caption' or 'captions'.")
    found = next((name for name in ((key,) if key else CAPTION_KEYS) if value.get(name)), None)
    return [] if found is None else texts_of(value[found], where)
