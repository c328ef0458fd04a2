"""Photos whose files are the same bytes."""

from __future__ import annotations

import numpy as np

from vldistill.config import SelectConfig
from vldistill.selection.duplicate import first_of_equal, register
from vldistill.selection.material import Material


@register("exact")
def exact(parts: list[tuple[Material, np.ndarray]], threshold: float, options: SelectConfig) -> np.ndarray:
    """Photos whose files have the same sha256."""
    return first_of_equal(np.concatenate([material.hashes[rows] for material, rows in parts]))
