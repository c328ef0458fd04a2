"""Matched prototypes without training, after PDS (arXiv 2602.19756, ICLR 2026) without its image generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vldistill.config import Outer
from vldistill.config.checks import at_least
from vldistill.distillation.export import export_set
from vldistill.distillation.method import Context, Start, State, register
from vldistill.distillation.recipes import plain_recipe
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES
from vldistill.errors import ConfigError
from vldistill.selection.choose import check_count, check_readable


@dataclass(frozen=True)
class PrototypesOptions:
    """Options of matched prototypes.

    Args:
        restarts: k-means runs from different centres, of which the tightest is kept.
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe.
    """

    restarts: int = 3
    student_epochs: int = 100
    student_batch: int = 128

    def __post_init__(self) -> None:
        at_least(1, self, "prototypes", "restarts", "student_epochs")
        at_least(2, self, "prototypes", "student_batch")


@register("prototypes", PrototypesOptions, Outer(iterations=0))
class MatchedPrototypes:
    """Training-free: k-means on images and on texts, clusters matched by the pairs they share (after PDS).

    A matched pair of clusters is realised by the real pair nearest to both centres, or in
    ``distill.space features`` by the centres themselves.
    """

    def check(self, context: Context[PrototypesOptions]) -> None:
        """Refuse more prototypes than there are images."""
        check_count(context.bench.pairs("train").count_images, context.config.pairs)

    def begin(self, context: Context[PrototypesOptions]) -> Start:
        """The real pairs that realise the prototypes, with distinct images."""
        bench = context.bench
        check_readable(bench, context.config.pairs)
        split = bench.split("train")
        images, texts, mapping = self._features(context)
        captions = torch.from_numpy(nearest_pairs(images, texts, mapping, *self._prototypes(context)[:2]))
        rows = split.data.caption_image[captions]
        chosen = [split.pairs.captions[int(row)] for row in captions]
        return Start(bench.start_images(rows), split.data.texts.rows(captions).clone(), chosen)

    def setup(self, start: Start, context: Context[PrototypesOptions]) -> State:
        """The pairs of :meth:`begin`, or in feature space the mean features of the matched clusters."""
        if context.config.space == "pixels":
            return State({"images": start.images.clone(), "texts": start.texts.clone()})
        bench = context.bench
        _, _, image_members, text_members = self._prototypes(context)
        filled = sum(len(rows) > 0 for rows in image_members), sum(len(rows) > 0 for rows in text_members)
        if min(filled) < context.config.pairs:
            raise ConfigError(
                f"{context.config.pairs} prototypes are configured, but the data have {filled[0]} clusters of "
                f"distinct images and {filled[1]} of distinct captions. Ask for {min(filled)} pairs or fewer."
            )
        data = bench.split("train").data
        means = {"images": (data.images, image_members), "texts": (data.texts, text_members)}
        return State(
            {
                name: torch.stack([inputs.rows(rows).mean(0) for rows in found])
                for name, (inputs, found) in means.items()
            }
        )

    def export(self, state: State, context: Context[PrototypesOptions]) -> DistilledSet:
        """The set with a plain student: rates as the configuration starts them, cosine."""
        return export_set(state, context, plain_recipe(context))

    def _features(self, context: Context[PrototypesOptions]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """L2-normalised frozen features: images (N, D), captions (M, d), and the image of each caption (M,)."""
        images, texts = context.bench.unit_features()
        return images.float().numpy(), texts.float().numpy(), context.bench.split("train").data.caption_image.numpy()

    def _prototypes(
        self, context: Context[PrototypesOptions]
    ) -> tuple[np.ndarray, np.ndarray, list[torch.Tensor], list[torch.Tensor]]:
        """Matched centres (K, D) and (K, d), and the rows of images and of captions in each cluster."""
        from sklearn.cluster import MiniBatchKMeans

        options = context.options
        images, texts, mapping = self._features(context)
        centres, labels = [], []
        for side, features in zip(SIDES, (images, texts)):
            seed = context.at(0).seed_of("prototypes", side) % 2**32
            restarts: Any = options.restarts
            means = MiniBatchKMeans(context.config.pairs, random_state=seed, batch_size=4096, n_init=restarts)
            means.fit(features)
            centres.append(means.cluster_centers_)
            labels.append(means.predict(features))
        matched = match_clusters(labels[0][mapping], labels[1], context.config.pairs)
        members = [
            [torch.from_numpy(np.flatnonzero(label == cluster)) for cluster in order]
            for label, order in zip(labels, matched)
        ]
        return centres[0][matched[0]], centres[1][matched[1]], members[0], members[1]


def match_clusters(image_label: np.ndarray, text_label: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The one-to-one matching of image and text clusters that shares most pairs (Hungarian algorithm).

    Args:
        image_label: (M,) cluster of each pair's image.
        text_label: (M,) cluster of each pair's caption.
        count: K clusters on each side.

    Returns:
        Image clusters and text clusters, (K,) each; entry k of one is matched with entry k of the other.
    """
    shared = np.zeros((count, count), np.int64)
    np.add.at(shared, (image_label, text_label), 1)
    from scipy.optimize import linear_sum_assignment  # half a second to import

    image_clusters, text_clusters = linear_sum_assignment(shared, maximize=True)
    return image_clusters, text_clusters


def nearest_pairs(
    images: np.ndarray, texts: np.ndarray, mapping: np.ndarray, image_centres: np.ndarray, text_centres: np.ndarray
) -> np.ndarray:
    """For each prototype the caption row whose pair is nearest to both centres, with distinct images.

    The distance is the sum of both sides' squared Euclidean distances; closer prototypes choose first.

    Args:
        images: (N, D). texts: (M, d). mapping: (M,) the image of each caption.
        image_centres: (K, D). text_centres: (K, d).

    Returns:
        (K,) rows of captions.
    """
    to_image = _squared_distances(images, image_centres)[mapping]
    distance = to_image + _squared_distances(texts, text_centres)  # (M, K)
    chosen = np.full(len(image_centres), -1)
    free = np.ones(len(images), bool)
    for prototype in np.argsort(distance.min(0), kind="stable"):
        column = np.where(free[mapping], distance[:, prototype], np.inf)
        chosen[prototype] = row = int(column.argmin())
        free[mapping[row]] = False
    return chosen


def _squared_distances(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return (rows**2).sum(1)[:, None] - 2 * rows @ centres.T + (centres**2).sum(1)[None]
