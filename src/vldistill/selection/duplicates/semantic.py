"""Photos that show the same, found within clusters: SemDeDup (Abbas et al., arXiv 2303.09540), for millions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.runtime.randomness import generator
from vldistill.selection.duplicate import KEPT, register
from vldistill.selection.duplicates.embedding import THRESHOLD, Rows, near_features
from vldistill.selection.material import Material

BLOCK = 8192  # rows given to their cluster at a time
MOST_CLUSTERS = 4096


@register("semantic", threshold=THRESHOLD, limits=(-1, 1), unit="cosine from which two photos of a cluster are one")
def semantic(parts: list[tuple[Material, np.ndarray]], threshold: float, options: SelectConfig) -> np.ndarray:
    """SemDeDup: k-means on features of the frozen tower, then a cosine within each cluster; for millions of photos."""
    return near_in_clusters(Rows.of(parts), threshold, options.cluster_sample, options.seed)


def near_in_clusters(features: Rows, threshold: float, sample: int, seed: int) -> np.ndarray:
    """Who is dropped for whom, (K,) int64, among K items with unit features.

    Args:
        features: a few thousand rows are taken at a time.
        threshold: cosine.
        sample: rows that the centres are fitted to, at most.
        seed: of the sample and the centres.
    """
    owner = np.full(len(features), KEPT, np.int64)
    for rows in _clusters(features, sample, seed):
        found = near_features(features.take(rows), threshold)
        dropped = found != KEPT
        owner[rows[dropped]] = rows[found[dropped]]
    return owner


def _clusters(features: Rows, sample: int, seed: int) -> Iterator[np.ndarray]:
    """The rows of each cluster, in order: as many clusters as each has rows."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(max(1, math.isqrt(len(features))), MOST_CLUSTERS)
    drawn = torch.randperm(len(features), generator=generator(seed, "clusters"))[: max(sample, count)]
    means = MiniBatchKMeans(count, random_state=seed % 2**32, batch_size=4096, n_init="auto", max_iter=20)
    means.fit(features.take(drawn.sort().values.numpy()).numpy())
    centres = torch.from_numpy(means.cluster_centers_).float()
    halves = centres.square().sum(1) / 2
    label = np.empty(len(features), np.int32)
    for start in range(0, len(features), BLOCK):
        block = features.take(np.arange(start, min(start + BLOCK, len(features))))
        label[start : start + len(block)] = (block @ centres.T - halves).argmax(1).numpy()
    order = np.argsort(label, kind="stable")
    ends = np.cumsum(np.bincount(label, minlength=count))
    for first, last in zip([0, *ends[:-1]], ends):
        if last > first:
            yield order[first:last]
