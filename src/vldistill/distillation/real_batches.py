"""Real pairs for an outer loss: which are drawn, and the contrastive loss of a trained student on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.utils.checkpoint import checkpoint

from vldistill.distillation.method import Context
from vldistill.encoders.dual import DualEncoder, Groups
from vldistill.runtime.devices import moved
from vldistill.training.losses import infonce

REAL_PART = 64  # real images that pass a trained tower at a time


def real_batch(context: Context, count: int, captions_each: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Rows of ``count`` distinct training images (B,), and ``captions_each`` rows of captions, (B,) each.

    B is ``count``, or the number of images where that is smaller.
    """
    pairs = context.bench.split("train").pairs
    draw = context.generator("real")
    images = torch.randperm(pairs.count_images, generator=draw)[:count]
    picks = torch.rand(len(images), captions_each, generator=draw)
    rows: list[list[int]] = [[] for _ in range(captions_each)]
    for image, row in zip(images.tolist(), picks):
        own = pairs.image_captions[image]
        first = int(row[0] * len(own))
        for number in range(captions_each):  # neighbours in a circle: distinct where there are enough
            rows[number].append(int(own[(first + number) % len(own)]))
    return images, [torch.tensor(part) for part in rows]


def real_inputs(
    context: Context, images: torch.Tensor, captions: Sequence[torch.Tensor], dropout: float = 0.0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Inputs of ``images`` (B,), in setting ``heads`` one of their views, and of ``captions`` (B,) each.

    Args:
        dropout: part of the features of frozen towers that is set to 0, and the rest scaled up.
    """
    data = context.bench.split("train").data
    viewed = context.bench.setting == "heads" and context.bench.data_config.views
    image_inputs = data.images.rows(images, context.seed_of("views") if viewed else None)
    text_inputs = [data.texts.rows(part) for part in captions]
    if dropout:
        draw = context.generator("outer dropout")
        image_inputs = _dropped(image_inputs, dropout, draw)
        text_inputs = [_dropped(inputs, dropout, draw) for inputs in text_inputs]
    return image_inputs, text_inputs


def real_loss(
    student: DualEncoder,
    context: Context,
    images: torch.Tensor,
    captions: Sequence[torch.Tensor],
    dropout: float = 0.0,
) -> Callable[[Groups], torch.Tensor]:
    """InfoNCE of a student's parameters on ``images`` (B,), the mean over their ``captions``, (B,) each."""
    equal = [context.equal_real(part) for part in captions]
    image_inputs, text_inputs = real_inputs(context, images, captions, dropout)

    def loss(params: Groups) -> torch.Tensor:
        if context.bench.setting == "heads":
            embedded = student.embed("image", image_inputs, params)
        else:  # a trained tower: the activations of one part at a time
            parts = [
                checkpoint(student.embed, "image", part, params, use_reentrant=False)
                for part in image_inputs.split(context.bench.compute.micro_batch or REAL_PART)
            ]
            embedded = torch.cat(parts)
        logits = [student.logits(embedded, student.embed("text", inputs, params)) for inputs in text_inputs]
        losses = [infonce(scores, mask) for scores, mask in zip(logits, equal)]
        return torch.stack(losses).mean()

    return loss


def _dropped(features: torch.Tensor, share: float, draw: torch.Generator) -> torch.Tensor:
    """Features (B, D) with a part set to 0 and the rest scaled by 1 / (1 - share): the same in the mean."""
    dropped = torch.rand(features.shape, generator=draw) < share
    return features.masked_fill(moved(dropped, features.device), 0) / (1 - share)
