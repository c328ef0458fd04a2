"""k-means prototypes: the real pair nearest to each cluster centre (as MDM starts, arXiv 2605.23482)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.runtime.randomness import generator
from vldistill.selection.features import PairFeatures
from vldistill.selection.selector import Candidates, register

SHORTLIST = 16  # nearest pairs kept for each centre: the next ones are used if an image is taken
PAIRS_AT_ONCE = 4096  # pairs compared with all centres at a time


@register("kmeans", drawn=True, reads=("cluster_sample",))
def kmeans(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """The pair nearest to each k-means centre of the frozen towers' joined features; one centre per chosen pair.

    Centres are fitted to at most ``cluster_sample`` random pairs; the nearest pair is searched among all pairs. If the
    image of a pair is taken, the next nearest pair is used.
    """
    rows = torch.arange(len(candidates.caption_image))
    if len(rows) > options.cluster_sample:
        rows = torch.randperm(len(rows), generator=generator(seed, "clusters"))[: options.cluster_sample]
    centres = _centres(candidates.towers.joined(rows), count, seed)  # the features of all pairs are freed
    return nearest_distinct(candidates.towers, centres, candidates.image_captions)


def _centres(joined: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, random_state=seed % 2**32, batch_size=4096, n_init="auto").fit(joined.numpy())
    return torch.from_numpy(means.cluster_centers_)


def nearest_distinct(
    features: PairFeatures, centres: torch.Tensor, image_captions: Sequence[np.ndarray]
) -> torch.Tensor:
    """For each of ``centres`` (K, D + d) in turn the nearest pair whose image is not taken: rows (K,) int64."""
    shortlist = _nearest(features, centres)
    taken = torch.zeros(len(image_captions), dtype=torch.bool)
    chosen = []
    for centre, near in zip(centres, shortlist):
        free = near[~taken[features.caption_image[near]]]
        best = int(free[0]) if len(free) else _nearest_free(features, centre, taken)
        taken[features.caption_image[best]] = True
        chosen.append(best)
    return torch.tensor(chosen)


def _nearest(features: PairFeatures, centres: torch.Tensor) -> torch.Tensor:
    """The rows of the nearest pairs of each centre, nearest first, (K, at most SHORTLIST)."""
    best = torch.empty(len(centres), 0)
    where = torch.empty(len(centres), 0, dtype=torch.int64)
    for rows in features.chunks(PAIRS_AT_ONCE):
        part = features.joined(rows)
        # |x - c|^2 - |c|^2, which gives the same order for each centre
        distance = torch.addmm(part.square().sum(1)[None], centres, part.T, alpha=-2)
        near, place = distance.topk(min(SHORTLIST, len(rows)), dim=1, largest=False)
        best, where = torch.cat([best, near], 1), torch.cat([where, rows[place]], 1)
        best, order = best.topk(min(SHORTLIST, best.shape[1]), dim=1, largest=False, sorted=True)
        where = where.gather(1, order)
    return where


def _nearest_free(features: PairFeatures, centre: torch.Tensor, taken: torch.Tensor) -> int:
    """The nearest of all pairs whose image is not taken."""
    distance = features.square_norms() - 2 * features.project(*features.split(centre))
    distance[taken[features.caption_image]] = torch.inf
    return int(distance.argmin())
