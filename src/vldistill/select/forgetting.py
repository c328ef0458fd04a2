"""Forgetting: the pairs that a student learns and loses again (Toneva et al., ICLR 2019, arXiv 1812.05159)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.runtime.randomness import generator
from vldistill.select import WARMUP, Candidates, register
from vldistill.select.features import PairFeatures, first_of_each_image


@register("forgetting", drawn=True, reads=(*WARMUP, "gallery"))
def forgetting(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """The pairs that a warm-up forgets most often; ties, and there are many, are broken by the seed.

    After every epoch each pair is retrieved among a fixed gallery; it is forgotten where it is found no longer. Pairs
    that were never found were never forgotten: with captions they are mostly the ones that fit their image badly.
    """
    forgotten = candidates.forgotten
    shuffled = torch.randperm(len(forgotten), generator=generator(seed, "forgetting"))
    order = shuffled[forgotten[shuffled].argsort(descending=True, stable=True)]
    return first_of_each_image(order, candidates.caption_image, count)


def galleries(image_captions: Sequence[np.ndarray], size: int, seed: int) -> list[torch.Tensor]:
    """All captions in random groups of about ``size``, the captions of a group having distinct images.

    The first group takes one caption of each of ``size`` images, and so on; then the images' second captions are
    shared out. An image with more captions than all others has nothing to be confused with in the last groups.

    Returns:
        Rows (B,) int64 for each group; every caption is in exactly one.
    """
    draw = generator(seed, "galleries")
    shuffled = [own[torch.randperm(len(own), generator=draw).numpy()] for own in image_captions]
    groups: list[torch.Tensor] = []
    for turn in range(max(map(len, shuffled))):
        rows = torch.tensor([int(own[turn]) for own in shuffled if len(own) > turn])
        rows = rows[torch.randperm(len(rows), generator=draw)]
        groups += rows.tensor_split(-(-len(rows) // size))
    return groups


def found(features: PairFeatures, groups: list[torch.Tensor]) -> torch.Tensor:
    """Whether each pair comes first in its gallery both ways, (M,) bool; a tie counts against it."""
    out = torch.zeros(len(features), dtype=torch.bool)
    for rows in groups:
        scores = features.images[features.caption_image[rows]].float() @ features.texts[rows].float().T
        own = scores.diagonal()
        ahead = (scores >= own[:, None]).sum(1), (scores >= own[None, :]).sum(0)
        out[rows] = (ahead[0] == 1) & (ahead[1] == 1)
    return out


def count_forgotten(seen: torch.Tensor) -> torch.Tensor:
    """How often each pair goes from found to not found; ``seen`` (E, M) bool by epoch, the result (M,) int64."""
    return (seen[:-1] & ~seen[1:]).sum(0)
