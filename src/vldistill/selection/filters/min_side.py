"""The shorter side of a photo."""

from __future__ import annotations

import numpy as np

from vldistill.selection.filter import register
from vldistill.selection.material import Material


@register("min_side", of="image")
def min_side(material: Material) -> np.ndarray:
    """The shorter side of the photo in pixels, as its file has it."""
    return material.sizes.min(1).astype(np.float64)
