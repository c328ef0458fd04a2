from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from tiny import DISTILL, Recorder, Stub, copies, make_loop, same, start_of

from vldistill.config import DistillConfig
from vldistill.distillation import loop as loop_module
from vldistill.distillation.guard import PATIENCE
from vldistill.distillation.loop import Loop
from vldistill.distillation.method import Context, Start, State, Update
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.distillation.resume import CHECKPOINT, METRICS_FILE
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError, DivergedError, Stopped
from vldistill.experts.trajectory import Trajectory
from vldistill.runtime.interrupts import deferred_stop
from vldistill.storage.files import read_tensors, write_tensors
from vldistill.workbench.bench import Workbench

SGD_RATE = 0.25
SGD = replace(DISTILL, optimiser="sgd", momentum=0.0, image_lr=0.5, text_lr=SGD_RATE, decay="none")


def warnings_of(bench: Workbench) -> list[str]:
    assert isinstance(bench.reporter, Recorder)
    return bench.reporter.warnings


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of the metrics, without the times."""
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def by_iteration(scores: dict[int, float]) -> Callable[[DistilledSet], float]:
    return lambda distilled: scores[distilled.info["iteration"]]


VALIDATED = {0: 1.0, 2: 7.0, 4: 3.0, 6: 5.0, 8: 2.0}
RESUMED: dict[str, tuple[DistillConfig, BitrajOptions]] = {
    "adam": (DISTILL, BitrajOptions(syn_steps=2)),
    "sgd": (replace(SGD, momentum=0.5, decay="cosine"), BitrajOptions(syn_steps=2)),
    "ema": (replace(DISTILL, ema=0.8, decay="linear", start="noise"), BitrajOptions(syn_steps=2)),
    "minibatches": (replace(DISTILL, clip=0.1, seed=3), BitrajOptions(syn_steps=3, minibatch=3)),
    "best": (replace(DISTILL, validate_every=2), BitrajOptions(syn_steps=2)),
    "best-ema": (replace(DISTILL, validate_every=2, ema=0.5, decay="cosine"), BitrajOptions(syn_steps=2)),
}


@pytest.mark.parametrize("stops", [(1,), (3, 4)], ids=["one stop", "two stops"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    bench: Workbench, experts: list[Trajectory], tmp_path: Path, name: str, stops: tuple[int, ...]
) -> None:
    config, options = RESUMED[name]
    score = by_iteration(VALIDATED)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    start = start_of(bench, config)
    make_loop(bench, experts, straight, config, options=options, score=score).run(start).save(straight)
    for count in stops:
        with pytest.raises(Stopped, match="everything is saved"):
            make_loop(bench, experts, stopped, config, options=options, score=score, stop_after=count).run(start)
    make_loop(bench, experts, stopped, config, options=options, score=score).run(start).save(stopped)
    assert (straight / "set.safetensors").read_bytes() == (stopped / "set.safetensors").read_bytes()
    assert metrics(straight) == metrics(stopped)
    first, second = DistilledSet.load(straight), DistilledSet.load(stopped)
    assert first.recipe == second.recipe
    if config.validate_every:
        assert second.info["iteration"] == 2  # the best look, which came before the second stop
        assert second.info["selection"]["looks"] == len(VALIDATED)
        assert second.info["selection"]["val_mean_recall"] == 7.0


def test_a_killed_run_goes_on_from_its_checkpoint_without_doubled_lines(
    bench: Workbench, experts: list[Trajectory], tmp_path: Path
) -> None:
    start = start_of(bench)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    make_loop(bench, experts, straight).run(start).save(straight)
    loop = make_loop(bench, experts, killed)  # checkpoints after iterations 3 and 6

    def die() -> bool:
        if loop.progress.iteration == 5:
            raise KeyboardInterrupt
        return False

    loop.stop_asked = die
    with pytest.raises(KeyboardInterrupt):
        loop.run(start)
    with (killed / METRICS_FILE).open("a") as handle:
        handle.write('{"iteration": 5, "val')  # killed in the middle of a line
    make_loop(bench, experts, killed).run(start).save(killed)
    assert (straight / "set.safetensors").read_bytes() == (killed / "set.safetensors").read_bytes()
    assert metrics(straight) == metrics(killed)
    assert [line["iteration"] for line in metrics(killed)] == list(range(8))


def test_a_run_without_a_checkpoint_starts_its_metrics_anew(
    bench: Workbench, experts: list[Trajectory], tmp_path: Path
) -> None:
    (tmp_path / METRICS_FILE).write_text('{"iteration": 0, "value": 99.0}\n')
    make_loop(bench, experts, tmp_path, replace(DISTILL, iterations=2)).run(start_of(bench))
    assert [line["iteration"] for line in metrics(tmp_path)] == [0, 1]
    assert 99.0 not in [line["value"] for line in metrics(tmp_path)]


def test_a_stopped_run_goes_on_with_the_experts_it_began_with(
    bench: Workbench, experts: list[Trajectory], tmp_path: Path
) -> None:
    config, options = RESUMED["adam"]
    straight, stopped, fewer = tmp_path / "straight", tmp_path / "stopped", tmp_path / "fewer"
    start = start_of(bench, config)
    make_loop(bench, experts[1:], straight, config, options=options).run(start).save(straight)
    with pytest.raises(Stopped):  # an expert before them is recorded later
        make_loop(bench, experts[1:], stopped, config, options=options, stop_after=3).run(start)
    make_loop(bench, experts, stopped, config, options=options).run(start).save(stopped)
    assert len(experts) > 1
    assert (straight / "set.safetensors").read_bytes() == (stopped / "set.safetensors").read_bytes()
    with pytest.raises(Stopped):
        make_loop(bench, experts, fewer, config, options=options, stop_after=3).run(start)
    with pytest.raises(ArtefactError, match=f"with {len(experts)} experts, and .* not among the 1 that are"):
        make_loop(bench, experts[:1], fewer, config, options=options).run(start)


def test_a_bad_step_right_after_a_stop_is_undone_as_without_the_stop(bench: Workbench, tmp_path: Path) -> None:
    config = replace(DISTILL, ema=0.5)
    start = start_of(bench)
    results = []
    for folder, stop in ((tmp_path / "a", 0), (tmp_path / "b", 4)):
        method = Stub({4: "nan"})
        if stop:
            with pytest.raises(Stopped):
                make_loop(bench, [], folder, config, method=method, stop_after=stop).run(start)
        results.append(make_loop(bench, [], folder, config, method=method).run(start).tensors())
    assert same(*results)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_a_damaged_checkpoint_is_named(bench: Workbench, experts: list[Trajectory], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make_loop(bench, experts, tmp_path, stop_after=1).run(start_of(bench))
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtefactError, match=r"checkpoint.*damaged"):
        make_loop(bench, experts, tmp_path).run(start_of(bench))


def history(loop: Loop) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What the loop carries after each step, filled while it runs."""
    seen: list[dict[str, dict[str, torch.Tensor]]] = []

    def look() -> bool:
        seen.append(
            {
                "state": copies(loop.state.state_dict()),
                "optimiser": copies(loop.optimiser.state_dict()),
                "average": copies(loop.average or {}),
            }
        )
        return False

    loop.stop_asked = look
    return seen


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("fault", ["nan", "infinite", "gradient", "explosion", "raise"])
def test_a_bad_step_is_undone_exactly(bench: Workbench, tmp_path: Path, fault: str, optimiser: str) -> None:
    config = replace(DISTILL, ema=0.9, optimiser=optimiser, iterations=8, image_lr=0.03, text_lr=0.03)
    bad = 6  # an explosion is told from the median of five
    loop = make_loop(bench, [], tmp_path, config, method=Stub({bad: fault}))
    seen = history(loop)
    loop.run(start_of(bench, config))
    for part in seen[0]:
        assert same(seen[bad][part], seen[bad - 2][part]), part
    assert not same(seen[bad]["state"], seen[bad - 1]["state"])
    assert loop.progress.undone == 1 and loop.progress.scale == 0.5 and loop.progress.bad_in_a_row == 0


def test_a_step_that_overflows_is_undone_exactly(bench: Workbench, tmp_path: Path) -> None:
    config = replace(SGD, image_lr=100.0, ema=0.9)
    loop = make_loop(bench, [], tmp_path, config, method=Stub({3: "overflow"}))
    seen = history(loop)
    distilled = loop.run(start_of(bench, config))
    for part in seen[0]:
        assert same(seen[3][part], seen[2][part]), part
    assert distilled.info["selection"]["undone_steps"] == 1
    assert [line["why"] for line in metrics(tmp_path) if "why" in line] == ["images is not finite after the step"]


def test_the_rates_are_halved_after_a_bad_step_and_the_log_says_so(bench: Workbench, tmp_path: Path) -> None:
    method = Stub({3: "nan"})
    loop = make_loop(bench, [], tmp_path, SGD, method=method)
    seen = history(loop)
    before = len(warnings_of(bench))
    loop.run(start_of(bench, SGD))
    for iteration, scale in ((2, 1.0), (4, 0.5), (5, 0.5)):
        moved = seen[iteration - 1]["state"]["variables/texts"] - seen[iteration]["state"]["variables/texts"]
        expected = scale * SGD_RATE * (0.1 + 0.01 * iteration)
        torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-3, atol=1e-6)
    undone = [line for line in metrics(tmp_path) if line.get("event") == "undone"]
    assert undone == [{"iteration": 3, "event": "undone", "why": "the loss is nan", "scale": 0.5}]
    assert "iteration 3: the loss is nan" in warnings_of(bench)[before]


def test_single_bad_steps_do_not_end_the_run(bench: Workbench, tmp_path: Path) -> None:
    faults = {i: "nan" for i in range(8) if i != PATIENCE - 1}
    loop = make_loop(bench, [], tmp_path, method=Stub(faults))
    loop.run(start_of(bench))
    assert loop.progress.scale == 0.5**7


@pytest.mark.parametrize("validate_every", [2, 0])
def test_bad_steps_in_a_row_end_the_run_with_advice_and_the_best_set(
    bench: Workbench, tmp_path: Path, validate_every: int
) -> None:
    config = replace(DISTILL, iterations=20, validate_every=validate_every)
    method = Stub(dict.fromkeys(range(4, 20), "gradient"))
    score = by_iteration({0: 1.0, 2: 5.0, 4: 3.0, 6: 2.0, 8: 2.0})
    loop = make_loop(bench, [], tmp_path, config, method=method, score=score)
    seen = history(loop)
    with pytest.raises(DivergedError, match=r"5 steps in a row.*gradient of texts.*distill\.image_lr.*kept"):
        loop.run(start_of(bench, config))
    kept = loop.best_set()
    if validate_every:
        assert kept.info["iteration"] == 2
        torch.testing.assert_close(kept.texts, seen[1]["state"]["variables/texts"], rtol=0, atol=0)
    else:
        torch.testing.assert_close(kept.texts, seen[2]["state"]["variables/texts"], rtol=0, atol=0)
    # the same command again fails at once, in the same place, and does not write its lines twice
    lines = metrics(tmp_path)
    with pytest.raises(DivergedError):
        make_loop(bench, [], tmp_path, config, method=method, score=score).run(start_of(bench, config))
    undone = [line["iteration"] for line in metrics(tmp_path) if line.get("event") == "undone"]
    assert undone == [line["iteration"] for line in lines if line.get("event") == "undone"] == [4, 5, 6, 7, 8]


def test_figures_without_a_value_stay_json(bench: Workbench, tmp_path: Path) -> None:
    class Odd(Stub):
        def step(self, state: Any, context: Any) -> Any:
            update = super().step(state, context)
            return replace(update, logs={"a": math.inf, "b": math.nan, "c": 1.5})

    make_loop(bench, [], tmp_path, replace(DISTILL, iterations=1), method=Odd()).run(start_of(bench))
    text = (tmp_path / METRICS_FILE).read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (line["a"], line["b"], line["c"]) == (None, None, 1.5)


def test_kept_iterations_are_the_sets_of_those_iterations(bench: Workbench, tmp_path: Path) -> None:
    config = replace(SGD, keep=(0, 2, 8), validate_every=8)
    kept: dict[int, DistilledSet] = {}
    loop = make_loop(bench, [], tmp_path, config, method=Stub(), save=lambda found, i: kept.update({i: found}))
    seen = history(loop)
    start = start_of(bench, config)
    loop.run(start)
    assert sorted(kept) == [0, 2, 8] and all(kept[i].info["iteration"] == i for i in kept)
    assert torch.equal(kept[0].images, start.images) and torch.equal(kept[0].texts, start.texts)
    for iteration in (2, 8):
        assert torch.equal(kept[iteration].images, seen[iteration - 1]["state"]["variables/images"])


def test_the_best_look_wins_and_the_start_is_looked_at_too(bench: Workbench, tmp_path: Path) -> None:
    config = replace(DISTILL, validate_every=3, iterations=7)
    start = start_of(bench, config)
    looked: list[int] = []

    def score(distilled: DistilledSet) -> float:
        looked.append(distilled.info["iteration"])
        return -float(distilled.info["iteration"])

    distilled = make_loop(bench, [], tmp_path, config, method=Stub(), score=score).run(start)
    assert looked == [0, 3, 6, 7]
    assert distilled.info["iteration"] == 0 and torch.equal(distilled.images, start.images)
    selection = distilled.info["selection"]
    assert selection["rule"] == "best on val" and selection["looks"] == 4 and selection["val_mean_recall"] == 0.0


def test_the_average_is_what_is_shown(bench: Workbench, tmp_path: Path) -> None:
    config = replace(SGD, ema=0.75, iterations=3)
    loop = make_loop(bench, [], tmp_path, config, method=Stub())
    seen = history(loop)
    start = start_of(bench, config)
    distilled = loop.run(start)
    average = start.texts.clone()
    for step in seen:
        average = 0.75 * average + 0.25 * step["state"]["variables/texts"]
    torch.testing.assert_close(distilled.texts, average)
    assert distilled.recipe.rates["image"][0] < config.student_rate_image


def test_a_method_without_a_step_is_exported_as_it_was_set_up(bench: Workbench, tmp_path: Path) -> None:
    class Chosen:
        needs: frozenset[str] = frozenset()
        check, setup, export = Stub.check, Stub.setup, Stub.export

    config = replace(DISTILL, validate_every=2, keep=(0,))
    start = start_of(bench, config)
    kept: list[int] = []
    chosen: Any = Chosen()
    loop = make_loop(bench, [], tmp_path, config, method=chosen, save=lambda found, i: kept.append(i))
    distilled = loop.run(start)
    assert torch.equal(distilled.images, start.images) and distilled.info["iteration"] == 0 and kept == [0]


def test_the_learned_rates_are_logged_and_exported(bench: Workbench, experts: list[Trajectory], tmp_path: Path) -> None:
    distilled = make_loop(bench, experts, tmp_path).run(start_of(bench))
    last = metrics(tmp_path)[-1]
    assert {"value", "matching_image", "matching_text", "rate_image", "rate_text"} <= last.keys()
    assert distilled.recipe.rates["image"] == pytest.approx((last["rate_image"],))


def test_matching_brings_the_student_nearer_to_the_expert(
    bench: Workbench, experts: list[Trajectory], tmp_path: Path
) -> None:
    config = replace(DISTILL, iterations=30, image_lr=0.1, text_lr=0.1)
    options = BitrajOptions(syn_steps=3, max_start_epoch=1)
    make_loop(bench, experts, tmp_path, config, options=options).run(start_of(bench, config))
    values = [line["value"] for line in metrics(tmp_path)]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_the_checkpoint_holds_everything_by_name(bench: Workbench, tmp_path: Path) -> None:
    config = replace(DISTILL, ema=0.5)
    with pytest.raises(Stopped):
        make_loop(bench, [], tmp_path, config, method=Stub(), stop_after=2).run(start_of(bench, config))
    tensors, note = read_tensors(tmp_path / CHECKPOINT, "checkpoint")
    for part in ("state/variables", "average", "best", "before/state/variables"):
        assert {f"{part}/{name}" for name in ("images", "texts", "log_rate_image", "log_rate_text")} <= tensors.keys()
    assert "optimiser/images/exp_avg_sq" in tensors
    assert json.loads(note["progress"])["iteration"] == 2


def test_an_unreadable_note_does_not_pass_for_a_checkpoint(bench: Workbench, tmp_path: Path) -> None:
    write_tensors(tmp_path / CHECKPOINT, {"state/variables/images": torch.zeros(2)})
    with pytest.raises(ArtefactError, match=r"not a checkpoint of this distillation.*Delete it"):
        make_loop(bench, [], tmp_path, method=Stub()).run(start_of(bench))
    with pytest.raises(Stopped):
        make_loop(bench, [], tmp_path / "six", method=Stub(), stop_after=1).run(start_of(bench))
    seven = replace(DISTILL, pairs=7)
    with pytest.raises(ArtefactError, match="not a checkpoint of this distillation"):
        make_loop(bench, [], tmp_path / "six", seven, method=Stub()).run(start_of(bench, seven))


# --- interrupts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_at_the_next_question(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with deferred_stop() as asked:
        assert not asked()
        signal.raise_signal(number)
        assert asked()
        assert "a second request stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_thread_cannot_be_interrupted() -> None:
    answers: list[bool] = []

    def work() -> None:
        with deferred_stop() as asked:
            answers.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


@pytest.mark.parametrize("clock_of", ["wall", "cpu"])
def test_minutes_end_a_distillation_and_rates_decay_with_the_time(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock_of: Literal["wall", "cpu"]
) -> None:
    """By the clock that is configured: the other one stands still, or runs away."""
    config = replace(SGD, iterations=10**6, minutes=0.5, decay="linear", image_lr=1e-3, text_lr=1e-3, clock=clock_of)
    loop = make_loop(bench, [], tmp_path, config, method=Stub())
    wall, used = (3.0, 0.0) if clock_of == "wall" else (100.0, 3.0 * torch.get_num_threads())
    clock = SimpleNamespace(
        monotonic=lambda: wall * loop.progress.iteration, process_time=lambda: used * loop.progress.iteration
    )
    monkeypatch.setattr(loop_module, "time", clock)
    distilled = loop.run(start_of(bench, config))
    selection = distilled.info["selection"]
    assert selection["iterations"] == distilled.info["iteration"] == 10 and selection["seconds"] == 30
    start = start_of(bench, config).texts
    moved = float((start - distilled.texts).mean()) / 1e-3
    assert moved == pytest.approx(sum((0.1 + 0.01 * t) * (1 - t / 10) for t in range(10)), rel=1e-3)


class Phased(Stub):
    """In its second phase throughout, at the beginning of it."""

    def step(self, state: State, context: Context) -> Update:
        return replace(super().step(state, context), phase="second", progress=0.0)


def test_rates_decay_over_a_phase_also_by_the_clock(bench: Workbench, tmp_path: Path) -> None:
    config = replace(SGD, iterations=10**6, minutes=0.005, decay="linear", image_lr=1e-6, text_lr=1e-6)
    distilled = make_loop(bench, [], tmp_path, config, method=Phased()).run(start_of(bench, config))
    iterations = distilled.info["selection"]["iterations"]
    moved = float((start_of(bench, config).texts - distilled.texts).abs().mean()) / 1e-6
    assert moved / sum(0.1 + 0.01 * i for i in range(iterations)) == pytest.approx(1, rel=0.05)


class Wild(Stub):
    """Fails in its third iteration in one number of one tensor."""

    def __init__(self, where: str, value: float) -> None:
        super().__init__()
        self.where, self.value = where, value

    def setup(self, start: Start, context: Context) -> State:
        state = super().setup(start, context)
        state.carried["online"] = torch.zeros(3)
        return state

    def step(self, state: State, context: Context) -> Update:
        update = super().step(state, context)
        online = state.carried["online"] + 1
        if context.iteration == 2:
            tensor = online if self.where == "online" else update.gradients[self.where]
            tensor.flatten()[-1] = self.value
        return replace(update, carried={"online": online})


@pytest.mark.parametrize("where", ["images", "texts", "log_rate_image", "log_rate_text", "online"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_that_is_not_finite_passes(bench: Workbench, tmp_path: Path, where: str, value: float) -> None:
    config = replace(DISTILL, iterations=4)
    loop = make_loop(bench, [], tmp_path, config, method=Wild(where, value))
    seen = history(loop)
    loop.run(start_of(bench, config))
    assert loop.progress.undone == 1 and same(seen[2]["state"], seen[0]["state"])
    (why,) = [line["why"] for line in metrics(tmp_path) if "why" in line]
    assert where in why and "not finite" in why
    assert all(bool(torch.isfinite(tensor).all()) for tensor in loop._moving().values())


def test_a_moment_that_overflows_is_undone(bench: Workbench, tmp_path: Path) -> None:
    config = replace(DISTILL, iterations=4)  # Adam would divide by infinity from now on, and learn nothing more
    loop = make_loop(bench, [], tmp_path, config, method=Wild("images", 1e25))
    loop.run(start_of(bench, config))
    (why,) = [line["why"] for line in metrics(tmp_path) if "why" in line]
    assert why == "the optimiser's images/exp_avg_sq is not finite after the step" and loop.progress.undone == 1


@pytest.mark.parametrize(("options", "batch"), [({}, 6), ({"minibatch": 4}, 4), ({"student_batch": 3}, 3)])
def test_a_sets_own_student_takes_as_many_pairs_in_a_step_as_the_inner_steps_did(
    bench: Workbench, experts: list[Trajectory], tmp_path: Path, options: dict[str, Any], batch: int
) -> None:
    made = make_loop(bench, experts, tmp_path, options=BitrajOptions(max_start_epoch=1, **options))
    assert made.run(start_of(bench)).recipe.batch == batch
