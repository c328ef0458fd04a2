"""k-center: every pair is close to a chosen one (Sener and Savarese, ICLR 2018, arXiv 1708.00489; greedy)."""

from __future__ import annotations

import torch

from vldistill.config import SelectConfig
from vldistill.selection.selector import WARMUP, Candidates, register


@register("kcenter", drawn=False, nested=True, reads=WARMUP)
def kcenter(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """Greedily the pair farthest from all chosen pairs, in a warmed-up student's space; the most central pair first.

    A pair is the sum z = u + t of its normalised embeddings, as in MDM (arXiv 2605.23482), and distances are
    Euclidean. The first pair is the one nearest to the mean, so that no seed is needed.
    """
    features = candidates.student
    squares = features.square_norms() + 2 * features.agreement()
    image_mean, text_mean = features.mean()
    centre = image_mean + text_mean
    first = int((squares - 2 * features.project(centre, centre)).argmin())
    gap = torch.full((len(features),), torch.inf)
    chosen = [first]
    while True:
        best = chosen[-1]
        image = int(features.caption_image[best])
        z = features.images[image].float() + features.texts[best].float()
        torch.minimum(gap, squares + squares[best] - 2 * features.project(z, z), out=gap)
        gap[torch.from_numpy(candidates.image_captions[image])] = -torch.inf
        if len(chosen) == count:
            return torch.tensor(chosen)
        chosen.append(int(gap.argmax()))
