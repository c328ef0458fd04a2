"""Plain SGD on two heads with hand-written derivatives: the experts of setting ``heads``.

Such a step is a handful of matrix products, and autograd's own reads and writes would add half of their cost. Here the
gradient of a weight is never stored: the product that computes it adds it to the weight. Up to rounding the result is
that of ``DualEncoder``, ``infonce`` and ``torch.optim.SGD`` (``tests/numeric/test_head_steps.py``).

Shapes: B pairs, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vldistill.encoders.dual import DualEncoder, Head
from vldistill.runtime.micro_batches import heads_too_large, is_short_of_memory

EPSILON = 1e-12  # of F.normalize


class _Passed(NamedTuple):
    """The forward pass of a head, with what its derivative needs."""

    features: Tensor
    projected: Tensor
    activated: Tensor
    mixed: Tensor
    moments: tuple[Tensor, Tensor]  # mean and 1 / standard deviation of the layer norm
    length: Tensor
    embeddings: Tensor


def two_heads(encoder: DualEncoder) -> tuple[Head, Head] | None:
    """Both heads of an encoder that consists of two trained heads without dropout; None for any other encoder."""
    image, text = encoder.image, encoder.text
    if type(image) is not Head or type(text) is not Head:
        return None
    plain = all(head.dropout.p == 0 and all(p.requires_grad for p in head.parameters()) for head in (image, text))
    return (image, text) if plain else None


@torch.no_grad()
def head_step(
    heads: tuple[Head, Head],
    images: Tensor,
    texts: Tensor,
    logit_scale: float,
    rates: Mapping[str, float],
    equal: Tensor | None = None,
) -> Tensor:
    """One step of SGD down symmetric InfoNCE, in place.

    Args:
        heads: of images and texts.
        images: (B, width) features; pair i is row i of both.
        texts: (B, width) features.
        logit_scale: of the cosine similarities.
        rates: learning rates of the sides ``image`` and ``text``.
        equal: (B, B) bool, pairs that are no negatives of each other.

    Returns:
        The loss before the step, a scalar.

    Raises:
        MemoryShortError: the device has too little memory for the batch.
    """
    try:
        return _step(heads, images, texts, logit_scale, rates, equal)
    except RuntimeError as error:
        if not is_short_of_memory(error):
            raise
    raise heads_too_large(images.device, len(images))


def _step(
    heads: tuple[Head, Head],
    images: Tensor,
    texts: Tensor,
    logit_scale: float,
    rates: Mapping[str, float],
    equal: Tensor | None,
) -> Tensor:
    image, text = (_forward(head, features) for head, features in zip(heads, (images, texts)))
    logits = (image.embeddings @ text.embeddings.T).mul_(logit_scale)
    if equal is not None:
        logits.masked_fill_(equal, -torch.inf)
    to_texts, to_images = logits.log_softmax(1), logits.log_softmax(0)
    loss = -(to_texts.diagonal().mean() + to_images.diagonal().mean()) / 2
    back = to_texts.exp_().add_(to_images.exp_())  # the gradient at the logits, times 2 B
    back.diagonal().sub_(2)
    back.mul_(logit_scale / (2 * len(back)))
    at_images, at_texts = back @ text.embeddings, back.T @ image.embeddings
    _descend(heads[0], image, at_images, rates["image"])
    _descend(heads[1], text, at_texts, rates["text"])
    return loss


def _forward(head: Head, features: Tensor) -> _Passed:
    projected = head.project(features)
    activated = F.gelu(projected)
    mixed = torch.addmm(projected + head.mix.bias, activated, head.mix.weight.T)
    norm = head.norm
    normed, *moments = torch.native_layer_norm(mixed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    length = torch.linalg.vector_norm(normed, dim=1, keepdim=True).clamp_min_(EPSILON)
    return _Passed(features, projected, activated, mixed, (moments[0], moments[1]), length, normed.div_(length))


def _descend(head: Head, passed: _Passed, gradient: Tensor, rate: float) -> None:
    """One SGD step of a head at ``rate``, given the gradient at its embeddings (B, D)."""
    along = (gradient * passed.embeddings).sum(1, keepdim=True)
    gradient = torch.addcmul(gradient, passed.embeddings, along, value=-1).div_(passed.length)
    norm = head.norm
    at_mixed, at_weight, at_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, passed.mixed, norm.normalized_shape, *passed.moments, norm.weight, norm.bias, [True] * 3
    )
    at_activated = at_mixed @ head.mix.weight
    at_projected = torch.ops.aten.gelu_backward(at_activated, passed.projected).add_(at_mixed)
    norm.weight.sub_(at_weight, alpha=rate)
    norm.bias.sub_(at_bias, alpha=rate)
    for layer, given, at_given in (
        (head.mix, passed.activated, at_mixed),
        (head.project, passed.features, at_projected),
    ):
        layer.weight.addmm_(at_given.T, given, alpha=-rate)
        layer.bias.sub_(at_given.sum(0), alpha=rate)
