"""Forgetting: the pairs that a student learns and forgets again (Toneva et al., ICLR 2019, arXiv 1812.05159)."""

from __future__ import annotations

import torch

from vldistill.config import SelectConfig
from vldistill.runtime.randomness import generator
from vldistill.selection.features import first_of_each_image
from vldistill.selection.selector import WARMUP, Candidates, register


@register("forgetting", drawn=True, nested=True, reads=WARMUP)
def forgetting(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """The pairs that a warm-up forgets most often; the many ties are broken at random.

    After every epoch each pair is retrieved in a fixed gallery; it is forgotten when it was found before and no longer
    is. Pairs never found are never forgotten: they are mostly captions that fit their image badly.
    """
    forgotten = candidates.forgotten
    shuffled = torch.randperm(len(forgotten), generator=generator(seed, "forgetting"))
    order = shuffled[forgotten[shuffled].argsort(descending=True, stable=True)]
    return first_of_each_image(order, candidates.caption_image, count)
