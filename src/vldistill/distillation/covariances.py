"""Second moments of the training pairs, in one pass that holds few features at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from vldistill.training.data import TrainingData

IMAGES_AT_ONCE = 8192  # images whose features are held in float64 at a time


class Covariances(NamedTuple):
    """Uncentred: the features are standardised. A caption counts once, and its image with it."""

    images: torch.Tensor
    """(D, D), of the images' features."""
    texts: torch.Tensor
    """(d, d), of the captions'."""
    cross: torch.Tensor
    """(D, d), of images with their captions."""


@torch.no_grad()
def covariances(data: TrainingData, of_images: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Covariances:
    """Second moments of pairs of standardised features, in float64 on the CPU.

    Args:
        of_images: what is taken in place of the images' features (B, D): any (B, D') of them.
    """
    images, texts, cross = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    pairs = len(data)
    order = data.caption_image.argsort(stable=True)
    counts = torch.bincount(data.caption_image, minlength=len(data.images))
    done = 0
    for rows in torch.arange(len(data.images)).split(IMAGES_AT_ONCE):
        taken = order[done : (done := done + int(counts[rows].sum()))]
        x = data.images.rows(rows).cpu().double()  # CPU: not all devices have float64
        x = of_images(x) if of_images else x
        y = data.texts.rows(taken).cpu().double()
        summed = torch.zeros(len(rows), y.shape[1], dtype=y.dtype)
        summed.index_add_(0, data.caption_image[taken] - rows[0], y)
        images = images + x.T @ (x * counts[rows][:, None]) / pairs
        texts = texts + y.T @ y / pairs
        cross = cross + x.T @ summed / pairs
    return Covariances(images, texts, cross)
