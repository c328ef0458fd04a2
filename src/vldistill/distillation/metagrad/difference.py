"""The `difference` estimator: second derivatives along one direction, from first-order gradients only."""

from __future__ import annotations

import torch
from torch import Tensor

from vldistill.distillation.metagrad.inner import InnerRun, Pulled, filled, leaf, norm
from vldistill.errors import MatchingError

MAX_DIFFERENCE_ERROR = 0.01
# The step moves no group by more than this times eps^(1/3) of its norm (8e-4 of it in float32). Rounding errors
# go with 1 / step, truncation with its square; the smaller steps suit later t, where nu is stiffer: on nfnet_l0 in
# float32 dh/ds is off by 2e-4, five times less than without the factor, and small stiff towers gain more.
STEP = 1 / 6
WIDER = 4.0  # the second step of the error estimate; wide, so that it also meets the kinks of a small tower


def pull_difference(run: InnerRun, t: int, theta: list[Tensor], nu: list[Tensor], widen: float = 1.0) -> Pulled:
    """g_t, dh/dtheta and dh/ds from the first-order gradients at theta + e nu and theta - e nu.

    By symmetry of second derivatives dh/dx = (d/de) d inner(theta + e nu, s, t) / dx at e = 0, for x = theta
    and x = s alike. e is chosen so that the parameters of no group move by more than a fixed part of their
    norm (`STEP`).
    """
    step = widen * _difference_step(run, theta, nu)
    if step == 0:  # nu = 0: one gradient is enough
        sides = [_both_gradients(run, t, theta)] * 2
        step = 1.0
    else:
        sides = [
            _both_gradients(run, t, [torch.add(p, n, alpha=sign * step) for p, n in zip(theta, nu)]) for sign in (1, -1)
        ]
    (g_up, s_up), (g_down, s_down) = sides
    scale = 1 / (2 * step)
    return Pulled(
        g=[(a + b) / 2 for a, b in zip(g_up, g_down)],
        theta=[(a - b) * scale for a, b in zip(g_up, g_down)],
        distilled=[(a - b) * scale for a, b in zip(s_up, s_down)],
    )


def _both_gradients(run: InnerRun, t: int, theta: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """First-order gradients of the inner loss with respect to theta and s."""
    leaves = [leaf(tensor) for tensor in theta]
    s = {name: leaf(tensor) for name, tensor in run.distilled.items()}
    inputs = [*leaves, *s.values()]
    grads = filled(torch.autograd.grad(run.loss(t, leaves, s), inputs, allow_unused=True), inputs)
    return grads[: len(leaves)], grads[len(leaves) :]


def _difference_step(run: InnerRun, theta: list[Tensor], nu: list[Tensor]) -> float:
    """e of the central difference; 0 if nu is zero."""
    sizes = []
    for members in run.members.values():
        way = norm([nu[i] for i in members])
        if way > 0:
            sizes.append((norm([theta[i] for i in members]) or 1.0) / way)
    eps = max(torch.finfo(tensor.dtype).eps for tensor in theta)
    return min(sizes, default=0.0) * STEP * eps ** (1 / 3)


def difference_error(run: InnerRun, t: int, theta: list[Tensor], nu: list[Tensor], pulled: Pulled) -> float:
    """The relative change of dh/ds and dh/dtheta when the step is `WIDER`; above 1 % is refused.

    Rounding changes them by its own size, truncation by 15 times its size at the narrow step (which leaves room for
    the later steps, which pass errors on and add theirs), and a kink (ReLU) by all of it. The largest change over
    the distilled tensors and the groups counts.
    """
    wide = pull_difference(run, t, theta, nu, widen=WIDER)
    parts = {
        f"distilled tensor {name!r}": ([a], [b]) for name, a, b in zip(run.distilled, pulled.distilled, wide.distilled)
    }
    for group, members in run.members.items():
        parts[f"group {group!r}"] = ([pulled.theta[i] for i in members], [wide.theta[i] for i in members])
    worst, where = 0.0, ""
    for name, (narrow_part, wide_part) in parts.items():
        size = norm(narrow_part)
        gap = norm([a - b for a, b in zip(narrow_part, wide_part) if a is not None and b is not None])
        error = gap / size if size > 0 else 0.0
        if not error <= worst:  # also when it is nan
            worst, where = error, name
    if not worst <= MAX_DIFFERENCE_ERROR:
        raise MatchingError(
            f"estimator 'difference' is off by about {worst:.1%} for {where}, more than "
            f"{MAX_DIFFERENCE_ERROR:.0%}: the tower is not smooth (ReLU, ReLU6) or the gradients are too "
            "coarse. Use estimator 'adjoint'."
        )
    return worst
