"""The aspect ratio of a photo."""

from __future__ import annotations

import numpy as np

from vldistill.selection.filter import register
from vldistill.selection.material import Material


@register("aspect", of="image")
def aspect(material: Material) -> np.ndarray:
    """The longer side of the photo divided by the shorter one: 1 for a square."""
    return material.sizes.max(1) / np.maximum(material.sizes.min(1), 1)
