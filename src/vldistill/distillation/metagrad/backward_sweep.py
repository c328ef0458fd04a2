"""The backward sweep: equations (4) to (8) of the package, from the last inner step to the first."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vldistill.distillation.metagrad.difference import difference_error, pull_difference
from vldistill.distillation.metagrad.double_backward import Wanted
from vldistill.distillation.metagrad.inner import (
    InnerLoss,
    InnerRun,
    InnerStep,
    OuterLoss,
    Params,
    Pulled,
    filled,
    inner_product,
    leaf,
)
from vldistill.distillation.metagrad.input_span import Span, SpannedRun
from vldistill.distillation.metagrad.tape import Tape, TapeStorage, tensor_bytes
from vldistill.errors import ConfigError, MatchingError
from vldistill.runtime.devices import moved
from vldistill.runtime.memory import GraphBytes, available_memory

TAPE_SHARE = 0.25  # of the memory left on the device: for parameter copies, the others go to a temporary file
GRAPH_SHARE = 0.1  # of the memory left on the device: share for graphs of spanned steps; the others are recomputed


class NonFiniteError(MatchingError):
    """An inner run that ended in an infinite or undefined outer loss."""


@dataclass
class Hypergradient:
    """What `hypergradient` returns; all tensors are detached.

    ``value`` (): the outer loss. ``distilled``: gradient per distilled tensor, in its shape. ``rates``:
    gradient per group, in the rate's shape. ``params``: theta_T. ``estimated_error``: only for
    `difference`, its relative error as estimated at the last inner step.
    """

    value: Tensor
    distilled: dict[str, Tensor]
    rates: dict[str, Tensor]
    params: Params
    estimated_error: float | None = None


def hypergradient(
    inner_loss: InnerLoss,
    outer_loss: OuterLoss,
    start: Mapping[str, Mapping[str, Tensor]],
    distilled: Mapping[str, Tensor],
    rates: Mapping[str, Tensor],
    steps: Sequence[InnerStep],
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    estimator: str = "adjoint",
    storage: TapeStorage | None = None,
    spans: Sequence[Span] = (),
) -> Hypergradient:
    """The gradient of ``outer_loss(theta_T)`` with respect to ``distilled`` and ``rates``.

    ``inner_loss(params, distilled, step)`` -> scalar: deterministic in its arguments, picks its own rows.
    ``outer_loss(params)`` -> scalar. ``start`` {group: {name: tensor}}: the trained parameters only.
    ``distilled`` {name: tensor}: a tensor that the inner loss does not use gets a zero gradient. ``rates``
    {group: () or (T,)}: above zero, one for each group of ``start``. ``steps``: T of them.
    ``storage``: where the copies theta_0 .. theta_T are kept; `tape_bytes` computes their size. Without it, a
    part of the memory that the device has left, then a temporary file.
    ``spans``: linear layers that read distilled rows and nothing else; with `adjoint` they are never written out, and
    the inner loss gets their products (:class:`~vldistill.distillation.metagrad.input_span.Span`).

    Attention inside ``inner_loss`` is computed with the math kernel, because the fused ones cannot be
    differentiated twice; `difference` leaves the choice of kernel alone.

    Raises `ConfigError` for an unknown or impossible estimator and for impossible settings,
    `MatchingError` for a problem without a meaning or when `difference` finds itself inexact, and
    `NonFiniteError` when the outer loss is not finite.
    """
    run = InnerRun.build(inner_loss, start, distilled, rates, steps, momentum, weight_decay, estimator)
    if spans and estimator != "adjoint":
        raise ConfigError(f"spans are for estimator 'adjoint', not '{estimator}'.")
    if estimator == "unrolled":
        return _unrolled(run, outer_loss, rates)
    spanned = SpannedRun.build(run, spans)
    copies = tensor_bytes(spanned.rest.start) * (2 if momentum else 1)
    storage = storage or TapeStorage(int(TAPE_SHARE * available_memory(spanned.rest.start[0].device)))
    with Tape(storage, copies, len(steps)) as tape:
        forward = _forward(spanned, tape)
        return _sweep(spanned, outer_loss, rates, tape, forward, estimator)


def advance(
    inner_loss: InnerLoss,
    start: Params,
    distilled: Mapping[str, Tensor],
    rates: Mapping[str, Tensor],
    steps: Sequence[InnerStep],
    *,
    weight_decay: float = 0.0,
    spans: Sequence[Span] = (),
) -> Params:
    """theta_T alone: a run that nothing flows back through, to where one begins that is differentiated.

    Arguments are those of :func:`hypergradient`, and so are the errors; no steps give ``start`` back.
    """
    if not steps:
        return start
    run = InnerRun.build(inner_loss, start, distilled, rates, steps, 0.0, weight_decay, "adjoint")
    spanned = SpannedRun.build(run, spans)
    theta = spanned.rest.start
    for t in range(len(steps)):
        rows = spanned.rows(t)
        read = [layer.products(index) for layer, index in zip(spanned.layers, rows)]
        g = _first_order(spanned, t, theta, read)
        for layer, index, slope in zip(spanned.layers, rows, g[len(theta) :]):
            layer.move(index, slope, run.eta[layer.span.group][t], 0.0, weight_decay)
        theta = spanned.rest.moved(t, theta, spanned.rest.velocity(g[: len(theta)], theta, None))
    return run.named(spanned.joined(theta))


def _first_order(spanned: SpannedRun, t: int, theta: Sequence[Tensor], products: Sequence[Tensor]) -> list[Tensor]:
    """g_t of the parameters and of the products of spanned layers."""
    leaves, reads = ([leaf(tensor) for tensor in part] for part in (theta, products))
    loss = spanned.rest.loss(t, leaves, spanned.read(reads, spanned.rest.distilled))
    return filled(torch.autograd.grad(loss, [*leaves, *reads], allow_unused=True), [*theta, *products])


def _outer(run: InnerRun, outer_loss: OuterLoss, theta: Sequence[Tensor]) -> Tensor:
    """outer(theta_T), checked."""
    with torch.enable_grad():
        value = outer_loss(run.named(theta))
    if value.numel() != 1:
        raise MatchingError(f"the outer loss has shape {tuple(value.shape)}: expected a scalar.")
    if not value.requires_grad:
        raise MatchingError("the outer loss does not depend on the parameters it was given.")
    if not value.is_meta and not torch.isfinite(value.detach()).item():  # shapes alone have no value
        largest = {group: max(values) for group, values in run.eta.items()}
        raise NonFiniteError(
            f"the outer loss is {value.item()} after {len(run.steps)} inner steps with rates of at most "
            f"{largest}: lower the rates, or start from data closer to real pairs."
        )
    return value


def _unrolled(run: InnerRun, outer_loss: OuterLoss, rates: Mapping[str, Tensor]) -> Hypergradient:
    """Autograd through all steps at once: the reference; memory linear in T."""
    s = {name: leaf(tensor) for name, tensor in run.distilled.items()}
    place = run.start[0].device
    eta = {group: leaf(moved(rates[group].detach(), place)) for group in run.eta}
    theta: list[Tensor] = [leaf(tensor) for tensor in run.start]
    v: list[Tensor] | None = None
    with torch.enable_grad():
        for t in range(len(run.steps)):
            loss = run.loss(t, theta, s)
            g = filled(torch.autograd.grad(loss, theta, create_graph=True, allow_unused=True), theta)
            v = run.velocity(g, theta, v)
            rate = {group: value if value.ndim == 0 else value[t] for group, value in eta.items()}
            theta = [p - rate[k] * x for (k, _), p, x in zip(run.keys, theta, v)]
            del loss, g
        value = _outer(run, outer_loss, theta)
    inputs = [*s.values(), *eta.values()]
    grads = filled(torch.autograd.grad(value, inputs, allow_unused=True), inputs)
    return Hypergradient(
        value=value.detach(),
        distilled=dict(zip(s, grads)),
        rates=_beside(dict(zip(eta, grads[len(s) :])), rates),
        params=run.named([tensor.detach() for tensor in theta]),
    )


@dataclass
class _Graph:
    """The graph of one inner step, up to its gradient."""

    theta: list[Tensor]
    distilled: dict[str, Tensor]
    g: list[Tensor | None]
    wanted: Wanted


@dataclass
class _Forward:
    """What the forward run leaves: theta_T without spanned layers, kept graphs by step, products of every step."""

    theta: list[Tensor]
    graphs: dict[int, _Graph]
    products: list[list[Tensor]]


def _sweep(
    spanned: SpannedRun,
    outer_loss: OuterLoss,
    rates: Mapping[str, Tensor],
    tape: Tape,
    forward: _Forward,
    estimator: str,
) -> Hypergradient:
    """Equations (4) to (8) from the last step to the first.

    Lists over what the steps move begin with the parameters and end with the products of spanned layers, if any.
    """
    run, layers, count = spanned.rest, spanned.layers, len(spanned.rest.start)
    graphs = forward.graphs
    reached = spanned.joined(forward.theta)
    value, slope = _outer_gradient(spanned.whole, outer_loss, reached)
    lam = spanned.turn(slope)
    nu = [torch.zeros_like(x) for x in lam]
    ds: list[Tensor | None] = [None] * len(run.distilled)
    slopes: dict[str, list[Tensor]] = {group: [] for group in run.eta}
    error: float | None = None
    for t in reversed(range(len(run.steps))):
        taped = tape.pop()
        theta_t, v = taped[:count], taped[count:]
        for (group, _), n, x in zip(run.keys, nu, lam):
            n.mul_(run.momentum).add_(x, alpha=-run.eta[group][t])  # (4)
        rows = spanned.rows(t)
        flows = [layer.back(run.eta[layer.span.group][t], run.momentum) for layer in layers]
        if run.second_order:
            weights = [*nu, *(layer.weights(index) for layer, index in zip(layers, rows))]
            graph = graphs.pop(t, None) or _graph(spanned, t, theta_t, forward.products[t])
            # before theta_0 there is nothing to go back to; products of spanned layers lead to distilled rows
            pulled = _pull_exact(graph, weights, first=0 if t > 0 and estimator == "adjoint" else count)
            del graph
        else:
            pulled = pull_difference(run, t, theta_t, nu)
            error = difference_error(run, t, theta_t, nu, pulled) if error is None else error
        v = v or run.velocity(pulled.g[:count], theta_t, None)
        for group, members in run.members.items():  # (5)
            own = [flow for layer, flow in zip(layers, flows) if layer.span.group == group]
            own += [-inner_product([v[i] for i in members], [lam[i] for i in members])] if members else []
            slopes[group].append(torch.stack(own).sum())
        ds = [_plus(total, part) for total, part in zip(ds, pulled.distilled)]  # (7)
        if estimator != "tesla":  # (8)
            for x, n, part in zip(lam, nu, pulled.theta):
                if run.weight_decay:
                    x.add_(n, alpha=run.weight_decay)
                if part is not None:
                    x.add_(part)
        for layer, index, slope, part in zip(layers, rows, pulled.g[count:], pulled.theta[count:]):
            layer.absorb(index, slope, torch.zeros_like(slope) if part is None else part, run.weight_decay)
        del taped, theta_t, v, pulled  # before the next graph is built
    gradients = {
        name: torch.zeros_like(tensor) if part is None else part
        for (name, tensor), part in zip(run.distilled.items(), ds)
    }
    gradients |= {layer.span.data: layer.gradient() for layer in layers}
    return Hypergradient(value, gradients, _rate_gradients(slopes, rates), spanned.whole.named(reached), error)


def _forward(spanned: SpannedRun, tape: Tape) -> _Forward:
    """Equations (1) to (3), with every theta_t (and with momentum v_{t+1}) on the tape.

    First-order gradients, one step's graph at a time. The last step's graph is the first one that the sweep
    needs, so it is built ready for that and kept, which saves one pass. Where layers are spanned, what is left of a
    step is small: graphs of the first steps are kept too while there is room, and the others are recomputed from the
    same numbers.
    """
    run, layers, last = spanned.rest, spanned.layers, len(spanned.rest.steps) - 1
    theta, v, graphs, read = run.start, None, dict[int, _Graph](), list[list[Tensor]]()
    room, size = GRAPH_SHARE * available_memory(theta[0].device) if layers else 0, 0
    for t in range(last + 1):
        rows = spanned.rows(t)
        read.append([layer.products(index) for layer, index in zip(layers, rows)])
        if room > 0 or (run.second_order and t == last):
            counted = GraphBytes()
            with counted if layers and not size else contextlib.nullcontext():  # steps are alike: one is measured
                graphs[t] = _graph(spanned, t, theta, read[t])
            size = size or counted.count
            room -= size
            kept = graphs[t]
            if room < 0 and t != last:  # no room: recomputed when the sweep reaches it
                del graphs[t]
            g = filled([None if x is None else x.detach() for x in kept.g], kept.theta)
            del kept
        else:
            g = _first_order(spanned, t, theta, read[t])
        v = run.velocity(g[: len(theta)], theta, v)
        tape.push([*theta, *v] if run.momentum else theta)
        for layer, index, slope in zip(layers, rows, g[len(theta) :]):
            layer.move(index, slope, run.eta[layer.span.group][t], run.momentum, run.weight_decay)
        theta = run.moved(t, theta, v)
        v = v if run.momentum else None
        del g
    return _Forward(theta, graphs, read)


def _outer_gradient(run: InnerRun, outer_loss: OuterLoss, theta: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """outer(theta_T) and lambda = d outer / d theta_T, which the sweep will write into."""
    leaves = [leaf(tensor) for tensor in theta]
    value = _outer(run, outer_loss, leaves)
    lam = filled(torch.autograd.grad(value, leaves, allow_unused=True), leaves)
    return value.detach(), [x.clone() for x in lam]  # autograd may hand out one tensor twice, or an expanded one


def _graph(spanned: SpannedRun, t: int, theta: Sequence[Tensor], products: Sequence[Tensor]) -> _Graph:
    """Step t's graph alone: g_t as a function of theta_t, the products of spanned layers, and s."""
    leaves, reads = ([leaf(tensor) for tensor in part] for part in (theta, products))
    s = {name: leaf(tensor) for name, tensor in spanned.rest.distilled.items()}
    wanted = Wanted()
    loss = spanned.rest.loss(t, leaves, spanned.read(reads, s), wanted)
    inputs = [*leaves, *reads]
    return _Graph(inputs, s, list(torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)), wanted)


def _pull_exact(graph: _Graph, nu: list[Tensor], first: int) -> Pulled:
    """dh/ds, and dh/dtheta from the tensor ``first`` on, for h = <g_t, nu>, by a second backward; frees the graph."""
    g = filled([None if x is None else x.detach() for x in graph.g], graph.theta)
    inputs = [*graph.distilled.values(), *graph.theta[first:]]
    pairs = [(x, n) for x, n in zip(graph.g, nu) if x is not None and x.requires_grad]
    parts: list[Tensor | None] = [None] * len(inputs)
    if pairs and inputs:
        outputs, weights = zip(*pairs)
        graph.wanted.weights = first == 0  # else no parameter is asked for
        parts = list(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))
    split = len(graph.distilled)
    return Pulled(g, [None] * first + parts[split:], parts[:split])


def _rate_gradients(slopes: dict[str, list[Tensor]], rates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Equation (5), collected from the last step to the first, in the shape of each rate."""
    steps = {group: torch.stack(values[::-1]) for group, values in slopes.items()}
    return _beside({group: each.sum() if rates[group].ndim == 0 else each for group, each in steps.items()}, rates)


def _beside(slopes: Mapping[str, Tensor], rates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of every rate in its shape, in the number format and on the device of the rate, for one wait."""
    if all(slope.is_meta for slope in slopes.values()):
        return slopes if isinstance(slopes, dict) else dict(slopes)
    if all(slope.device == rates[group].device for group, slope in slopes.items()):
        return {group: slope.to(rates[group]) for group, slope in slopes.items()}
    flat = torch.cat([slope.reshape(-1) for slope in slopes.values()]).cpu()
    parts = flat.split([slope.numel() for slope in slopes.values()])
    return {group: part.reshape(slopes[group].shape).to(rates[group]) for group, part in zip(slopes, parts)}


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part
