"""Contrastive losses: pure functions of logits. Shapes: B pairs in a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

HARD_LOSSES = ("infonce", "siglip")
"""Losses by name whose positives are the pairs themselves; no similarity matrix is needed."""

SIGLIP_BIAS = -10.0  # where the learned one of SigLIP starts: most image-text pairs of a batch are negatives

NEGATIVES = ("all", "distinct")
"""Which other pairs of a batch count as negatives: all, or those of another image and another caption."""


def infonce(logits: torch.Tensor, equal: torch.Tensor | None = None) -> torch.Tensor:
    """Symmetric InfoNCE (arXiv 2308.07545): the mean of both directions' cross entropies.

    Args:
        logits: (B, B), images by texts; pair i is on the diagonal.
        equal: (B, B) bool, pairs that are no negatives of each other (:func:`equal_pairs`); None where all are.

    Returns:
        A scalar.
    """
    if equal is not None:
        logits = logits.masked_fill(equal, -torch.inf)
    target = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def classification(logits: torch.Tensor, own: torch.Tensor, equal: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy of images over the distinct texts of a set: of class sets, over their classes.

    A text that comes n times counts as one, with 1/n each.

    Args:
        logits: (B, N), images by texts.
        own: (B,) int64, the text of each image.
        equal: (N, N) bool, texts that count as one, false on the diagonal; None where all differ.

    Returns:
        A scalar.
    """
    if equal is not None:
        times = (1 + equal.sum(0)).to(logits).log()
        kept = logits.gather(1, own[:, None])
        logits = (logits - times).scatter(1, own[:, None], kept).masked_fill(equal[own], -torch.inf)
    return F.cross_entropy(logits, own)


def siglip(logits: torch.Tensor, equal: torch.Tensor | None = None, bias: float = SIGLIP_BIAS) -> torch.Tensor:
    """SigLIP's sigmoid loss (arXiv 2303.15343) with scale and bias fixed: every image-text pair is a yes or a no.

    -(1/B) sum_ij log sigmoid(z_ij (logits_ij + bias)), where z is 1 on the diagonal and -1 elsewhere.

    Args:
        logits: (B, B), images by texts, scaled already; pair i is on the diagonal.
        equal: (B, B) bool, pairs that are no negatives of each other and are left out; None where all are.
        bias: added to the logits.

    Returns:
        A scalar, a sum over B x B pairs divided by B, as published.
    """
    sign = 2 * torch.eye(logits.shape[0], dtype=logits.dtype, device=logits.device) - 1
    each = F.softplus(-sign * (logits + bias))
    if equal is not None:
        each = each.masked_fill(equal, 0)
    return each.sum() / logits.shape[0]


def equal_pairs(images: torch.Tensor, captions: torch.Tensor) -> torch.Tensor | None:
    """Pairs of one image or of equal captions, which are no negatives of each other.

    Args:
        images: (B,) int64, equal for pairs of one image.
        captions: (B,) int64, equal for equal captions.

    Returns:
        (B, B) bool, false on the diagonal; None where all pairs differ.
    """
    equal = (images[:, None] == images) | (captions[:, None] == captions)
    equal.fill_diagonal_(False)
    return equal if bool(equal.any()) else None


def numbered_texts(texts: torch.Tensor, captions: int = 1) -> torch.Tensor:
    """(N, captions) int64, equal for equal texts; ``texts`` (N, ...) holds ``captions`` texts of each pair."""
    rows = texts.detach().reshape(len(texts) * captions, -1)
    _, numbers = rows.cpu().unique(dim=0, return_inverse=True)
    return numbers.view(len(texts), captions)


def soft_infonce(logits: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """InfoNCE with soft targets, eNCE of LoRS (arXiv 2406.03793): -(1/B) sum_ij S_ij log softmax(logits)_ij.

    Args:
        logits: (B, B), images by texts.
        similarity: (B, B), the weight of each image-text pair; the identity gives :func:`infonce`.

    Returns:
        A scalar, the mean of both directions.
    """
    rows = -(similarity * F.log_softmax(logits, dim=1)).sum(1).mean()
    columns = -(similarity * F.log_softmax(logits, dim=0)).sum(0).mean()
    return (rows + columns) / 2


def _cross_entropies(logits: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """-S log sigmoid(z) - (1 - S) log(1 - sigmoid(z)) per pair, (B, B); S may lie outside [0, 1]."""
    return F.softplus(logits) - similarity * logits


def bce(logits: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of sigmoid(logits) with soft targets, BCE of LoRS (arXiv 2406.03793).

    Args:
        logits: (B, B), images by texts.
        similarity: (B, B) targets; a learned one may leave [0, 1].

    Returns:
        A scalar, the mean over all B x B image-text pairs.
    """
    return _cross_entropies(logits, similarity).mean()


def wbce(logits: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """:func:`bce` with equal weight for the positives (S > 0.5) and the rest, wBCE of LoRS (arXiv 2406.03793).

    Args:
        logits: (B, B), images by texts.
        similarity: (B, B) targets; a learned one may leave [0, 1].

    Returns:
        A scalar, half the mean over the positives plus half the mean over the rest; the mean of none is 0.
    """
    each = _cross_entropies(logits, similarity)
    positive = (similarity > 0.5).to(each)
    means = [(part * each).sum() / part.sum().clamp(min=1) for part in (positive, 1 - positive)]
    return (means[0] + means[1]) / 2


SOFT_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "soft_infonce": soft_infonce,
    "bce": bce,
    "wbce": wbce,
}
"""Losses that take logits and a similarity matrix, by name: eNCE, BCE and wBCE of LoRS."""
