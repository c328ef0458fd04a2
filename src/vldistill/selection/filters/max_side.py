"""The longer side of a photo."""

from __future__ import annotations

import numpy as np

from vldistill.selection.filter import register
from vldistill.selection.material import Material


@register("max_side", of="image")
def max_side(material: Material) -> np.ndarray:
    """The longer side of the photo in pixels, as its file has it."""
    return material.sizes.max(1).astype(np.float64)
