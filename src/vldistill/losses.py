"""Contrastive losses: pure functions of logits. Shapes: B pairs in a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def infonce(logits: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE (arXiv 2308.07545): the mean of both directions' cross entropies.

    Args:
        logits: (B, B), images by texts; pair i is on the diagonal.

    Returns:
        A scalar.
    """
    target = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


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
