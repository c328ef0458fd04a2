"""Differentiable augmentation of learned images: one draw per outer iteration, gradients pass through."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from vldistill.errors import ConfigError, unknown
from vldistill.runtime.devices import moved

SHIFT = 0.125  # largest shift, as a part of the side
COLOUR = 0.3  # largest relative change of contrast, and of brightness in standard deviations


def make_view(kinds: Sequence[str], draw: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """A function of images (N, 3, S, S) that applies ``kinds`` with numbers from ``draw``; None if there are none.

    The numbers are drawn when the function is called, for each image its own.
    """
    for kind in kinds:
        if kind not in VIEWS:
            raise ConfigError(unknown("augmentation", kind, VIEWS))
    if not kinds:
        return None

    def view(images: torch.Tensor) -> torch.Tensor:
        for kind in kinds:
            images = VIEWS[kind](images, draw)
        return images

    return view


def _flip(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    mirrored = moved(torch.rand(len(images), 1, 1, 1, generator=draw) < 0.5, images.device)
    return torch.where(mirrored, images.flip(-1), images)


def _shift(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Move every image by up to an eighth of its side; what enters repeats the border."""
    by = (torch.rand(len(images), 2, generator=draw) * 2 - 1) * 2 * SHIFT  # grid units: the side is 2 long
    theta = torch.eye(2, 3).repeat(len(images), 1, 1)
    theta[:, :, 2] = by
    grid = F.affine_grid(moved(theta.to(images.dtype), images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _colour(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    drawn = (torch.rand(2, len(images), 1, 1, 1, generator=draw) * 2 - 1).to(images.dtype)
    contrast, brightness = moved(drawn, images.device) * COLOUR
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (1 + contrast) + mean + brightness


VIEWS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "flip": _flip,
    "shift": _shift,
    "colour": _colour,
}
