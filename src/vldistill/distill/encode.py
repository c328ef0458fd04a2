"""Learned images on their way into the inner loop.

With frozen towers the tower stands outside the inner loop: the images are encoded once per outer iteration, all
inner steps run on features, and one gradient goes back through the tower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

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
    bench: Workbench,
    images: torch.Tensor,
    view: Callable[[torch.Tensor], torch.Tensor] | None = None,
    part: int = KEPT_GRAPH_IMAGES,
) -> Encoded:
    """Encode learned ``images`` (N, 3, S, S), after the differentiable augmentation ``view`` if given.

    Up to ``part`` images the graph is kept between the two passes. Above, memory is bounded by encoding
    ``part`` images at a time and rebuilding each part's graph on the way back: the same result for one more
    forward pass.
    """

    def encode(batch: torch.Tensor) -> torch.Tensor:
        return bench.image_inputs(view(batch) if view else batch)

    if len(images) <= part or view is not None:
        leaf = images.detach().requires_grad_(True)
        with torch.enable_grad():
            inputs = encode(leaf)
        if inputs is leaf:
            return Encoded(images.detach(), lambda gradient: gradient)
        return Encoded(inputs.detach(), lambda gradient: torch.autograd.grad(inputs, leaf, gradient)[0])
    parts = images.detach().split(part)
    with torch.no_grad():
        inputs = torch.cat([encode(batch) for batch in parts])

    def pull(gradient: torch.Tensor) -> torch.Tensor:
        out = []
        for batch, slope in zip(parts, gradient.split(part)):
            leaf = batch.clone().requires_grad_(True)
            with torch.enable_grad():
                out.append(torch.autograd.grad(encode(leaf), leaf, slope)[0])
        return torch.cat(out)

    return Encoded(inputs, pull)
