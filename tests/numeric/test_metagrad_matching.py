"""The matching loss on numbers made by hand, and the named errors of both functions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from towers import TOWERS, Problem, make_problem

from vldistill.distillation.metagrad.backward_sweep import NonFiniteError
from vldistill.distillation.metagrad.matching import matching_loss
from vldistill.errors import ConfigError, MatchingError

START = {"image": {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([[0.0]])}, "text": {"c": torch.tensor([1.0])}}
TARGET = {"image": {"a": torch.tensor([2.0, 0.0]), "b": torch.tensor([[1.0]])}, "text": {"c": torch.tensor([4.0])}}
STUDENT = {"image": {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[0.0]])}, "text": {"c": torch.tensor([2.0])}}
# |student - target|^2: image 1 + 1 + 1 = 3, text 4.   |start - target|^2: image 4 + 1 = 5, text 9.


def test_sum_of_ratios_by_hand() -> None:
    loss = matching_loss(STUDENT, START, TARGET)
    assert loss.value.item() == pytest.approx(3 / 5 + 4 / 9)
    assert {k: term.item() for k, term in loss.terms.items()} == pytest.approx({"image": 3 / 5, "text": 4 / 9})


def test_ratio_of_sums_by_hand() -> None:
    loss = matching_loss(STUDENT, START, TARGET, reduce="ratio_of_sums")
    assert loss.value.item() == pytest.approx(7 / 14)
    assert {k: term.item() for k, term in loss.terms.items()} == pytest.approx({"image": 3 / 14, "text": 4 / 14})


def test_the_gradient_by_hand() -> None:
    student = {k: {n: p.clone().requires_grad_() for n, p in group.items()} for k, group in STUDENT.items()}
    matching_loss(student, START, TARGET).value.backward()
    assert student["image"]["a"].grad is not None
    assert student["text"]["c"].grad is not None
    assert torch.allclose(student["image"]["a"].grad, torch.tensor([-2.0, 2.0]) / 5)
    assert torch.allclose(student["text"]["c"].grad, torch.tensor([-4.0]) / 9)


def test_standing_still_is_one_per_group_and_arriving_is_zero() -> None:
    assert matching_loss(START, START, TARGET).value.item() == 2
    assert matching_loss(START, START, TARGET, "ratio_of_sums").value.item() == 1
    assert matching_loss(TARGET, START, TARGET).value.item() == 0


def test_half_precision_snapshots_are_measured_in_float32() -> None:
    """1,000 squares of 0.1: in bfloat16 a running sum stalls far below 10."""
    zeros, tenths = torch.zeros(1000), torch.full((1000,), 0.125)
    loss = matching_loss(
        {"k": {"w": zeros.bfloat16()}}, {"k": {"w": zeros.bfloat16() + 0.25}}, {"k": {"w": tenths.bfloat16()}}
    )
    assert loss.value.dtype == torch.float32
    assert loss.value.item() == 1


def changed(tensors: dict[str, dict[str, Tensor]], **groups: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    return {**tensors, **groups}


@pytest.mark.parametrize(
    ("start", "target", "message"),
    [
        (START, changed(TARGET, text=START["text"]), "equal in group 'text'"),
        (START, {"image": TARGET["image"]}, r"target has the groups \['image'\]"),
        (changed(START, text={"d": torch.ones(1)}), TARGET, r"start .*'text': missing \['c'\], unknown \['d'\]"),
        (START, changed(TARGET, text={"c": torch.ones(2)}), r"text.c has shape \(2,\) in target, \(1,\)"),
    ],
)
@pytest.mark.parametrize("reduce", ["sum_of_ratios", "ratio_of_sums"])
def test_segments_without_a_meaning_are_refused(start: Any, target: Any, message: str, reduce: str) -> None:
    with pytest.raises(MatchingError, match=message):
        matching_loss(STUDENT, start, target, reduce)


def test_unknown_reductions_and_empty_students_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean sum_of_ratios"):
        matching_loss(STUDENT, START, TARGET, "sum_of_ratio")
    with pytest.raises(MatchingError, match="without parameters"):
        matching_loss({"image": {}}, {"image": {}}, {"image": {}})


def rates(problem: Problem, image: Tensor) -> Problem:
    return replace(problem, rates={**problem.rates, "image": image})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.tensor(0.0), r"rate of group 'image' is 0\.0"),
        (torch.tensor(-0.1, dtype=torch.float64), r"rate of group 'image' is -0\.1"),
        (torch.tensor([0.1, 0.1, math.nan, 0.1, 0.1]), "rate of group 'image' is nan"),
        (torch.tensor([0.1, math.inf, 0.1, 0.1, 0.1]), "rate of group 'image' is inf"),
        (torch.full((4,), 0.1), r"shape \(4,\): expected \(\) or .* 5 steps"),
        (torch.full((1,), 0.1), r"shape \(1,\)"),
    ],
)
def test_bad_rates_are_refused(image: Tensor, message: str) -> None:
    with pytest.raises(MatchingError, match=message):
        rates(make_problem(TOWERS["smooth"]), image).gradient()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "adjiont"}, "Did you mean adjoint"),
        ({"momentum": 1.0}, r"momentum=1\.0"),
        ({"momentum": -0.1}, r"momentum=-0\.1"),
        ({"weight_decay": -1e-4}, r"weight_decay=-0\.0001"),
        ({"estimator": "tesla", "momentum": 0.5}, r"'tesla' .*momentum=0\.5.*'adjoint'"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_problem(TOWERS["smooth"]).gradient(**options)


def test_problems_without_a_meaning_are_refused() -> None:
    problem = make_problem(TOWERS["smooth"])
    missing = {"image": problem.rates["image"]}
    integer = {**problem.distilled, "texts": torch.ones(6, 5, dtype=torch.int64)}
    for bad, message in (
        (replace(problem, rates=missing), r"groups \['image'\], but start has \['image', 'text'\]"),
        (replace(problem, start={"image": {}}, rates=missing), "start has no parameters"),
        (replace(problem, distilled=integer), r"distilled\['texts'\] has dtype torch.int64"),
    ):
        with pytest.raises(MatchingError, match=message):
            bad.gradient()
    with pytest.raises(ConfigError, match="steps is empty"):
        replace(problem, steps=[]).gradient()


@pytest.mark.parametrize("estimator", ["unrolled", "adjoint", "difference"])
def test_losses_that_are_no_losses_are_refused(estimator: str) -> None:
    problem = make_problem(TOWERS["smooth"])
    own = [p for group in problem.start.values() for p in group.values()]

    def check(name: str, loss: Any, message: str) -> None:
        bad = make_problem(TOWERS["smooth"])
        object.__setattr__(bad, name, loss)
        with pytest.raises(MatchingError, match=message):
            bad.gradient(estimator)

    check("inner_loss", lambda params, s, step: params["text"]["norm.bias"], r"inner loss has shape \(7,\)")
    check("inner_loss", lambda params, s, step: own[0].sum(), "inner loss does not depend on the parameters")
    check("outer_loss", lambda params: params["text"]["norm.bias"], r"outer loss has shape \(7,\)")
    check("outer_loss", lambda params: own[0].sum(), "outer loss does not depend on the parameters")


@pytest.mark.parametrize("estimator", ["unrolled", "adjoint", "tesla", "difference"])
def test_an_exploded_run_is_named(estimator: str) -> None:
    problem = make_problem(TOWERS["smooth"], dtype=torch.float32)
    with pytest.raises(NonFiniteError, match=r"outer loss is (inf|nan) after 5 inner steps.*lower the rates"):
        rates(problem, torch.tensor(1e38)).gradient(estimator)
