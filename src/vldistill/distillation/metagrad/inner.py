"""One inner run as the estimators see it: its arguments, checked, and equations (1) to (3) of `metagrad`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vldistill.distillation.metagrad.double_backward import FastDoubleBackward, Wanted
from vldistill.errors import ConfigError, MatchingError, unknown
from vldistill.runtime.devices import moved

ESTIMATORS = ("unrolled", "adjoint", "tesla", "difference")

Params = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class InnerStep:
    """One inner step: its number ``t``, the rows ``index`` (B,) int64 of the distilled set, a ``seed``
    from which everything random in the step (blends, augmentations) is drawn, and which of its pairs are ``equal``
    (B, B): no negatives of each other; None where all differ."""

    t: int
    index: Tensor
    seed: int
    equal: Tensor | None = None

    def rows(self, data: Tensor) -> Tensor | None:
        """The rows (B,) to take of ``data`` (N, ...), on its device; None where they are all of them, in order."""
        count = len(data)
        whole = len(self.index) == count and bool((self.index == torch.arange(count, device=self.index.device)).all())
        return None if whole else moved(self.index, data.device)


InnerLoss = Callable[[Params, dict[str, Tensor], InnerStep], Tensor]
OuterLoss = Callable[[Params], Tensor]


@dataclass
class InnerRun:
    """The arguments of `hypergradient`, checked, with the parameters as one flat list."""

    inner_loss: InnerLoss
    keys: list[tuple[str, str]]  # (group, name) of each parameter
    start: list[Tensor]
    distilled: dict[str, Tensor]
    eta: dict[str, list[float]]  # per group one rate for each step
    steps: Sequence[InnerStep]
    momentum: float
    weight_decay: float
    second_order: bool
    members: dict[str, list[int]] = field(init=False)  # per group the positions in the flat list

    def __post_init__(self) -> None:
        self.members = {group: [] for group in self.eta}
        for position, (group, _) in enumerate(self.keys):
            self.members[group].append(position)

    @classmethod
    def build(
        cls,
        inner_loss: InnerLoss,
        start: Mapping[str, Mapping[str, Tensor]],
        distilled: Mapping[str, Tensor],
        rates: Mapping[str, Tensor],
        steps: Sequence[InnerStep],
        momentum: float,
        weight_decay: float,
        estimator: str,
    ) -> InnerRun:
        """Refuse at once what cannot work."""
        if estimator not in ESTIMATORS:
            raise ConfigError(unknown("estimator", estimator, ESTIMATORS))
        if not steps:
            raise ConfigError("steps is empty: an inner run needs at least one step.")
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum={momentum}: expected 0 <= momentum < 1.")
        if not 0 <= weight_decay < math.inf:
            raise ConfigError(f"weight_decay={weight_decay}: expected 0 or more, and finite.")
        if estimator == "tesla" and momentum:
            raise ConfigError(
                f"estimator 'tesla' has no form with momentum (got momentum={momentum}): "
                "set momentum to 0, or use 'adjoint'."
            )
        _check_tensors(start, distilled, estimator)
        return cls(
            inner_loss=inner_loss,
            keys=[(group, name) for group, tensors in start.items() for name in tensors],
            start=[tensor.detach() for tensors in start.values() for tensor in tensors.values()],
            distilled={name: tensor.detach() for name, tensor in distilled.items()},
            eta=_check_rates(start, rates, len(steps)),
            steps=steps,
            momentum=momentum,
            weight_decay=weight_decay,
            second_order=estimator != "difference",
        )

    def named(self, tensors: Sequence[Tensor]) -> Params:
        """The flat list as {group: {name: tensor}}."""
        params: Params = {group: {} for group in self.eta}
        for (group, name), tensor in zip(self.keys, tensors, strict=True):
            params[group][name] = tensor
        return params

    def loss(
        self, t: int, theta: Sequence[Tensor], distilled: dict[str, Tensor], wanted: Wanted | None = None
    ) -> Tensor:
        """inner(theta, s, t), with layers that can be differentiated twice, and quickly, where that is needed.

        Args:
            wanted: what backwards through its graph are for, see `double_backward`.
        """
        with torch.enable_grad(), contextlib.ExitStack() as stack:
            if self.second_order:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.enter_context(FastDoubleBackward(wanted))
            loss = self.inner_loss(self.named(theta), distilled, self.steps[t])
        if loss.numel() != 1:
            raise MatchingError(f"the inner loss has shape {tuple(loss.shape)}: expected a scalar.")
        if not loss.requires_grad:
            raise MatchingError(
                "the inner loss does not depend on the parameters it was given: compute it with "
                "`params` (torch.func.functional_call), not with the module's own weights."
            )
        return loss

    def velocity(self, g: Sequence[Tensor], theta: Sequence[Tensor], v: Sequence[Tensor] | None) -> list[Tensor]:
        """Equation (2)."""
        new = list(g)
        if self.weight_decay:
            new = [torch.add(x, p, alpha=self.weight_decay) for x, p in zip(new, theta)]
        if v is not None and self.momentum:
            new = [torch.add(x, old, alpha=self.momentum) for x, old in zip(new, v)]
        return new

    def moved(self, t: int, theta: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
        """Equation (3)."""
        return [torch.sub(p, x, alpha=self.eta[k][t]) for (k, _), p, x in zip(self.keys, theta, v)]


def _check_tensors(start: Mapping[str, Mapping[str, Tensor]], distilled: Mapping[str, Tensor], estimator: str) -> None:
    if not any(start.values()):
        raise MatchingError("start has no parameters: nothing is trained in the inner run.")
    named = {f"start[{k!r}][{name!r}]": p for k, group in start.items() for name, p in group.items()}
    named |= {f"distilled[{name!r}]": tensor for name, tensor in distilled.items()}
    for name, tensor in named.items():
        if not tensor.is_floating_point():
            raise MatchingError(f"{name} has dtype {tensor.dtype}: expected a floating-point tensor.")
        if estimator == "difference" and tensor.dtype in (torch.bfloat16, torch.float16):
            raise ConfigError(
                f"{name} has dtype {tensor.dtype}, too coarse for estimator 'difference': "
                "use float32, or estimator 'adjoint'."
            )


def _check_rates(
    start: Mapping[str, Mapping[str, Tensor]], rates: Mapping[str, Tensor], count: int
) -> dict[str, list[float]]:
    """Per group one rate for each of the ``count`` steps."""
    if set(rates) != set(start):
        raise MatchingError(
            f"rates are given for the groups {sorted(rates)}, but start has {sorted(start)}: "
            "expected one rate for each group."
        )
    table = {}
    for group in start:
        rate = rates[group]
        if rate.shape not in ((), (count,)):
            raise MatchingError(
                f"the rate of group {group!r} has shape {tuple(rate.shape)}: "
                f"expected () or one value for each of the {count} steps, ({count},)."
            )
        values = [rate.item()] * count if rate.ndim == 0 else rate.tolist()
        bad = [value for value in values if not (math.isfinite(value) and value > 0)]
        if bad:
            raise MatchingError(f"the rate of group {group!r} is {bad[0]}: expected a finite value above 0.")
        table[group] = values
    return table


@dataclass
class Pulled:
    """g_t, dh/dtheta and dh/ds of one step; ``None`` stands for zero (or, at t = 0, for not needed)."""

    g: list[Tensor]
    theta: list[Tensor | None]
    distilled: list[Tensor | None]


def leaf(tensor: Tensor) -> Tensor:
    """The same values (shared, not copied) as a new start of a graph."""
    return tensor.detach().requires_grad_()


def filled(grads: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> list[Tensor]:
    """``grads`` with zeros for the inputs that a loss does not use."""
    return [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, inputs)]


def inner_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """<left, right> over lists of tensors, added up in float32 or finer."""
    parts = []
    for a, b in zip(left, right, strict=True):
        fine = torch.promote_types(a.dtype, torch.float32)
        parts.append(torch.dot(a.reshape(-1).to(fine), b.reshape(-1).to(fine)))
    return torch.stack(parts).sum()


def norm(tensors: Sequence[Tensor | None]) -> float:
    """The Euclidean norm over a list of tensors; ``None`` is zero."""
    return math.sqrt(sum(float(inner_product([x], [x])) for x in tensors if x is not None))
