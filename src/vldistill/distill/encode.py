"""Learned images on their way into the inner loop.

With frozen towers the tower stands outside the inner loop: the images are encoded once per outer iteration, all
inner steps run on features, and one gradient goes back through the tower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vldistill.data.transforms import between_towers
from vldistill.distill.augment import make_view
from vldistill.distill.methods import Context
from vldistill.workbench import Workbench

KEPT_GRAPH_IMAGES = 256  # above this many images the graph is rebuilt part by part instead of kept


@dataclass(frozen=True)
class Encoded:
    """Image inputs of the trained side, and the way back.

    Args:
        inputs: (N, D) features in ``heads``, (N, 3, S, S) images elsewhere; no graph.
        pull: turns a gradient to ``inputs`` into the gradient to the learned images.
    """

    inputs: torch.Tensor
    pull: Callable[[torch.Tensor], torch.Tensor]


def encode_learned(
    context: Context, images: torch.Tensor, part: int = KEPT_GRAPH_IMAGES, own: Workbench | None = None
) -> Encoded:
    """Encode learned ``images`` (N, 3, S, S), after one draw of the differentiable augmentation asked for.

    ``own`` is the workbench that the images are made for, where the context has one of another image tower.
    Learned features are given back as they are. Up to ``part`` images the graph is kept between the two passes.
    Above, memory is bounded by encoding ``part`` images at a time and rebuilding each part's graph on the way
    back: the same result for one more forward pass.
    """
    bench, config = context.bench, context.config
    if config.space == "features":
        return Encoded(images.detach(), lambda gradient: gradient)
    view = make_view(config.augment, context.generator("view"))
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        seen = leaf
        if own is not None:
            old, new = own.image_tower, bench.image_tower
            seen = between_towers(leaf, (old.mean, old.std), (new.mean, new.std), new.size)
        seen = view(seen) if view else seen
    images = seen.detach()
    encode = bench.image_inputs

    def through_view(gradient: torch.Tensor) -> torch.Tensor:
        return gradient if seen is leaf else torch.autograd.grad(seen, leaf, gradient)[0]

    if bench.setting != "heads":
        return Encoded(images, through_view)
    if len(images) <= part:
        near = images.clone().requires_grad_(True)
        with torch.enable_grad():
            inputs = encode(near)
        return Encoded(inputs.detach(), lambda gradient: through_view(torch.autograd.grad(inputs, near, gradient)[0]))
    parts = images.detach().split(part)
    with torch.no_grad():
        inputs = torch.cat([encode(batch) for batch in parts])

    def pull(gradient: torch.Tensor) -> torch.Tensor:
        out = []
        for batch, slope in zip(parts, gradient.split(part)):
            leaf = batch.clone().requires_grad_(True)
            with torch.enable_grad():
                out.append(torch.autograd.grad(encode(leaf), leaf, slope)[0])
        return through_view(torch.cat(out))

    return Encoded(inputs, pull)
