"""Herding: pairs whose mean follows the mean of all (Welling, "Herding dynamical weights to learn", ICML 2009)."""

from __future__ import annotations

import torch

from vldistill.config import SelectConfig
from vldistill.selection.selector import WARMUP, Candidates, register


@register("herding", drawn=False, nested=True, reads=WARMUP)
def herding(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """Greedily the pair that moves the chosen pairs' mean closest to the mean of all, in a warmed-up student's space.

    Image and text embeddings are normalised and joined, as in MDM (arXiv 2605.23482). With mu the mean of all pairs and
    s the sum of the k - 1 chosen ones, |mu - (s + x) / k|^2 is smallest where <k mu - s, x> - |x|^2 / 2 is largest.
    """
    features = candidates.student
    toward = features.project(*features.mean())
    score = toward - features.square_norms() / 2
    chosen = []
    for _ in range(count):
        best = int(score.argmax())
        chosen.append(best)
        own = features.joined(torch.tensor([best]))[0]
        score += toward - features.project(*features.split(own))
        score[torch.from_numpy(candidates.image_captions[int(features.caption_image[best])])] = -torch.inf
    return torch.tensor(chosen)
