"""The gradient through inner steps whose first layers never leave the span of the distilled rows.

A head begins with a linear layer p = W x + bias, W (P, D), and its inputs are the rows of X (N, D), the distilled
features. SGD moves W along sums of outer products with those rows, and all that the steps read of W is their products
with it. With the symbols of the package, G and H (N, P), a and b numbers:

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
from vldistill.runtime.devices import fetched, moved


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
            return moved(step.index * data.shape[1] + step.t % data.shape[1], data.device)
        return step.rows(data)


class Layer:
    """A spanned layer on its way there and back.

    Args:
        span: which layer it is.
        weight: W_0 (P, D).
        data: the distilled tensor (N, D) or (N, C, D).

    Attributes:
        inputs, gram, start_products: X (N, D), K (N, N) and X W_0^T (N, P).
        start_share, velocity_share: a and b, the parts of W_0 in W_t and v_t.
        moved, velocity: G and H (N, P); gram_moved, gram_velocity are K G and K H.
        history: a_t, b_{t+1}, G_t and H_{t+1} of every step.
        outer_slope, outer_products, outer_along: L (P, D), X L^T (N, P) and <W_0, L>.
        lambda_share, nu_share: s and c, the parts of L in lambda and nu.
        lambda_rows, nu_rows: R and M (N, P); gram_lambda, gram_nu are K R and K M.
        to_start, to_slope, to_rows: A (N, P), C (N, P) and J (N, N) of (7).
    """

    def __init__(self, span: Span, weight: Tensor, data: Tensor) -> None:
        self.span, self.weight, self.data = span, weight, data
        self.inputs = data.reshape(-1, data.shape[-1])
        self.gram = self.inputs @ self.inputs.T  # (N, N)
        self.start_products = self.inputs @ weight.T  # (N, P)
        self.start_share, self.velocity_share = 1.0, 0.0
        self.moved = self.velocity = self.gram_moved = self.gram_velocity = torch.zeros_like(self.start_products)
        self.history: list[tuple[float, float, Tensor, Tensor]] = []

    def products(self, rows: Tensor | None) -> Tensor:
        """X W_t^T of ``rows``, (B, P)."""
        return self.start_share * _rows(self.start_products, rows) + _rows(self.gram_moved, rows)

    def move(self, rows: Tensor | None, slope: Tensor, rate: float, momentum: float, decay: float) -> None:
        """One step by (2) and (3), with the slope d (B, P) of the products."""
        share, moved = self.start_share, self.moved
        self.velocity = _added(momentum * self.velocity + decay * self.moved, rows, slope)  # (N, P)
        self.gram_velocity = momentum * self.gram_velocity + decay * self.gram_moved + _columns(self.gram, rows) @ slope
        self.velocity_share = momentum * self.velocity_share + decay * self.start_share
        self.history.append((share, self.velocity_share, moved, self.velocity))
        self.moved, self.gram_moved = self.moved - rate * self.velocity, self.gram_moved - rate * self.gram_velocity
        self.start_share -= rate * self.velocity_share

    def reached(self) -> Tensor:
        """W_T."""
        # the share scales W_0 before: as addmm's beta, a number beyond float32 is an error
        return torch.addmm(self.start_share * self.weight, self.moved.T, self.inputs)  # (P, D)

    def turn(self, slope: Tensor, along: float) -> None:
        """Begin the way back with L, the slope of W_T (P, D)."""
        self.outer_slope, self.outer_products = slope, self.inputs @ slope.T  # (P, D), (N, P)
        self.outer_along = along
        self.lambda_share, self.nu_share = 1.0, 0.0
        self.lambda_rows = self.nu_rows = self.gram_lambda = self.gram_nu = torch.zeros_like(self.start_products)
        self.to_start, self.to_slope = torch.zeros_like(self.start_products), torch.zeros_like(self.start_products)
        self.to_rows = torch.zeros_like(self.gram)

    def back(self, rate: float, momentum: float) -> Tensor:
        """Equations (4) and (5): moves nu, and returns the slope of the step's rate, ()."""
        _, b, _, h = self.history[-1]
        of_start, of_outer = b * self.start_products, self.lambda_share * self.outer_products
        flows = inner_product([self.lambda_rows, h, h], [of_start, of_outer, self.gram_lambda])
        self.nu_share = momentum * self.nu_share - rate * self.lambda_share
        self.nu_rows = momentum * self.nu_rows - rate * self.lambda_rows
        self.gram_nu = momentum * self.gram_nu - rate * self.gram_lambda
        return -(flows + b * self.lambda_share * self.outer_along)

    def weights(self, rows: Tensor | None) -> Tensor:
        """X nu^T of ``rows``, (B, P): what (6) weighs the slopes of the products with."""
        return self.nu_share * _rows(self.outer_products, rows) + _rows(self.gram_nu, rows)

    def absorb(self, rows: Tensor | None, slope: Tensor, pulled: Tensor, decay: float) -> None:
        """Equations (7) and (8), with d (``slope``) and q (``pulled``) of the step's rows, (B, P)."""
        a, _, g, _ = self.history.pop()
        self.to_start = _added(self.to_start, rows, a * pulled)
        self.to_slope = _added(self.to_slope, rows, self.nu_share * slope)
        self.to_rows = _added(self.to_rows, rows, torch.addmm(pulled @ g.T, slope, self.nu_rows.T))
        self.lambda_share += decay * self.nu_share
        self.lambda_rows = _added(self.lambda_rows + decay * self.nu_rows, rows, pulled)
        self.gram_lambda = self.gram_lambda + decay * self.gram_nu + _columns(self.gram, rows) @ pulled

    def gradient(self) -> Tensor:
        """The gradient of the distilled tensor, in its shape."""
        total = self.to_start @ self.weight + self.to_slope @ self.outer_slope + self.to_rows @ self.inputs
        return total.reshape(self.data.shape)


@dataclass
class SpannedRun:
    """An inner run as two parts: spanned layers, which may be none, and a run of all other parameters.

    Args:
        whole: the run with all parameters.
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

    def read(self, products: Sequence[Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the inner loss reads: the layers' products and the other distilled tensors."""
        return {**others, **{layer.span.data: product for layer, product in zip(self.layers, products)}}

    def joined(self, theta: Sequence[Tensor]) -> list[Tensor]:
        """theta_T of the whole run, in its order, from that of the rest."""
        found = dict(zip(self.rest.keys, theta))
        found |= {(layer.span.group, layer.span.name): layer.reached() for layer in self.layers}
        return [found[key] for key in self.whole.keys]

    def turn(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        """Begin the way back from d outer / d theta_T of the whole run; returns the part of the rest."""
        found = dict(zip(self.whole.keys, slopes))
        own = [found.pop((layer.span.group, layer.span.name)) for layer in self.layers]
        along = fetched([inner_product([layer.weight], [slope]) for layer, slope in zip(self.layers, own)])
        for layer, slope, part in zip(self.layers, own, along):
            layer.turn(slope, float(part))
        return [found[key] for key in self.rest.keys]


def _rows(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor[rows]


def _columns(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor[:, rows]


def _added(total: Tensor, rows: Tensor | None, part: Tensor) -> Tensor:
    """``total`` with ``part`` added to its ``rows``; a new tensor."""
    return total + part if rows is None else total.index_add(0, rows, part)
