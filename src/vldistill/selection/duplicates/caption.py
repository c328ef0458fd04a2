"""Captions that say the same, letter by letter."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from vldistill.config import SelectConfig
from vldistill.selection.duplicate import first_of_equal, register
from vldistill.selection.material import Material


def caption_keys(captions: Iterable[str]) -> np.ndarray:
    """A hash of 16 bytes of every caption, equal where captions differ in case and white space alone."""
    plain = (" ".join(caption.casefold().split()).encode("utf-8", "surrogatepass") for caption in captions)
    return np.fromiter((blake2b(text, digest_size=16).digest() for text in plain), "V16")


@register("caption", of="caption")
def caption(parts: list[tuple[Material, np.ndarray]], threshold: float, options: SelectConfig) -> np.ndarray:
    """Captions that are equal but for case and white space."""
    keys = [caption_keys(material.pairs.captions[row] for row in rows.tolist()) for material, rows in parts]
    return first_of_equal(np.concatenate(keys))
