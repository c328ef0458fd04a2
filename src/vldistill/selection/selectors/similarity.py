"""Similarity-score filtering: keep the pairs whose image and text agree most, as for web-scale data."""

from __future__ import annotations

import torch

from vldistill.config import SelectConfig
from vldistill.selection.features import first_of_each_image
from vldistill.selection.selector import WARMUP, Candidates, register


@register("similarity", drawn=False, nested=True, reads=WARMUP)
def similarity(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """The pairs whose image and text agree most (cosine) in a warmed-up student's space, each image's best caption."""
    features = candidates.student
    order = features.agreement().argsort(descending=True, stable=True)
    return first_of_each_image(order, features.caption_image, count)
