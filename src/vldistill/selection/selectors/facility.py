"""Facility location: pairs that represent a random part of the data, by lazy greedy (Minoux, 1978)."""

from __future__ import annotations

import torch

from vldistill.config import SelectConfig
from vldistill.selection.features import draw_captions
from vldistill.selection.selector import WARMUP, Candidates, register

BLOCK = 512  # rows of the similarity computed at a time
REFRESH = 32  # gains recomputed together


@register("facility", drawn=True, nested=True, reads=(*WARMUP, "ground_set"))
def facility(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """Facility location on a random ground set of ``ground_set`` pairs with distinct images.

    Maximises the sum over the ground set of the largest similarity to a chosen pair, greedily; the similarity of two
    pairs is the mean of the cosines of their images and of their texts in a warmed-up student's space.
    """
    captions = candidates.image_captions
    ground = draw_captions(captions, min(options.ground_set, len(captions)), seed)
    joined = candidates.student.joined(ground)  # the features of all pairs are freed
    return ground[lazy_greedy(pair_similarity(joined), count)]


def pair_similarity(joined: torch.Tensor) -> torch.Tensor:
    """The similarity of all pairs with ``joined`` vectors (G, 2 D), (G, G) float16: 0.8 GB for 20,000 pairs."""
    out = torch.empty(len(joined), len(joined), dtype=torch.float16)
    for start in range(0, len(joined), BLOCK):
        out[start : start + BLOCK] = (joined[start : start + BLOCK] @ joined.T).div_(2)
    return out


def lazy_greedy(similarity: torch.Tensor, count: int) -> torch.Tensor:
    """The greedy choice for facility location, (count,) int64, in order.

    Gains can only shrink as more is covered, so an old gain is an upper bound: only the candidates with the largest old
    gains are recomputed, until the best one is up to date. The best one is always among them, even with ties.

    Args:
        similarity: (G, G) of candidates (rows) and elements to cover (columns), each at least -1.
        count: at most G.
    """
    covered = torch.full((similarity.shape[1],), -1.0)  # the smallest cosine: the first pick has the largest row sum
    gain = torch.cat([_gains(part, covered) for part in similarity.split(BLOCK)])
    computed_at = torch.zeros(len(gain), dtype=torch.int64)
    chosen = []
    for turn in range(count):
        while computed_at[best := int(gain.argmax())] < turn:
            top = gain.topk(min(REFRESH, len(gain))).indices
            others = top[(computed_at[top] < turn) & gain[top].isfinite() & (top != best)]
            stale = torch.cat([torch.tensor([best]), others])
            gain[stale] = _gains(similarity[stale], covered)
            computed_at[stale] = turn
        chosen.append(best)
        torch.maximum(covered, similarity[best].float(), out=covered)
        gain[best] = -torch.inf
    return torch.tensor(chosen)


def _gains(similarity: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """The increase of the sum of largest similarities by each row, (B,) float32."""
    return (similarity.float() - covered).clamp_(min=0).sum(1)
