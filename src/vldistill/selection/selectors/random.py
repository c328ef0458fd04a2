"""Random pairs: the baseline of every table."""

from __future__ import annotations

import torch

from vldistill.config import SelectConfig
from vldistill.selection.features import draw_captions
from vldistill.selection.selector import Candidates, register


@register("random", drawn=True, nested=True)
def random(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """Random pairs of distinct images, new for each seed; of a class set as many of each class."""
    return draw_captions(candidates.image_captions, count, seed, candidates.labels)
