"""Captions that say the same, letter by letter."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice

import numpy as np

from vldistill.config import SelectConfig
from vldistill.selection.duplicate import first_of_equal, register
from vldistill.selection.material import Material

AT_ONCE = 65_536


def caption_keys(captions: Iterable[str]) -> np.ndarray:
    """A hash (M, 16) of bytes of every caption, equal where captions differ in case and white space alone."""
    parts = [np.empty((0, 16), np.uint8)]
    left = iter(captions)
    while texts := list(islice(left, AT_ONCE)):
        plain = (" ".join(text.casefold().split()).encode("utf-8", "surrogatepass") for text in texts)
        raw = b"".join(blake2b(text, digest_size=16).digest() for text in plain)
        parts.append(np.frombuffer(raw, np.uint8).reshape(-1, 16))
    return np.concatenate(parts)


@register("caption", of="caption")
def caption(parts: list[tuple[Material, np.ndarray]], threshold: float, options: SelectConfig) -> np.ndarray:
    """Captions that are equal but for case and white space."""
    keys = [caption_keys(material.pairs.captions[int(row)] for row in rows) for material, rows in parts]
    return first_of_equal(np.concatenate(keys))
