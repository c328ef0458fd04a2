"""ptm: straightened trajectories, phases and separate starts, against their formulas written out in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from double import PAIRS, embed, flat, make_bench, prepared, tesla

from vldistill.distillation import loop as loop_module
from vldistill.distillation.loop import Loop
from vldistill.distillation.methods.ptm import PhasedTeachers, PtmOptions
from vldistill.distillation.start import make_start
from vldistill.encoders.dual import SIDES
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory
from vldistill.training.losses import wbce
from vldistill.workbench.bench import Workbench

Ground = tuple[Workbench, list[Trajectory]]
TWO: dict[str, Any] = {"subsets": (2, 3), "first_starts": (0, 1), "last_starts": (2, 3), "straighten": (2, 3)}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_bench(tmp_path_factory.mktemp("double"))


def straightened(expert: Trajectory, epoch: int, last: int) -> dict[str, torch.Tensor]:
    """theta_t = (1 - b) theta_0 + b theta_T, b the part of the tensor's path length that is done at epoch t."""
    path = [flat(expert.snapshot(t)) for t in range(last + 1)]
    out = {}
    for name in path[0]:
        lengths = [float((path[t + 1][name] - path[t][name]).square().sum() ** 0.5) for t in range(last)]
        b = sum(lengths[:epoch]) / sum(lengths)
        out[name] = (1 - b) * path[0][name] + b * path[-1][name]
    return out


@pytest.mark.parametrize("last", [2, 3])
def test_the_way_is_straight_and_keeps_its_pace(ground: Ground, last: int) -> None:
    method, expert = PhasedTeachers(), ground[1][0]
    for epoch in range(last + 1):
        found, expected = flat(method._snapshot(expert, epoch, last)), straightened(expert, epoch, last)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12, msg=name)
    assert not torch.equal(
        flat(method._snapshot(expert, 1, last))["text.mix.weight"], flat(expert.snapshot(1))["text.mix.weight"]
    )
    for epoch in range(4):  # 0 leaves the trajectory alone
        assert all(
            torch.equal(a, b)
            for a, b in zip(flat(method._snapshot(expert, epoch, 0)).values(), flat(expert.snapshot(epoch)).values())
        )


@pytest.mark.parametrize("separate", [False, True], ids=["together", "separate"])
@pytest.mark.parametrize("phase", [0, 1])
def test_the_update_is_the_published_gradient_of_its_phase(ground: Ground, phase: int, separate: bool) -> None:
    bench, experts = ground
    options = PtmOptions(**TWO, syn_steps=3, minibatch=2, separate_starts=separate)
    method, context, state = prepared(*ground, "ptm", options)
    context = context.at(2 + 5 * phase)  # of 10 iterations
    update = method.step(state, context)
    assert {name[-1] for name in update.gradients} == {str(phase + 1)}
    draw = context.generator("segment")
    expert = experts[int(torch.randint(2, (), generator=draw))]
    low, high = options.first_starts[phase], options.last_starts[phase]
    start = {side: low + int(torch.randint(high - low, (), generator=draw)) for side in SIDES}
    if not separate:
        start["text"] = start["image"]
    begin, target = {}, {}
    for side, epoch in start.items():
        for ends, at in ((begin, epoch), (target, epoch + 1)):
            whole = straightened(expert, at, options.straighten[phase])
            ends.update({name: tensor for name, tensor in whole.items() if name.startswith(side)})
    end = f"_{phase + 1}"
    leaves = {
        name.removesuffix(end): value.clone().requires_grad_(True)
        for name, value in state.variables.items()
        if name.endswith(end) and not name.startswith("log_rate")
    }
    rates = {side: state.variables[f"log_rate_{side}{end}"].exp() for side in SIDES}
    order, losses = context.generator("rows"), []
    pairs = options.subsets[phase]
    for _ in range(3):  # 2 of 2 rows, or 2 of 3: a new permutation each step
        rows = torch.randperm(pairs, generator=order)[:2] if pairs > 2 else torch.arange(pairs)

        def loss(params: dict[str, torch.Tensor], rows: torch.Tensor = rows) -> torch.Tensor:
            features = bench.image_standardisation(bench.image_tower(leaves["images"][rows]))
            soft = leaves["similarity_full"][rows][:, rows]
            return wbce(embed(bench, params, features, leaves["texts"][rows]), soft)

        losses.append(loss)
    expected = tesla(bench, begin, target, leaves, rates, losses, merged=False)
    assert update.value == pytest.approx(float(expected.pop("value")), rel=1e-10)
    for name, slope in expected.items():
        torch.testing.assert_close(update.gradients[name + end], slope, rtol=1e-7, atol=1e-13, msg=name)


def test_separate_starts_differ(ground: Ground) -> None:
    options = PtmOptions(**{**TWO, "subsets": ()}, separate_starts=True)
    method, context, _ = prepared(*ground, "ptm", options)
    lengths = set()
    for iteration in range(12):
        begin, _ = method._segment(context.at(iteration), 0)
        moved = [
            any(torch.equal(named["mix.weight"], e.snapshot(0)[side]["mix.weight"]) for e in ground[1])
            for side, named in begin.items()
        ]
        lengths.add(tuple(moved))
    assert len(lengths) == 4  # each side at epoch 0 or 1, on its own


class Watched(PhasedTeachers):
    """In float64; notes the variables before every step, the part of the minutes that is over, and the phase."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[dict[str, torch.Tensor]] = []
        self.steps: list[tuple[float, str]] = []

    def setup(self, start: Any, context: Any) -> Any:
        state = super().setup(start, context)
        state.variables = {name: value.double() for name, value in state.variables.items()}
        return state

    def step(self, state: Any, context: Any) -> Any:
        self.before.append({name: value.clone() for name, value in state.variables.items()})
        update = super().step(state, context)
        self.steps.append((context.spent, update.phase))
        return update


def test_a_finished_phase_rests_and_so_does_its_average(ground: Ground, tmp_path: Path) -> None:
    options = PtmOptions(**TWO, syn_steps=1)
    _, context, _ = prepared(*ground, "ptm", options, ema=0.5, iterations=4)
    method = Watched()
    loop = Loop(method, context, tmp_path, lambda found: 0.0, lambda *kept: None, lambda: False)
    distilled = loop.run(make_start(ground[0], "real", PAIRS, 0))
    seen, final = method.before, loop.state.variables
    for name in ("images_1", "texts_1", "similarity_full_1", "log_rate_image_1"):
        assert not torch.equal(seen[1][name], seen[0][name]), name
        assert torch.equal(seen[2][name], seen[3][name]) and torch.equal(seen[3][name], final[name]), name
    assert torch.equal(seen[2]["texts_2"], seen[0]["texts_2"]) and not torch.equal(seen[3]["texts_2"], final["texts_2"])
    average = (seen[0]["texts_1"] + seen[1]["texts_1"]) / 2
    average = (average + final["texts_1"]) / 2
    torch.testing.assert_close(distilled.texts[:2], average)


def test_phases_pass_with_the_minutes_where_they_end_the_distillation(ground: Ground, tmp_path: Path) -> None:
    method, context, state = prepared(*ground, "ptm", PtmOptions(**TWO, syn_steps=1), iterations=10**6)
    early, late = (method.step(state, replace(context, spent=spent)) for spent in (0.3, 0.8))
    assert {name[-1] for name in early.gradients} == {"1"} and {name[-1] for name in late.gradients} == {"2"}
    assert (early.progress, late.progress) == (pytest.approx(0.6), pytest.approx(0.6))  # each with a decay of its own


@pytest.mark.parametrize("decay", ["none", "cosine"])
def test_a_distillation_by_the_clock_learns_every_phase(
    ground: Ground, tmp_path: Path, decay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, limit = PtmOptions(**TWO, syn_steps=1), {"iterations": 10**6, "minutes": 1.0, "decay": decay}
    _, context, _ = prepared(*ground, "ptm", options, **limit)
    method = Watched()
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: 10.0 * len(method.steps)))
    loop = Loop(method, context, tmp_path, lambda found: 0.0, lambda *kept: None, lambda: False)
    start = make_start(ground[0], "real", PAIRS, 0)
    distilled = loop.run(start)
    assert [spent for spent, _ in method.steps] == pytest.approx([step / 6 for step in range(6)])
    assert [phase for _, phase in method.steps] == ["subset 1"] * 3 + ["subset 2"] * 3
    moved = (distilled.texts - start.texts).abs().amax(1)
    assert bool((moved > 0).all()), moved


def test_the_set_is_its_phases_in_order(ground: Ground) -> None:
    method, context, state = prepared(*ground, "ptm", PtmOptions(**TWO))
    distilled = method.export(state, context)
    expected = torch.block_diag(state.variables["similarity_full_1"], state.variables["similarity_full_2"])
    assert distilled.similarity is not None and torch.equal(distilled.similarity, expected)
    assert torch.equal(distilled.texts, torch.cat([state.variables["texts_1"], state.variables["texts_2"]]))
    assert distilled.recipe.phases == (2, 3)
    assert distilled.recipe.rates["text"] == (pytest.approx(float(state.variables["log_rate_text_2"].exp())),)
    assert distilled.stored_floats == PAIRS * (3 * 16 * 16 + 16) + 2 * 2 + 3 * 3 + 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subsets": (1, 4)}, "at least 2 pairs in each phase"),
        ({"subsets": (2, 2, 2)}, "ptm.first_starts .* each of the 3 phases"),
        ({"first_starts": (2, 1)}, "of phase 1: expected 0 <= first < last"),
        ({"straighten": (1, 8)}, "segments reach epoch 2"),
        ({"similarity": "none"}, "unknown similarity"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PtmOptions(**values)


def test_what_the_experts_or_the_set_cannot_give_is_refused(ground: Ground) -> None:
    with pytest.raises(ConfigError, match=r"add up to 6, but distill\.pairs is 5"):
        prepared(*ground, "ptm", PtmOptions(**{**TWO, "subsets": (3, 3)}))
    with pytest.raises(ConfigError, match=r"no snapshot of epochs \[4, 5, 6\]"):
        prepared(*ground, "ptm", PtmOptions())
