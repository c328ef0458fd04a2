from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import copies, same

from vldistill.config import DistillConfig, ResolvedDistillConfig
from vldistill.distillation.method import State
from vldistill.distillation.outer_optimiser import RATE_BOUNDS, OuterOptimiser, decay_factor
from vldistill.errors import ConfigError
from vldistill.options.resolve import resolve_distill

CONFIG = resolve_distill(
    DistillConfig(
        method="bitraj",
        optimiser="sgd",
        momentum=0.0,
        image_lr=2.0,
        text_lr=0.5,
        rate_lr=0.01,
        student_rate_image=0.1,
        iterations=10,
        decay="none",
    ),
    "heads",
)


def variables(rate: float = 0.1) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "images": torch.randn(4, 3, 2, 2, generator=draw),
        "texts": torch.randn(4, 5, generator=draw),
        "log_rate_image": torch.tensor(math.log(rate), dtype=torch.float64),
        "log_rate_text": torch.tensor(math.log(rate), dtype=torch.float64),
    }


def gradients(seed: int = 1) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=draw).to(value.dtype) for name, value in variables().items()}


def test_sgd_moves_each_variable_by_its_own_rate() -> None:
    moved, slopes = variables(), gradients()
    before = copies(moved)
    OuterOptimiser(State(moved), CONFIG).apply(slopes, 0, scale=0.5)
    torch.testing.assert_close(moved["images"], before["images"] - 0.5 * 2.0 * slopes["images"])
    torch.testing.assert_close(moved["texts"], before["texts"] - 0.5 * 0.5 * slopes["texts"])


def test_a_variable_without_a_gradient_stays() -> None:
    moved = variables()
    before = copies(moved)
    OuterOptimiser(State(moved), CONFIG).apply({"texts": gradients()["texts"]}, 0, scale=1.0)
    assert torch.equal(moved["images"], before["images"]) and not torch.equal(moved["texts"], before["texts"])
    assert all(value.grad is None for value in moved.values())


@pytest.mark.parametrize("start", [0.1, 0.03])
def test_the_first_sgd_step_of_a_learned_rate_is_the_published_one(start: float) -> None:
    config = replace(CONFIG, student_rate_image=start)
    for slope in (1e-3, -2e-3):  # d outer / d eta
        moved = variables(start)
        OuterOptimiser(State(moved), config).apply(
            {"log_rate_image": torch.tensor(slope * start, dtype=torch.float64)}, 0, scale=1.0
        )
        published = start - config.rate_lr * slope
        step = published - start
        assert float(moved["log_rate_image"].exp()) - start == pytest.approx(step, rel=abs(step) / start + 1e-6)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("slope", [1e9, -1e9])
def test_a_learned_rate_stays_positive_and_finite(optimiser: str, slope: float) -> None:
    moved = variables()
    outer = OuterOptimiser(State(moved), replace(CONFIG, optimiser=optimiser, rate_lr=10.0))
    for iteration in range(5):
        outer.apply({"log_rate_image": torch.tensor(slope, dtype=torch.float64)}, iteration / 10, scale=1.0)
        rate = float(moved["log_rate_image"].exp().to(torch.float32))
        assert 0.99 * RATE_BOUNDS[0] <= rate <= 1.01 * RATE_BOUNDS[1]


def test_adam_takes_steps_of_its_rate_at_first() -> None:
    moved, slopes = variables(), gradients()
    before = copies(moved)
    OuterOptimiser(State(moved), replace(CONFIG, optimiser="adam")).apply(slopes, 0, scale=1.0)
    for name, rate in (("images", 2.0), ("texts", 0.5), ("log_rate_image", 0.01)):
        torch.testing.assert_close(moved[name], before[name] - rate * slopes[name].sign(), rtol=1e-4, atol=1e-4)


def test_momentum_is_torchs_own() -> None:
    moved = variables()
    reference = moved["texts"].clone()
    outer = OuterOptimiser(State(moved), replace(CONFIG, momentum=0.5))
    velocity = torch.zeros_like(reference)
    for iteration in range(4):
        slope = gradients(iteration)["texts"]
        velocity = 0.5 * velocity + slope
        reference -= 0.5 * velocity
        outer.apply({"texts": slope}, iteration / 10, scale=1.0)
    torch.testing.assert_close(moved["texts"], reference)


@pytest.mark.parametrize("size", [0.5, 3.0, 1e6])
def test_clipping_bounds_the_norm_and_keeps_the_direction(size: float) -> None:
    moved = variables()
    before = moved["texts"].clone()
    slope = gradients()["texts"]
    slope = slope * (size / slope.norm())
    OuterOptimiser(State(moved), replace(CONFIG, clip=2.0)).apply({"texts": slope}, 0, scale=1.0)
    step = (before - moved["texts"]) / CONFIG.text_lr
    torch.testing.assert_close(step, slope * min(1.0, 2.0 / size), rtol=1e-4, atol=1e-5)


def test_a_joint_clip_bounds_all_gradients_together() -> None:
    """Gradients 3 and 4 are 5 long together: clipped to 1, each is a fifth of itself."""
    moved = {"images": torch.zeros(1), "texts": torch.zeros(1)}
    slopes = {"images": torch.tensor([3.0]), "texts": torch.tensor([4.0])}
    config = replace(CONFIG, optimiser="sgd", momentum=0.0, image_lr=1.0, text_lr=1.0, decay="none", clip=1.0)
    OuterOptimiser(State(moved), replace(config, clip_of="all")).apply(slopes, 0, scale=1.0)
    torch.testing.assert_close(torch.cat([*moved.values()]), torch.tensor([-0.6, -0.8]))
    apart = {"images": torch.zeros(1), "texts": torch.zeros(1)}
    OuterOptimiser(State(apart), config).apply(slopes, 0, scale=1.0)
    torch.testing.assert_close(torch.cat([*apart.values()]), torch.tensor([-1.0, -1.0]))


def test_clipping_leaves_a_zero_gradient_alone() -> None:
    moved = variables()
    before = copies(moved)
    zeros = {name: torch.zeros_like(value) for name, value in moved.items()}
    OuterOptimiser(State(moved), replace(CONFIG, clip=1.0)).apply(zeros, 0, scale=1.0)
    assert same(moved, before)


def test_decay() -> None:
    none, cosine, linear = (replace(CONFIG, decay=decay) for decay in ("none", "cosine", "linear"))
    assert [decay_factor(none.decay, done) for done in (0, 0.5, 0.9)] == [1.0, 1.0, 1.0]
    assert [decay_factor(linear.decay, done) for done in (0, 0.5, 1)] == pytest.approx([1.0, 0.5, 0.0])
    assert [decay_factor(cosine.decay, done) for done in (0, 0.5, 1)] == pytest.approx([1.0, 0.5, 0.0])
    assert decay_factor(cosine.decay, 0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))
    moved = variables()
    before, slope = moved["texts"].clone(), gradients()["texts"]
    OuterOptimiser(State(moved), linear).apply({"texts": slope}, 0.5, scale=1.0)
    torch.testing.assert_close(before - moved["texts"], 0.5 * CONFIG.text_lr * slope)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, momentum=0.9), replace(CONFIG, optimiser="adam")])
def test_the_state_goes_round_by_name(config: ResolvedDistillConfig) -> None:
    moved = variables()
    outer = OuterOptimiser(State(moved), config)
    for iteration in range(3):
        outer.apply(gradients(iteration), iteration / 10, scale=1.0)
    saved, there = copies(outer.state_dict()), copies(moved)
    other = OuterOptimiser(State(there), config)
    other.load_state_dict(saved)
    assert same(other.state_dict(), saved)
    for iteration in range(3, 6):
        outer.apply(gradients(iteration), iteration / 10, scale=1.0)
        other.apply(gradients(iteration), iteration / 10, scale=1.0)
    assert same(moved, there) and same(outer.state_dict(), other.state_dict())
    assert not same(outer.state_dict(), saved) or not saved  # what was saved is not the live state


def test_an_empty_state_is_a_fresh_start() -> None:
    moved = variables()
    outer = OuterOptimiser(State(moved), replace(CONFIG, optimiser="adam"))
    outer.apply(gradients(), 0, scale=1.0)
    outer.load_state_dict({})
    assert outer.state_dict() == {}


@pytest.mark.parametrize(
    ("learn", "fixed"), [("both", set()), ("image", {"texts", "texts_2"}), ("text", {"images", "images_2"})]
)
def test_only_the_learned_side_moves(learn: Any, fixed: set[str]) -> None:
    names = ("images", "images_2", "texts", "texts_2", "log_rate_image", "log_rate_text", "similarity_diagonal")
    variables = {name: torch.ones(3, dtype=torch.float64) for name in names}
    rates = {"images_2": "image_lr", "texts_2": "text_lr"}
    optimiser = OuterOptimiser(
        State(variables, rates=rates), resolve_distill(DistillConfig(method="bitraj", learn=learn), "heads")
    )
    optimiser.apply({name: torch.ones(3, dtype=torch.float64) for name in names}, 0.0, 1.0)
    assert {name for name, variable in variables.items() if bool((variable == 1).all())} == fixed


def test_a_variable_that_does_not_say_its_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="learns 'logits' but names no outer rate"):
        OuterOptimiser(State({"logits": torch.ones(3)}), CONFIG)
