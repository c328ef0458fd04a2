"""Forgetting: the pairs that a student learns and loses again (Toneva et al., ICLR 2019, arXiv 1812.05159)."""

from __future__ import annotations

import torch

from vldistill.config import SelectConfig
from vldistill.runtime.randomness import generator
from vldistill.selection.features import first_of_each_image
from vldistill.selection.selector import WARMUP, Candidates, register


@register("forgetting", drawn=True, reads=WARMUP)
def forgetting(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """The pairs that a warm-up forgets most often; ties, and there are many, are broken by the seed.

    After every epoch each pair is retrieved among a fixed gallery; it is forgotten where it is found no longer. Pairs
    that were never found were never forgotten: with captions they are mostly the ones that fit their image badly.
    """
    forgotten = candidates.forgotten
    shuffled = torch.randperm(len(forgotten), generator=generator(seed, "forgetting"))
    order = shuffled[forgotten[shuffled].argsort(descending=True, stable=True)]
    return first_of_each_image(order, candidates.caption_image, count)
