"""kernel: scores against wide random heads that take the step, written out; gradients against values; the pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from double import assert_slopes, double_bench, prepared

from vldistill.distillation.kernels import kernel_named
from vldistill.distillation.method import Context, State
from vldistill.distillation.methods.kernel import LEARNED, KernelOptions, closed_form_scores
from vldistill.distillation.real_batches import real_batch
from vldistill.distillation.student_pool import StudentPool
from vldistill.encoders.dual import SIDES, packed
from vldistill.errors import ConfigError
from vldistill.training.losses import infonce
from vldistill.workbench.bench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return double_bench(tmp_path_factory.mktemp("kernel"))


def rows(seed: int, count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(ridge: float, step: float) -> dict[str, torch.Tensor]:
    values = dict(zip(LEARNED, (ridge, ridge, step)))
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_scores_are_those_of_wide_heads_after_one_step() -> None:
    x, y, real_x, real_y = rows(0, 4, 5), rows(1, 4, 3), rows(2, 6, 5), rows(3, 6, 3)
    width, step = 60_000, 0.7
    start = rows(4, width, 5) / (5 * width) ** 0.5, rows(5, width, 3) / (3 * width) ** 0.5
    weights = [side.clone().requires_grad_(True) for side in start]
    flat = torch.zeros(4, 4, dtype=torch.float64)  # a high temperature: the slopes of InfoNCE at equal logits
    logits = (x @ weights[0].T) @ (y @ weights[1].T).T
    slopes = torch.autograd.grad(logits, weights, torch.autograd.functional.jacobian(infonce, flat))
    image, text = (w.detach() - 4 * step * s * c for w, s, c in zip(weights, slopes, (1 / 5, 1 / 3)))
    wanted = F.normalize(real_x @ image.T, dim=1) @ F.normalize(real_y @ text.T, dim=1).T
    kernels: dict[str, Any] = {side: kernel_named("linear", 0) for side in SIDES}
    found = closed_form_scores(kernels, (x, y), (real_x, real_y), numbers(1e9, step))
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)


def slow_value(bench: Workbench, context: Context[Any], state: State) -> float:
    """The loss at the variables of ``state``, pair by pair."""
    options, v = context.options, state.variables
    images, (captions,) = real_batch(context, options.real_batch, 1)
    data, draw = bench.split("train").data, context.generator("noise")
    real = data.images.rows(images), data.texts.rows(captions)
    x, y = (side + options.noise * torch.randn(side.shape, generator=draw).double() for side in real)
    learned = [bench.image_inputs(v["images"]), v["texts"]]
    k = kernel_named(options.kernel, 8)
    grams = [k(side, side).numpy() for side in learned]
    count = len(grams[0])
    found = []
    same = np.eye(count, dtype=bool)
    if context.text_numbers is not None:
        same = np.equal.outer(context.text_numbers[:, 0], context.text_numbers[:, 0])
    share = (~same | np.eye(count, dtype=bool)).astype(float)
    centred = np.eye(count) - (share / share.sum(1, keepdims=True)).T
    for side, ridge, shown in ((0, "log_ridge_image", x), (1, "log_ridge_text", y)):
        gram, size = grams[side], float(v[ridge].exp()) * np.trace(grams[side]) / count
        damped = np.linalg.inv(np.eye(count) + gram / size) @ k(learned[side], shown).numpy()
        found.append(centred @ damped)
    t, logits = float(v["log_step"].exp()), np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            a, b = found[0][:, i], found[1][:, j]
            norms = [
                float(k(z[None], z[None])) + t * t * e @ g @ e for z, e, g in ((x[i], a, grams[1]), (y[j], b, grams[0]))
            ]
            logits[i, j] = 2 * t * a @ b / np.sqrt(norms[0] * norms[1]) / options.temperature
    return float(infonce(torch.from_numpy(logits)))


@pytest.mark.parametrize(("name", "classes"), [("linear", None), ("ntk", None), ("linear", [0, 1, 0, 2, 1])])
def test_value_and_gradient(bench: Workbench, name: str, classes: list[int] | None) -> None:
    options = KernelOptions(kernel=name, real_batch=7, ridge=0.8, noise=0.2)
    method, context, state = prepared(bench, [], "kernel", options)
    if classes is not None:
        context = replace(context, text_numbers=torch.tensor(classes)[:, None])
    update = method.step(state, context)
    assert update.value == pytest.approx(slow_value(bench, context, state), rel=1e-9)
    assert update.gradients.keys() == state.variables.keys()
    assert_slopes(lambda moved: slow_value(bench, context, moved), state, update.gradients)


def test_the_pool_is_trained_in_turn_and_renewed(bench: Workbench) -> None:
    options = KernelOptions(students=2, online_steps=3, real_batch=7, student_rate=0.1, student_temperature=0.5)
    method, context, state = prepared(bench, [], "kernel", options)
    begun = StudentPool.begun(context, 2)
    assert begun.keys() == state.carried.keys() and torch.equal(
        begun["student1/image/mix.bias"], state.carried["student1/image/mix.bias"]
    )
    features = bench.image_inputs(state.variables["images"])
    renewed = []
    for iteration in range(10):
        at, name = context.at(iteration), f"student{iteration % 2}/"
        fresh = packed(bench.student(at.seed_of("pool")).trained(), name)
        update = method.step(state, at)
        assert update.carried.keys() == fresh.keys()
        key = f"{name}image/mix.weight"
        olds = {"carried": state.carried[key], "fresh": fresh[key].detach()}
        source = min(olds, key=lambda old: float((update.carried[key] - olds[old]).norm()))
        renewed.append(source == "fresh")
        student = bench.student(0)
        values = fresh if source == "fresh" else state.carried
        for side, named in student.trained().items():
            for part, p in named.items():
                p.data.copy_(values[f"{name}{side}/{part}"])
        optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
        cosines = student.embed("image", features) @ student.embed("text", state.variables["texts"]).T
        infonce(cosines / 0.5).backward()
        optimiser.step()
        torch.testing.assert_close(update.carried, {k: p.detach() for k, p in packed(student.trained(), name).items()})
        state.carried.update(update.carried)
    assert renewed == [iteration in (5, 6) for iteration in range(10)]


def test_what_cannot_be() -> None:
    for options in (
        {"kernel": "cubic"}, {"ridge": 0.0}, {"step": -1.0}, {"temperature": 0.0}, {"noise": -1.0}, {"students": -1},
        {"online_steps": 0}, {"real_batch": 1}, {"student_rate": 0.0},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"kernel\.\w+ is .*expected"):
            KernelOptions(**options)  # pyright: ignore[reportArgumentType]
