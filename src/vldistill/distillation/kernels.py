"""Kernels of frozen features, and ridge regression with them: what a student learns, in closed form.

Shapes: A and B rows, D features, N distilled pairs. Features are standardised, so that x^T x is about D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vldistill.errors import ConfigError, unknown


@dataclass(frozen=True)
class Kernel:
    """A kernel of rows of features.

    Args:
        between: from rows (A, D) and (B, D) to their kernel (A, B).
        own: from rows (A, D) to the kernel of each with itself (A,).
    """

    between: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    own: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """(A, B) of rows (A, D) and (B, D)."""
        return self.between(left, right)

    def of(self, features: Callable[[torch.Tensor], torch.Tensor]) -> Kernel:
        """The kernel of what ``features`` makes of rows, (A, D) to (A, H)."""
        return Kernel(
            lambda left, right: self.between(features(left), features(right)), lambda rows: self.own(features(rows))
        )


INITIAL_VARIANCE = 1 / 3  # of a layer's weights at their start, times the layer's inputs: uniform within 1/sqrt(inputs)


def linear(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """x^T y / D: a student whose map is linear."""
    return left @ right.T / left.shape[1]


def rbf(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """exp(-||x - y||^2 / (2 D)): two rows of independent features are at about exp(-1)."""
    squares = left.square().sum(1)[:, None] + right.square().sum(1)[None] - 2 * left @ right.T
    return (-squares.clamp(min=0) / (2 * left.shape[1])).exp()


def head_ntk(left: torch.Tensor, right: torch.Tensor, width: int) -> torch.Tensor:
    """The neural tangent kernel of :class:`~vldistill.encoders.dual.Head` and the normalisation behind it.

    At the random start and in the limit of many units, averaged over the embedding's coordinates: the kernel that
    gradient descent regresses with while the weights move little (Jacot et al. 2018, arXiv 1806.07572).

    With s(x, y) = v (x^T y + 1) / D the covariance of hidden units (v = 1/3, torch's start), k0 and k1 the moments of
    :func:`gelu_moments`, and q(x, y) = s + v k0 that of outputs before the layer norm:

        tangent(x, y) = (x^T y + 1)(1 + v k1) + width k0 + 1
        head_ntk(x, y) = ((tangent + q) / sqrt(q(x, x) q(y, y)) + 1) / width

    The layer norm and the norm of the embedding divide by the size of the output, which hardly varies in wide heads;
    their own gain and bias give q and 1. Directions that they project away, 3 of ``width``, are left out.

    Args:
        width: units of the hidden layer and of the embedding.
    """
    sizes = left.square().sum(1) + 1, right.square().sum(1) + 1
    return _tangent(left @ right.T + 1, sizes[0][:, None], sizes[1][None], left.shape[1], width)


def _tangent(inner: torch.Tensor, first: torch.Tensor, second: torch.Tensor, features: int, width: int) -> torch.Tensor:
    """:func:`head_ntk` of inner products, and of rows with themselves, each with 1 added for the bias."""
    scale = INITIAL_VARIANCE / features
    units = scale * inner
    value, slope = gelu_moments(scale * first, scale * second, units)
    outputs = [
        variance + INITIAL_VARIANCE * gelu_moments(variance, variance, variance)[0]
        for variance in (scale * first, scale * second)
    ]
    tangent = inner * (1 + INITIAL_VARIANCE * slope) + width * value + 1
    return ((tangent + units + INITIAL_VARIANCE * value) / (outputs[0] * outputs[1]).sqrt() + 1) / width


def _own_tangent(rows: torch.Tensor, width: int) -> torch.Tensor:
    size = rows.square().sum(1) + 1
    return _tangent(size, size, size, rows.shape[1], width)


def gelu_moments(first: torch.Tensor, second: torch.Tensor, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E[g(u) g(v)] and E[g'(u) g'(v)] of g = GELU, for normal (u, v) of mean 0.

    With a, b, c the variances and the covariance, m = (1 + a)(1 + b), e = 1 / (2 pi sqrt(m - c^2)) and
    h = 1/4 + asin(c / sqrt(m)) / (2 pi), by Stein's lemma:

        E[g g] = c h + e (a b - c^2 + c^2 / (1 + a) + c^2 / (1 + b))
        E[g' g'] = h + e c (1 / (1 + a) + 1 / (1 + b) + 1 / (m - c^2)), which is its derivative by c

    Args:
        first: a, the variance of u. second: b, that of v. both: c; all of shapes that broadcast.
    """
    product = (1 + first) * (1 + second)
    rest = product - both.square()
    density = 1 / (2 * math.pi * rest.sqrt())
    half = 0.25 + torch.asin(both / product.sqrt()) / (2 * math.pi)
    shares = 1 / (1 + first) + 1 / (1 + second)
    value = both * half + density * (first * second - both.square() * (1 - shares))
    return value, half + density * both * (shares + 1 / rest)


KERNELS = ("linear", "rbf", "ntk")


def kernel_named(name: str, width: int) -> Kernel:
    """The kernel ``name``; ``width`` is the embedding's, which ``ntk`` needs. Raises ConfigError."""
    known = {
        "linear": Kernel(linear, lambda rows: rows.square().mean(1)),
        "rbf": Kernel(rbf, lambda rows: rows.new_ones(len(rows))),
        "ntk": Kernel(
            lambda left, right: head_ntk(left, right, width),
            lambda rows: _own_tangent(rows, width),
        ),
    }
    if name not in known:
        raise ConfigError(unknown("kernel", name, KERNELS))
    return known[name]


def ridged(gram: torch.Tensor, ridge: torch.Tensor | float) -> torch.Tensor:
    """K + ridge (trace K / N) I for a kernel K (N, N): the ridge is in units of its mean diagonal."""
    return gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def solved(gram: torch.Tensor, ridge: torch.Tensor | float, right: torch.Tensor) -> torch.Tensor:
    """(K + ridge (trace K / N) I)^(-1) times ``right`` (N, d), without a wait for the device.

    Where there is no inverse, as with a ridge near 0 and equal rows, the result is not finite.
    """
    return torch.linalg.solve_ex(ridged(gram, ridge), right).result


def regression(
    cross: torch.Tensor, gram: torch.Tensor, ridge: torch.Tensor | float, targets: torch.Tensor
) -> torch.Tensor:
    """Kernel ridge regression: the predictions (A, d) at rows with ``cross`` (A, N), from ``targets`` (N, d)."""
    return cross @ solved(gram, ridge, targets)


def in_double(tensor: torch.Tensor) -> torch.Tensor:
    """In float64, on the tensor's device where that has it."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
