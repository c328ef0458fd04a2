"""The characters of a caption."""

from __future__ import annotations

import numpy as np

from vldistill.selection.filter import register
from vldistill.selection.material import Material


@register("characters", of="caption")
def characters(material: Material) -> np.ndarray:
    """The number of characters of the caption."""
    captions = material.pairs.captions
    return np.fromiter(map(len, captions), np.float64, len(captions))
