"""Learned images on their way into the inner loop.

With frozen towers the tower stands outside the inner loop: the images are encoded once per outer iteration, all
inner steps run on features, and one gradient goes back through the tower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vldistill.data.transforms import between_towers
from vldistill.distillation.augment import make_view
from vldistill.distillation.method import Context
from vldistill.runtime.devices import moved
from vldistill.runtime.memory import GraphBytes, available_memory
from vldistill.runtime.micro_batches import halved_where_short
from vldistill.runtime.shapes import rows_that_fit
from vldistill.workbench.bench import Workbench

PART = {"cpu": 64}  # images at a time: what a processor's caches like; elsewhere wide passes are quicker
WIDE_PART = 256
KEPT_SHARE = 0.3  # of the memory left on the device: share for autograd graphs; the others are recomputed


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
    context: Context,
    images: torch.Tensor,
    own: Workbench | None = None,
    *,
    rows: torch.Tensor | None = None,
    part: int = 0,
    keep_bytes: int | None = None,
) -> Encoded:
    """Encode learned ``images`` (N, 3, S, S), in the tower's size, after one draw of the configured augmentation.

    Learned features are given back as they are. Images pass the tower ``part`` at a time. Graphs of as many parts as
    ``keep_bytes`` have room for are kept between the two passes, those of the others are recomputed on the way back:
    the same result for one more forward pass, in bounded memory. Images that stay as they started (``distill.learn
    text``) have a gradient of zeros, without a way back through the tower.

    Args:
        own: the workbench that the images are made for, where the context has one of another image tower.
        rows: of the images that the iteration uses, in any order and number; the others do not pass the tower. Their
            features are zeros and their gradient is left at zero. None is all.
        part: images at a time, fewer where ``runtime.max_memory`` asks for it; 0 is what suits the device.
        keep_bytes: None is a share of what the device has left.
    """
    bench, config = context.bench, context.config
    if config.space == "features":
        return Encoded(images.detach(), lambda gradient: gradient)
    view = make_view(config.augment, context.generator("view"))
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        seen = leaf
        old, new = (own or bench).image_tower, bench.image_tower
        seen = between_towers(leaf, (old.mean, old.std), (new.mean, new.std), new.size)
        seen = view(seen) if view else seen

    def through_view(gradient: torch.Tensor) -> torch.Tensor:
        return gradient if seen is leaf else torch.autograd.grad(seen, leaf, gradient)[0]

    if bench.setting != "heads":
        return Encoded(seen.detach(), through_view)
    fixed = config.learn == "text"
    used = torch.arange(len(images)) if rows is None else rows.unique()
    used = moved(used, images.device)

    def through(size: int) -> tuple[list[_Pass], int]:
        budget = KEPT_SHARE * available_memory(images.device) if keep_bytes is None else keep_bytes
        budget = 0 if fixed else budget
        passes: list[_Pass] = []
        for index in used.split(size):
            passes.append(_Pass(bench.image_inputs, seen.detach()[index]))
            budget -= passes[-1].bytes
            if budget < 0:
                passes[-1].forget()
        return passes, size

    wanted = part or PART.get(images.device.type, WIDE_PART)
    wanted = min(wanted, rows_that_fit(bench.encoding_tower, seen[used], KEPT_SHARE, back=True))
    passes, size = halved_where_short(through, wanted, images.device, "one learned image and the graph of its tower")
    features = torch.cat([each.inputs for each in passes])
    inputs = features.new_zeros(len(images), features.shape[1]).index_copy(0, used, features)

    def pull(gradient: torch.Tensor) -> torch.Tensor:
        if fixed:
            return torch.zeros_like(images)
        slopes = torch.cat([each.pull(slope) for each, slope in zip(passes, gradient[used].split(size))])
        return through_view(torch.zeros_like(seen).index_copy(0, used, slopes))

    return Encoded(inputs, pull)


class _Pass:
    """One pass of some images through a frozen tower, there and back.

    Attributes:
        inputs: (B, D) features, without graph.
        bytes: that its graph keeps.
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> None:
        self._encode, self._images = encode, images
        kept = GraphBytes()
        with kept:
            self._graph: tuple[torch.Tensor, torch.Tensor] | None = self._forward()
        self.inputs, self.bytes = self._graph[1].detach(), kept.count

    def _forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = self._images.detach().requires_grad_(True)
        with torch.enable_grad():
            return leaf, self._encode(leaf)

    def forget(self) -> None:
        """Let the graph go."""
        self._graph = None

    def pull(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient to the images (B, 3, S, S) of one to the features; the graph is used up."""
        leaf, inputs = self._graph or self._forward()
        self._graph = None
        return torch.autograd.grad(inputs, leaf, gradient)[0]
