"""A learned similarity of distilled pairs (LoRS, arXiv 2406.03793): low-rank or full.

``lowrank`` is S = diag(w) + (alpha / r) L R^T with w = 1, L ~ N(0, 1) and R = 0, so that S starts as the identity;
``full`` is the matrix itself, from the identity. Shapes: N pairs, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

KINDS = ("lowrank", "full")
DIAGONAL, LEFT, RIGHT, FULL = "similarity_diagonal", "similarity_left", "similarity_right", "similarity_full"


def start_similarity(
    kind: str, count: int, rank: int, draw: torch.Generator, like: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Learned tensors of the similarity of ``count`` pairs, on the device and in the format of ``like``."""
    if kind == "full":
        return {FULL: torch.eye(count).to(like)}
    return {
        DIAGONAL: torch.ones(count).to(like),
        LEFT: torch.randn(count, rank, generator=draw).to(like),
        RIGHT: torch.zeros(count, rank).to(like),
    }


def similarity_matrix(variables: Mapping[str, torch.Tensor], alpha: float) -> torch.Tensor | None:
    """S (N, N) of the learned tensors among ``variables``; None where no similarity is learned."""
    if FULL in variables:
        return variables[FULL]
    if LEFT not in variables:
        return None
    left, right = variables[LEFT], variables[RIGHT]
    return torch.diag(variables[DIAGONAL]) + alpha / left.shape[1] * left @ right.T


def similarity_gradients(
    variables: Mapping[str, torch.Tensor], alpha: float, slope: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients to the learned tensors, of a loss whose gradient to S is ``slope`` (N, N)."""
    if FULL in variables:
        return {FULL: slope}
    left, right = variables[LEFT], variables[RIGHT]
    part = alpha / left.shape[1]
    return {DIAGONAL: slope.diagonal().clone(), LEFT: part * slope @ right, RIGHT: part * slope.T @ left}
