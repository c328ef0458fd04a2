"""The exact estimators against each other, finite differences and maths written a second time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from towers import TOWERS, Problem, Transformer, make_problem, outputs, relative_error

from vldistill.distillation.metagrad.backward_sweep import hypergradient
from vldistill.distillation.metagrad.matching import matching_loss

SETTINGS = [  # per-step rates, momentum, weight decay
    (False, 0.0, 0.0),
    (True, 0.0, 0.0),
    (False, 0.9, 0.0),
    (False, 0.0, 0.02),
    (True, 0.8, 0.02),
]


def by_hand(problem: Problem, momentum: float, weight_decay: float) -> tuple[Tensor, dict, dict, dict]:
    """The same run with torch.func and torch.optim.SGD's update rule, and autograd through it."""
    s = {name: x.clone().requires_grad_() for name, x in problem.distilled.items()}
    eta = {group: rate.clone().requires_grad_() for group, rate in problem.rates.items()}
    params = {k: {name: p.clone() for name, p in group.items()} for k, group in problem.start.items()}
    buffers: dict = {k: {} for k in params}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for t, step in enumerate(problem.steps):
            slopes = torch.func.grad(lambda p, step=step: problem.inner_loss(p, s, step))(params)
            moved: dict = {}
            for k, group in params.items():
                rate = eta[k] if eta[k].ndim == 0 else eta[k][t]
                moved[k] = {}
                for name, p in group.items():
                    slope = slopes[k][name] + weight_decay * p
                    buffers[k][name] = momentum * buffers[k][name] + slope if t else slope
                    moved[k][name] = p - rate * buffers[k][name]
            params = moved
    value = problem.outer_loss(params)
    value.backward()
    return value, {n: x.grad for n, x in s.items()}, {k: x.grad for k, x in eta.items()}, params


@pytest.mark.parametrize(("per_step", "momentum", "weight_decay"), SETTINGS)
@pytest.mark.parametrize("tower", TOWERS)
def test_adjoint_equals_unrolled(tower: str, per_step: bool, momentum: float, weight_decay: float) -> None:
    problem = make_problem(TOWERS[tower], per_step=per_step)
    options = {"momentum": momentum, "weight_decay": weight_decay}
    expected = outputs(problem.gradient("unrolled", **options))
    found = outputs(problem.gradient("adjoint", **options))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape
        assert not tensor.requires_grad
        assert expected[name].norm() > 0, name
        assert relative_error(tensor, expected[name]) <= 1e-9, name


@pytest.mark.parametrize(("per_step", "momentum", "weight_decay"), SETTINGS[::2])
@pytest.mark.parametrize("tower", TOWERS)
def test_unrolled_equals_maths_written_by_hand(
    tower: str, per_step: bool, momentum: float, weight_decay: float
) -> None:
    problem = make_problem(TOWERS[tower], seed=1, per_step=per_step)
    result = problem.gradient("unrolled", momentum=momentum, weight_decay=weight_decay)
    value, distilled, rates, params = by_hand(problem, momentum, weight_decay)
    assert relative_error(result.value, value.detach()) <= 1e-12
    for name, gradient in distilled.items():
        assert relative_error(result.distilled[name], gradient) <= 1e-9, name
    for group, gradient in rates.items():
        assert relative_error(result.rates[group], gradient) <= 1e-9, group
    for k, group in params.items():
        for name, p in group.items():
            assert relative_error(result.params[k][name], p.detach()) <= 1e-12


@pytest.mark.parametrize("estimator", ["unrolled", "adjoint"])
def test_theta_is_where_torch_optim_arrives(estimator: str) -> None:
    problem = make_problem(TOWERS["smooth"])
    params = {k: {n: p.clone().requires_grad_() for n, p in g.items()} for k, g in problem.start.items()}
    groups = [{"params": list(g.values()), "lr": problem.rates[k].item()} for k, g in params.items()]
    optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.02)
    for step in problem.steps:
        optimiser.zero_grad()
        problem.inner_loss(params, problem.distilled, step).backward()
        optimiser.step()
    result = problem.gradient(estimator, momentum=0.9, weight_decay=0.02)
    for k, group in params.items():
        for name, p in group.items():
            assert relative_error(result.params[k][name], p.detach()) <= 1e-12


@pytest.mark.parametrize("tower", TOWERS)
def test_unrolled_against_finite_differences_of_the_outer_value(tower: str) -> None:
    problem = make_problem(TOWERS[tower], seed=2, per_step=True)
    options = {"momentum": 0.5, "weight_decay": 0.01}
    result = problem.gradient("unrolled", **options)
    generator = torch.Generator().manual_seed(0)
    for kind, gradients in (("distilled", result.distilled), ("rates", result.rates)):
        for name, gradient in gradients.items():
            way = torch.randn(gradient.shape, dtype=gradient.dtype, generator=generator)
            values = []
            for sign in (1, -1):
                moved = dict(getattr(problem, kind))
                moved[name] = moved[name] + sign * 1e-6 * way
                values.append(replace(problem, **{kind: moved}).gradient("adjoint", **options).value)
            slope = (values[0] - values[1]) / 2e-6
            assert slope.item() == pytest.approx((gradient * way).sum().item(), rel=1e-5, abs=1e-9), name


def test_gradcheck_on_linear_heads() -> None:
    """torch's own numerical Jacobian of the outer value, over every entry of data and rates."""
    generator = torch.Generator().manual_seed(0)
    features, texts, image, text = (
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((6, 3), (6, 2), (4, 3), (4, 2))
    )
    start = {"image": {"weight": image}, "text": {"weight": text}}
    target = {"image": {"weight": image + 0.1}, "text": {"weight": text - 0.2}}
    steps = make_problem(TOWERS["smooth"]).steps

    def inner(params: dict, s: dict, step) -> Tensor:
        x = F.normalize(s["images"][step.index] @ params["image"]["weight"].T, dim=1)
        y = F.normalize(s["texts"][step.index] @ params["text"]["weight"].T, dim=1)
        return F.cross_entropy(3 * x @ y.T, torch.arange(len(x)))

    class Outer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images, texts, image_rate, text_rate):  # pyright: ignore[reportIncompatibleMethodOverride]
            result = hypergradient(
                inner,
                lambda params: matching_loss(params, start, target, "ratio_of_sums").value,
                start,
                {"images": images, "texts": texts},
                {"image": image_rate, "text": text_rate},
                steps,
                momentum=0.7,
                weight_decay=0.05,
            )
            ctx.gradients = [*result.distilled.values(), *result.rates.values()]
            return result.value

        @staticmethod
        def backward(ctx, slope):  # pyright: ignore[reportIncompatibleMethodOverride]
            return tuple(slope * gradient for gradient in ctx.gradients)

    rates = (torch.linspace(0.2, 0.4, 5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64))
    inputs = [x.requires_grad_() for x in (features, texts, *rates)]
    assert torch.autograd.gradcheck(Outer.apply, inputs)


@pytest.mark.parametrize("tower", TOWERS)
def test_tesla_is_exact_for_one_step(tower: str) -> None:
    problem = make_problem(TOWERS[tower]).take(1)
    expected = outputs(problem.gradient("unrolled", weight_decay=0.02))
    for name, tensor in outputs(problem.gradient("tesla", weight_decay=0.02)).items():
        assert relative_error(tensor, expected[name]) <= 1e-9, name


def test_tesla_differs_from_the_exact_gradient_for_three_steps() -> None:
    problem = make_problem(TOWERS["smooth"]).take(3)
    exact, tesla = problem.gradient("adjoint"), problem.gradient("tesla")
    assert torch.equal(exact.value, tesla.value)
    for name in exact.distilled:
        assert relative_error(tesla.distilled[name], exact.distilled[name]) > 1e-2, name
    for group in exact.rates:
        assert relative_error(tesla.rates[group], exact.rates[group]) > 1e-3, group


@pytest.mark.parametrize("tower", TOWERS)
def test_tesla_is_the_published_two_pass_formula(tower: str) -> None:
    """Pass 1: G = sum g_i. Pass 2: 2 d/ds of [eta (theta* - theta_0) + eta^2 G] . g_i / |theta_0 - theta*|^2."""
    problem = make_problem(TOWERS[tower], seed=3)
    keys = [(k, name) for k, group in problem.start.items() for name in group]
    gap = [problem.target[k][name] - problem.start[k][name] for k, name in keys]
    length = {k: sum(d.square().sum() for d, (group, _) in zip(gap, keys) if group == k) for k in problem.start}
    s = {name: x.clone().requires_grad_() for name, x in problem.distilled.items()}

    def g(thetas: list[Tensor], step, create_graph: bool) -> tuple[Tensor, ...]:
        params: dict = {k: {} for k in problem.start}
        for (k, name), theta in zip(keys, thetas):
            params[k][name] = theta
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.autograd.grad(problem.inner_loss(params, s, step), thetas, create_graph=create_graph)

    theta = [problem.start[k][name].clone().requires_grad_() for k, name in keys]
    total, path = [torch.zeros_like(p) for p in theta], [theta]
    for step in problem.steps:
        slopes = g(path[-1], step, create_graph=False)
        total = [a + b for a, b in zip(total, slopes)]
        path.append(
            [(p - problem.rates[k] * x).detach().requires_grad_() for (k, _), p, x in zip(keys, path[-1], slopes)]
        )
    for step, thetas in zip(problem.steps, path):
        c = torch.zeros((), dtype=torch.float64)
        for (k, _), slope, way, sum_of_g in zip(keys, g(thetas, step, create_graph=True), gap, total):
            eta = problem.rates[k]
            c = c + ((eta * way + eta**2 * sum_of_g) * slope).sum() / length[k]
        (2 * c).backward()
    eta = {k: rate.clone().requires_grad_() for k, rate in problem.rates.items()}
    value = sum(
        (problem.start[k][name] - eta[k] * x - problem.target[k][name]).square().sum() / length[k]
        for (k, name), x in zip(keys, total)
    )
    assert isinstance(value, Tensor)
    value.backward()

    result = problem.gradient("tesla")
    assert relative_error(result.value, value.detach()) <= 1e-12
    for name, tensor in s.items():
        assert tensor.grad is not None
        assert relative_error(result.distilled[name], tensor.grad) <= 1e-9, name
    for k, rate in eta.items():
        assert rate.grad is not None
        assert relative_error(result.rates[k], rate.grad) <= 1e-9, k


def test_the_transformer_test_means_something() -> None:
    """Outside `hypergradient` this tower's attention is fused and has no second derivative."""
    problem = make_problem(Transformer)
    theta = {k: {n: p.clone().requires_grad_() for n, p in g.items()} for k, g in problem.start.items()}
    leaves = [p for group in theta.values() for p in group.values()]
    loss = problem.inner_loss(theta, problem.distilled, problem.steps[0])
    slopes = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(slopes, leaves, slopes)


@pytest.mark.parametrize("estimator", ["unrolled", "adjoint", "tesla", "difference"])
def test_what_the_inner_loss_does_not_use_gets_zero(estimator: str) -> None:
    problem = make_problem(TOWERS["smooth"])
    extra = {"masks": torch.ones(3, 2, dtype=torch.float64)}
    start = {**problem.start, "text": {**problem.start["text"], "idle": torch.ones(2, dtype=torch.float64)}}
    target = {**problem.target, "text": {**problem.target["text"], "idle": torch.zeros(2, dtype=torch.float64)}}

    def inner(params: dict, s: dict, step) -> Tensor:
        used = {"image": params["image"], "text": {n: p for n, p in params["text"].items() if n != "idle"}}
        return problem.inner_loss(used, s, step)

    result = hypergradient(
        inner,
        lambda params: matching_loss(params, start, target).value,
        start,
        problem.distilled | extra,
        problem.rates,
        problem.steps,
        estimator=estimator,
    )
    assert torch.equal(result.distilled["masks"], torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(result.params["text"]["idle"], start["text"]["idle"])
    assert result.distilled["images"].norm() > 0


@pytest.mark.parametrize(
    ("estimator", "dtype"), list(product(["unrolled", "adjoint", "tesla"], [torch.float32, torch.bfloat16]))
)
def test_dtypes_are_kept_and_nothing_given_is_changed(estimator: str, dtype: torch.dtype) -> None:
    problem = make_problem(TOWERS["depthwise"], dtype=dtype, per_step=True)
    given = [p for group in problem.start.values() for p in group.values()]
    given += [*problem.distilled.values(), *problem.rates.values()]
    before = [tensor.clone() for tensor in given]
    result = problem.gradient(estimator)
    assert all(tensor.dtype == dtype for tensor in outputs(result).values() if tensor.ndim)
    assert {group: rate.shape for group, rate in result.rates.items()} == {"image": (5,), "text": ()}
    assert all(torch.equal(a, b) and not a.requires_grad and a.grad is None for a, b in zip(given, before))


@pytest.mark.parametrize("estimator", ["adjoint", "unrolled"])
def test_it_works_under_no_grad(estimator: str) -> None:
    problem = make_problem(TOWERS["smooth"])
    expected = problem.gradient(estimator)
    with torch.no_grad():
        found = problem.gradient(estimator)
    assert torch.equal(found.distilled["images"], expected.distilled["images"])
