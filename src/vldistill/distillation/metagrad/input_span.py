"""The gradient through inner steps whose first layers never leave the span of the distilled rows.

A head begins with a linear layer p = W x + bias, W (P, D), and its inputs are the rows of X (N, D), the distilled
features. SGD moves W along sums of outer products with those rows, and all that the steps read of W is their products
with it. With the symbols of `metagrad`, G and H (N, P), a and b numbers:

    W_t = a W_0 + G^T X         products X W_t^T = a X W_0^T + K G,   K = X X^T (N, N)
    v_t = b W_0 + H^T X         and with d = d inner / d p (B, P) on the rows of the step:
    H <- mu H + wd G + d,       b <- mu b + wd a            (2)
    G <- G - eta H,             a <- a - eta b              (3)

The way back has the same form. With L = d outer / d W_T, lambda = s L + R^T X and nu = c L + M^T X. The gradient of the
layer is d^T X, so that its part of (6) is <d, X nu^T> = <d, c X L^T + K M>; with q = d h / d p on the rows of the step:

    d eta = -<v, lambda>, of W_0, L, X W_0^T, X L^T and K alone          (5)
    d X  += q W_t + d nu, which adds up to A W_0 + C L + J X             (7)
    R    <- R + wd M + q,       s <- s + wd c                            (8)

Every step costs products of (N, N) and (N, P) where the plain run has (P, D) and (B, D): the layer is all but free
where there are fewer rows than features, and the result is the same up to rounding. G and H of every step stay in
memory for the way back, and so do the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vldistill.distillation.metagrad.inner import InnerRun, InnerStep, inner_product


@dataclass(frozen=True)
class Span:
    """A linear layer whose inputs are rows of a distilled tensor and nothing else.

    The inner loss gets the products (B, P) of its step's rows under ``data``, without the bias, and no parameter
    ``name``. Of a distilled tensor (N, C, D) step t takes the rows [:, t mod C].
    """

    group: str
    name: str
    data: str

    def rows(self, step: InnerStep, data: Tensor) -> Tensor | None:
        """Rows (B,) of the step, distinct, in the distilled tensor as (N C, D); None is all of them in order."""
        if data.ndim == 3:
            index = torch.arange(len(data)) if len(step.index) == len(data) else step.index
            return (index * data.shape[1] + step.t % data.shape[1]).to(data.device)
        return None if len(step.index) == len(data) else step.index.to(data.device)


class Layer:
    """A spanned layer on its way there and back; the names are those of the module's text.

    Args:
        span: which layer it is.
        weight: W_0 (P, D).
        data: the distilled tensor (N, D) or (N, C, D).
    """

    def __init__(self, span: Span, weight: Tensor, data: Tensor) -> None:
        self.span, self.weight, self.data = span, weight, data
        self.x = data.reshape(-1, data.shape[-1])
        self.gram = self.x @ self.x.T
        self.first = self.x @ weight.T
        self.a, self.b = 1.0, 0.0
        self.g = self.h = self.kg = self.kh = torch.zeros_like(self.first)
        self.passed: list[tuple[float, float, Tensor, Tensor]] = []  # a_t, b_{t+1}, G_t, H_{t+1}

    def products(self, rows: Tensor | None) -> Tensor:
        """X W_t^T of ``rows``, (B, P)."""
        return self.a * _rows(self.first, rows) + _rows(self.kg, rows)

    def move(self, rows: Tensor | None, slope: Tensor, rate: float, momentum: float, decay: float) -> None:
        """One step by (2) and (3), with the slope d (B, P) of the products."""
        before = self.a, self.g
        self.h = _added(momentum * self.h + decay * self.g, rows, slope)
        self.kh = momentum * self.kh + decay * self.kg + _columns(self.gram, rows) @ slope
        self.b = momentum * self.b + decay * self.a
        self.passed.append((before[0], self.b, before[1], self.h))
        self.g, self.kg = self.g - rate * self.h, self.kg - rate * self.kh
        self.a -= rate * self.b

    def reached(self) -> Tensor:
        """W_T."""
        return torch.addmm(self.a * self.weight, self.g.T, self.x)  # as beta, a number beyond float32 is an error

    def turn(self, slope: Tensor) -> None:
        """Begin the way back with L, the slope of W_T (P, D)."""
        self.slope, self.across = slope, self.x @ slope.T
        self.along = float(inner_product([self.weight], [slope]))
        self.s, self.c = 1.0, 0.0
        self.r = self.m = self.kr = self.km = torch.zeros_like(self.first)
        self.to_weight, self.to_slope = torch.zeros_like(self.first), torch.zeros_like(self.first)
        self.mixed = torch.zeros_like(self.gram)

    def back(self, rate: float, momentum: float) -> Tensor:
        """Equations (4) and (5): moves nu, and returns the slope of the step's rate, ()."""
        _, b, _, h = self.passed[-1]
        flows = inner_product([self.r, h, h], [b * self.first, self.s * self.across, self.kr])
        self.c = momentum * self.c - rate * self.s
        self.m, self.km = momentum * self.m - rate * self.r, momentum * self.km - rate * self.kr
        return -(flows + b * self.s * self.along)

    def weights(self, rows: Tensor | None) -> Tensor:
        """X nu^T of ``rows``, (B, P): what (6) weighs the slopes of the products with."""
        return self.c * _rows(self.across, rows) + _rows(self.km, rows)

    def absorb(self, rows: Tensor | None, slope: Tensor, pulled: Tensor, decay: float) -> None:
        """Equations (7) and (8), with d (``slope``) and q (``pulled``) of the step's rows, (B, P)."""
        a, _, g, _ = self.passed.pop()
        self.to_weight = _added(self.to_weight, rows, a * pulled)
        self.to_slope = _added(self.to_slope, rows, self.c * slope)
        self.mixed = _added(self.mixed, rows, torch.addmm(pulled @ g.T, slope, self.m.T))
        self.s += decay * self.c
        self.r = _added(self.r + decay * self.m, rows, pulled)
        self.kr = self.kr + decay * self.km + _columns(self.gram, rows) @ pulled

    def gradient(self) -> Tensor:
        """The gradient of the distilled tensor, in its shape."""
        total = self.to_weight @ self.weight + self.to_slope @ self.slope + self.mixed @ self.x
        return total.reshape(self.data.shape)


@dataclass
class SpannedRun:
    """An inner run as two parts: spanned layers, which may be none, and a run of all other parameters.

    Args:
        whole: the run as it was asked for.
        rest: without the layers and what they read.
        layers: one for each span.
    """

    whole: InnerRun
    rest: InnerRun
    layers: list[Layer]

    @classmethod
    def build(cls, whole: InnerRun, spans: Sequence[Span]) -> SpannedRun:
        """Take the layers of ``spans`` out of a run."""
        start = dict(zip(whole.keys, whole.start))
        layers = [Layer(span, start.pop((span.group, span.name)), whole.distilled[span.data]) for span in spans]
        read = {span.data for span in spans}
        others = {name: tensor for name, tensor in whole.distilled.items() if name not in read}
        return cls(whole, replace(whole, keys=list(start), start=list(start.values()), distilled=others), layers)

    def rows(self, t: int) -> list[Tensor | None]:
        """Rows of step t, by layer."""
        return [layer.span.rows(self.whole.steps[t], layer.data) for layer in self.layers]

    def loss(self, t: int, theta: Sequence[Tensor], products: Sequence[Tensor], others: dict[str, Tensor]) -> Tensor:
        """inner(theta_t, s, t) of the other parameters and the layers' products."""
        read = {layer.span.data: product for layer, product in zip(self.layers, products)}
        return self.rest.loss(t, theta, {**others, **read})

    def joined(self, theta: Sequence[Tensor]) -> list[Tensor]:
        """theta_T of the whole run, in its order, from that of the rest."""
        found = dict(zip(self.rest.keys, theta))
        found |= {(layer.span.group, layer.span.name): layer.reached() for layer in self.layers}
        return [found[key] for key in self.whole.keys]

    def turn(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        """Begin the way back from d outer / d theta_T of the whole run; returns the part of the rest."""
        found = dict(zip(self.whole.keys, slopes))
        for layer in self.layers:
            layer.turn(found.pop((layer.span.group, layer.span.name)))
        return [found[key] for key in self.rest.keys]


def _rows(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor[rows]


def _columns(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor[:, rows]


def _added(total: Tensor, rows: Tensor | None, part: Tensor) -> Tensor:
    """``total`` with ``part`` added to its ``rows``; a new tensor."""
    return total + part if rows is None else total.index_add(0, rows, part)
