"""How well image and caption agree, by frozen towers that share a space."""

from __future__ import annotations

import numpy as np

from vldistill.selection.filter import register
from vldistill.selection.material import Material


@register(
    "tower_score", of="caption", costly=True, check=lambda material: material.bench.check_shared_space("tower_score")
)
def tower_score(material: Material) -> np.ndarray:
    """The cosine of image and caption by the frozen towers, which have to be those of one CLIP model."""
    return material.bench.tower_agreement(material.split)
