"""What every registered method promises to the loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ground import Ground

from vldistill.config import SETTINGS, DistillConfig, EvaluateConfig
from vldistill.distillation.loop import Loop
from vldistill.distillation.method import METHODS, Context, State
from vldistill.distillation.start import starting_pairs
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError, Stopped
from vldistill.evaluation.protocol import evaluate_set
from vldistill.options.resolve import resolve_distill
from vldistill.stages.distill_checks import check_setting
from vldistill.workbench.bench import Workbench

CONFIG = DistillConfig(method="bitraj", pairs=6, iterations=3, validate_every=0, checkpoint_every=10)
QUICK = EvaluateConfig(generic="generic-v1", seeds=1, generic_epochs=1, head_rates=(0.1,), tower_rates=(0.01,))
SMALL = {
    "straighten": (3, 3),
    "persistent_students": 2,
    "syn_steps": 2,
    "steps": 3,
    "first_steps": 2,
    "real_batch": 8,
    "student_epochs": 2,
}
VARIANTS: dict[str, Any] = {
    "minibatch": 3,
    "persistent_steps": 4,
    "students": 2,
    "rank": 2,
    "rate_per_step": True,
    "momentum": 0.0,
    "estimator": "unrolled",
    "subsets": (2, 4),
    "similarity": "full",
}
"""Options worth a run of their own; applied to every method that has them."""

WITHOUT_DRAWS = {"canonical"}  # every iteration is the same function of the images

LOOP_VARIANTS: dict[str, Any] = {"space": "features", "augment": ("flip", "shift", "colour"), "start": "kmeans"}


@dataclass(frozen=True)
class Case:
    """A method with options of its own and settings of the loop."""

    name: str
    options: dict[str, Any]
    loop: dict[str, Any] = field(default_factory=dict)


def cases(trained: bool = False) -> list[Any]:
    """Settings and cases of every method, or of those that take steps."""
    found = []
    for name, entry in METHODS.items():
        if trained and not entry.trained:
            continue
        known = {option.name for option in fields(entry.options)}
        small = {option: value for option, value in SMALL.items() if option in known}
        settings = sorted(entry.settings, reverse=True)
        found += [pytest.param(setting, Case(name, small), id=f"{name}-{setting}") for setting in settings]
        home = "heads" if "heads" in settings else settings[0]
        for option in sorted(VARIANTS.keys() & known):
            case = Case(name, small | {option: VARIANTS[option]})
            found.append(pytest.param(home, case, id=f"{name}-{option}"))
        for option, value in LOOP_VARIANTS.items():
            if home == "heads" or option != "space":
                found.append(pytest.param(home, Case(name, small, {option: value}), id=f"{name}-{option}"))
    return found


every_method = pytest.mark.parametrize(("ground", "case"), cases(), indirect=["ground"])
every_trained_method = pytest.mark.parametrize(("ground", "case"), cases(trained=True), indirect=["ground"])


def prepare(ground: Ground, case: Case, **loop: Any) -> tuple[Any, Context[Any], State]:
    """A method that was checked and set up."""
    entry = METHODS.find(case.name)
    method = entry.build()
    experts = ground.experts if METHODS.find(case.name).needs_experts else []
    settings = replace(CONFIG, method=case.name, **case.loop, **loop)
    context = Context(
        ground.bench, resolve_distill(settings, ground.bench.setting), entry.options(**case.options), experts
    )
    check_setting(case.name, ground.bench.setting)
    method.check(context)
    return method, context, method.setup(starting_pairs(method, context), context)


def learned(state: State, name: str) -> torch.Tensor:
    """A variable of the whole set; methods with phases keep one for each phase."""
    return torch.cat([value for key, value in state.variables.items() if key.startswith(name)])


def bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in tensors.items()}


def test_there_are_methods() -> None:
    assert {"bitraj"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_registered_with_what_a_user_needs(name: str) -> None:
    entry = METHODS.find(name)
    assert entry.summary.endswith((".", ")")) and 20 < len(entry.summary) < 160
    assert is_dataclass(entry.options) and entry.options() == entry.options()
    about = " ".join(part.__doc__ or "" for part in entry.options.__mro__ if is_dataclass(part))
    for option in fields(entry.options):
        assert f"{option.name}: " in about, f"{name}.{option.name} is not explained"


def test_an_unknown_method_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'bitrajj'\. Did you mean bitraj"):
        METHODS.find("bitrajj")


@every_method
def test_setup_starts_from_the_start_and_only_from_it(ground: Ground, case: Case) -> None:
    method, context, state = prepare(ground, case)
    _, _, again = prepare(ground, case)
    _, _, other = prepare(ground, case, seed=1)
    start = starting_pairs(method, context)
    images, texts = (learned(state, name) for name in ("images", "texts"))
    assert len(images) == len(texts) == CONFIG.pairs
    assert torch.equal(texts, start.texts) or (not hasattr(method, "step") and context.config.space == "features")
    assert bits(state.state_dict()) == bits(again.state_dict()) != bits(other.state_dict())
    assert all(bool(tensor.isfinite().all()) for tensor in state.state_dict().values())


@every_trained_method
def test_a_step_gives_gradients_and_touches_nothing(ground: Ground, case: Case) -> None:
    method, context, state = prepare(ground, case)
    before, global_draws = bits(state.state_dict()), torch.random.get_rng_state()
    update = method.step(state, context.at(1))
    assert bits(state.state_dict()) == before
    assert torch.equal(torch.random.get_rng_state(), global_draws)
    assert update.gradients and update.gradients.keys() <= state.variables.keys()
    for variable, gradient in update.gradients.items():
        assert gradient.shape == state.variables[variable].shape, variable
        assert not gradient.requires_grad and bool(gradient.isfinite().all()), variable
        assert state.variables[variable].grad is None
    assert any(bool(gradient.any()) for gradient in update.gradients.values())
    assert type(update.value) is float and math.isfinite(update.value)
    assert all(type(figure) is float and math.isfinite(figure) for figure in update.logs.values())


@every_trained_method
def test_a_step_depends_on_the_seed_and_the_iteration_alone(ground: Ground, case: Case) -> None:
    method, context, state = prepare(ground, case)
    first = method.step(state, context.at(1))
    torch.manual_seed(123)
    second = method.step(state, context.at(2))
    again = method.step(state, context.at(1))
    assert bits(again.gradients) == bits(first.gradients) and again.value == first.value and again.logs == first.logs
    draws = case.name not in WITHOUT_DRAWS
    differs = second.value != first.value or any(
        method.step(state, context.at(iteration)).value != first.value for iteration in (3, 4, 5)
    )
    assert differs == (draws or bool(case.loop.get("augment")))
    reseeded = replace(context, config=replace(context.config, seed=9))
    others = (method.step(state, reseeded.at(iteration)).value for iteration in (1, 2))
    assert not draws or any(value != first.value for value in others)


@every_trained_method
def test_the_state_is_all_there_is(ground: Ground, case: Case) -> None:
    method, context, state = prepare(ground, case)
    draw = torch.Generator().manual_seed(0)
    for value in state.variables.values():
        value += 0.01 * torch.randn(value.shape, generator=draw).to(value)
    first = method.step(state, context.at(1))
    fresh, _, other = prepare(ground, case, seed=1)
    other.load_state_dict({key: tensor.clone() for key, tensor in state.state_dict().items()})
    assert bits(other.state_dict()) == bits(state.state_dict())
    again = fresh.step(other, context.at(1))
    assert bits(again.gradients) == bits(first.gradients) and again.value == first.value


@every_trained_method
def test_the_student_inside_stands_in_eval_mode(ground: Ground, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []
    real = Workbench.student

    def watched(bench: Workbench, seed: int, dropout: float = 0.0) -> Any:
        student = real(bench, seed, dropout=0.5)  # in train mode two passes would differ
        for module in student.modules():
            module.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
        return student

    monkeypatch.setattr(Workbench, "student", watched)
    method, context, state = prepare(ground, case)
    first = method.step(state, context)
    assert not any(modes)
    assert bits(method.step(state, context).gradients) == bits(first.gradients)


@every_method
def test_an_exported_set_is_a_copy_that_loads_and_evaluates(ground: Ground, case: Case, tmp_path: Path) -> None:
    method, context, state = prepare(ground, case)
    before = bits(state.state_dict())
    distilled = method.export(state, context.at(2))
    assert bits(state.state_dict()) == before
    exported = bits(distilled.tensors())
    for value in state.variables.values():
        value += 1
    assert bits(distilled.tensors()) == exported
    assert not any(tensor.requires_grad for tensor in distilled.tensors().values())
    assert len(distilled) == CONFIG.pairs and distilled.name == f"{case.name}-6-s0"
    assert {"method", "seed", "iteration", "data", "config", "versions"} <= distilled.info.keys()
    assert (distilled.info["method"], distilled.info["iteration"]) == (case.name, 2)
    assert distilled.setting == ground.bench.setting and distilled.space == context.config.space
    if distilled.text_space == "sentence":
        assert {"text_mean", "text_scale"} <= distilled.standardisation.keys()
    distilled.save(tmp_path)
    loaded = DistilledSet.load(tmp_path)
    assert bits(loaded.tensors()) == exported and loaded.recipe == distilled.recipe
    result = evaluate_set(ground.bench, loaded, QUICK)
    assert result.pairs == CONFIG.pairs and 0 <= result.scores()["own"].mean_recall.mean <= 100


@every_method
def test_a_stopped_loop_goes_on_exactly(ground: Ground, case: Case, tmp_path: Path) -> None:
    def run(folder: Path, *, stop: bool) -> None:
        method, context, _ = prepare(ground, case, image_lr=1e-3, text_lr=1e-3)
        start = starting_pairs(method, context)
        loop = Loop(method, context, folder, lambda found: 0.0, lambda *kept: None, lambda: stop)
        loop.run(start).save(folder)

    run(tmp_path / "straight", stop=False)
    if METHODS.find(case.name).trains(case.loop.get("space", CONFIG.space)):
        with pytest.raises(Stopped):
            run(tmp_path / "stopped", stop=True)
    run(tmp_path / "stopped", stop=False)
    straight, stopped = (tmp_path / folder / "set.safetensors" for folder in ("straight", "stopped"))
    assert straight.read_bytes() == stopped.read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_a_setting_without_a_meaning_is_refused_by_name(name: str) -> None:
    allowed = METHODS.find(name).settings
    assert allowed and allowed <= SETTINGS.keys()
    for setting in SETTINGS.keys() - allowed:
        with pytest.raises(ConfigError, match=f"method {name} works in setting .*, not {setting}"):
            check_setting(name, setting)
