"""Random pairs: the baseline of every table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.runtime.randomness import generator
from vldistill.select import Candidates, register


def draw_captions(image_captions: Sequence[np.ndarray], count: int, seed: int) -> torch.Tensor:
    """One random caption of each of ``count`` random images: rows (count,) int64."""
    draw = generator(seed, "pairs")
    images = torch.randperm(len(image_captions), generator=draw)[:count]
    captions = []
    for image in images.tolist():
        own = image_captions[image]
        captions.append(int(own[int(torch.randint(len(own), (), generator=draw))]))
    return torch.tensor(captions)


@register("random", drawn=True)
def random(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """Random pairs of distinct images, new for each seed."""
    return draw_captions(candidates.image_captions, count, seed)
