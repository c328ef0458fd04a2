"""How well image and caption agree, by a student that was warmed up on the training pairs."""

from __future__ import annotations

import numpy as np

from vldistill.selection.filter import register
from vldistill.selection.material import Material


@register("score", of="caption", costly=True)
def score(material: Material) -> np.ndarray:
    """The cosine of image and caption by a student after a warm-up on all training pairs (select.warmup_*)."""
    return material.student.agreement().double().numpy()
