"""The words of a caption."""

from __future__ import annotations

import numpy as np

from vldistill.selection.filter import register
from vldistill.selection.material import Material


@register("words", of="caption")
def words(material: Material) -> np.ndarray:
    """The number of words of the caption, separated by white space."""
    captions = material.pairs.captions
    return np.fromiter((len(caption.split()) for caption in captions), np.float64, len(captions))
