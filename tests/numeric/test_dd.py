"""dd: gradients against autograd through every step, written out; its set's recipe against the inner training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from double import assert_update, double_bench, embed, flat, prepared

from vldistill.config import DistillConfig
from vldistill.distillation.method import Context, Start
from vldistill.distillation.methods.dd import DatasetDistillation, DdOptions
from vldistill.distillation.real_batches import real_batch
from vldistill.errors import ConfigError
from vldistill.options.resolve import resolve_distill
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.losses import infonce
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

OPTIONS = DdOptions(steps=3, cycles=2, real_batch=8, rate=0.3)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return double_bench(tmp_path_factory.mktemp("dd"))


def trained(
    bench: Workbench, seed: int, read: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], rates: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Parameters after a step on pairs 0-1, 2-3 and 4-5 in turn, twice, as a graph."""
    params = {name: p.detach().requires_grad_(True) for name, p in flat(bench.student(seed).trained()).items()}
    for t in range(6):
        loss = infonce(embed(bench, params, *read(torch.tensor([0, 1]) + 2 * (t % 3))))
        slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {name: p - rates[t] * slope for (name, p), slope in zip(params.items(), slopes)}
    return params


@pytest.mark.parametrize("student", ["fresh", "fixed"])
def test_the_gradient_is_that_of_every_step_written_out(bench: Workbench, student: str) -> None:
    method, context, state = prepared(bench, [], "dd", replace(OPTIONS, student=student), pairs=6)
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.variables.items()}

    def read(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return bench.image_standardisation(bench.image_tower(leaves["images"][rows])), leaves["texts"][rows]

    seed = context.at(0 if student == "fixed" else 3).seed_of("student")
    params = trained(bench, seed, read, F.softplus(leaves["raw_rates"]))
    images, (captions,) = real_batch(context, 8, 1)
    data = bench.split("train").data
    value = infonce(embed(bench, params, data.images.rows(images), data.texts.rows(captions)))
    slopes = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()))))
    assert_update(method.step(state, context), slopes | {"value": value.detach()})


def test_a_student_of_the_set_trains_as_the_inner_one(bench: Workbench) -> None:
    method, context, state = prepared(bench, [], "dd", OPTIONS, pairs=6)
    context = replace(context, config=replace(context.config, space="features"))
    state.variables["images"] = bench.image_inputs(state.variables["images"])
    made = method.export(state, context)
    rates = F.softplus(state.variables["raw_rates"])
    wanted = trained(bench, 5, lambda rows: (made.images[rows], made.texts[rows]), rates)
    student = bench.student(5)
    data = TrainingData(TensorInputs(made.images), TensorInputs(made.texts), torch.arange(6))
    fit(student, data, made.recipe, seed=1, device=bench.device)
    for name, parameter in flat(student.trained()).items():
        torch.testing.assert_close(parameter, wanted[name], msg=name)


def context_of(bench: Workbench, pairs: int, **options: Any) -> Context[Any]:
    config = resolve_distill(DistillConfig(method="dd", pairs=pairs), bench.setting)
    return Context(bench, config, DdOptions(**options))


def test_rates_start_as_configured(bench: Workbench) -> None:
    pairs = torch.zeros(6, 16)
    found = DatasetDistillation().setup(Start(pairs, pairs, [""] * 6), context_of(bench, 6, steps=3, rate=0.02))
    expected = torch.full((9,), 0.02, dtype=torch.float64)
    torch.testing.assert_close(F.softplus(found.variables["raw_rates"]), expected)


def test_what_cannot_be(bench: Workbench) -> None:
    for pairs, steps in ((6, 4), (6, 6), (7, 3)):
        with pytest.raises(ConfigError, match=rf"dd.steps is {steps}, and {pairs} pairs"):
            DatasetDistillation().check(context_of(bench, pairs, steps=steps))
    DatasetDistillation().check(context_of(bench, 6, steps=3))
    for options in ({"steps": 0}, {"cycles": 0}, {"rate": 0.0}, {"student": "old"}, {"real_batch": 1}):
        with pytest.raises(ConfigError, match=r"dd\.\w+ is .*expected"):
            DdOptions(**options)  # pyright: ignore[reportArgumentType]
