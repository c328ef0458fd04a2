"""The `difference` estimator: close to `adjoint` on smooth towers, refused where it would be wrong."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from towers import TOWERS, Depthwise, make_problem, outputs, relative_error

from vldistill.errors import ConfigError, MatchingError


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.02}], ids=["plain", "momentum"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("tower", ["smooth", "transformer"])
def test_difference_in_float32_is_within_a_thousandth(tower: str, seed: int, options: dict) -> None:
    problem = make_problem(TOWERS[tower], seed=seed, dtype=torch.float32, per_step=True)
    exact = problem.gradient("adjoint", **options)
    found = problem.gradient("difference", **options)
    assert found.estimated_error is not None
    assert found.estimated_error <= 1e-2
    for name, tensor in outputs(found).items():
        assert relative_error(tensor, outputs(exact)[name]) <= 1e-3, name


def test_difference_in_float64_is_closer_still() -> None:
    problem = make_problem(TOWERS["smooth"])
    exact = outputs(problem.gradient("adjoint"))
    for name, tensor in outputs(problem.gradient("difference")).items():
        assert relative_error(tensor, exact[name]) <= 1e-7, name


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5])
def test_difference_is_refused_on_a_tower_with_kinks(activation: type[nn.Module], seed: int) -> None:
    problem = make_problem(partial(Depthwise, activation), seed=seed, dtype=torch.float32)
    with pytest.raises(MatchingError, match="adjoint"):
        problem.gradient("difference")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_difference_is_refused_in_half_precision(dtype: torch.dtype) -> None:
    problem = make_problem(TOWERS["smooth"], dtype=dtype)
    with pytest.raises(ConfigError, match=r"float16.*float32"):
        problem.gradient("difference")


def test_difference_leaves_fused_attention_alone() -> None:
    """Inside the exact estimators the kernel is chosen; here it is not."""
    problem = make_problem(TOWERS["transformer"])
    seen = []
    original = problem.inner_loss

    def inner(params: dict, s: dict, step) -> torch.Tensor:
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return original(params, s, step)

    object.__setattr__(problem, "inner_loss", inner)
    for estimator, flash in (("difference", True), ("adjoint", False)):
        seen.clear()
        problem.gradient(estimator)
        assert set(seen) == {flash}
    assert torch.backends.cuda.flash_sdp_enabled()


def test_difference_without_a_direction_is_zero() -> None:
    """lambda = 0, for an outer loss at its minimum."""
    problem = make_problem(TOWERS["smooth"])
    object.__setattr__(problem, "outer_loss", lambda params: 0 * params["image"]["head.bias"].sum())
    result = problem.gradient("difference")
    assert result.estimated_error == 0
    assert not any(gradient.any() for gradient in (result.distilled | result.rates).values())
