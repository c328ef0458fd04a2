"""Experts: snapshots by name that alias nothing, files that are whole or redone, and never another tower's."""

from __future__ import annotations

import json
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vldistill.config import Config, EncoderConfig, ExpertsConfig, ImageTowerConfig, TextTowerConfig
from vldistill.encoders.dual import Groups
from vldistill.errors import (
    ArtefactError,
    ConfigError,
    DivergedError,
    InUseError,
    MatchingError,
    Stopped,
    VldistillError,
)
from vldistill.experts import record
from vldistill.experts.note import ExpertNote
from vldistill.experts.record import (
    bytes_per_expert,
    expert_path,
    kept_epochs,
    open_experts,
    record_expert,
    record_experts,
)
from vldistill.experts.trajectory import Trajectory, clone_groups, save_trajectory
from vldistill.experts.unfinished import Unfinished
from vldistill.runtime.randomness import seed_of
from vldistill.storage import files
from vldistill.storage.locks import held
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench

if TYPE_CHECKING:
    from tests.unit.conftest import Bench, Listener

Usage = namedtuple("Usage", "total used free")
CONFIG = ExpertsConfig(count=2, epochs=3, batch=16, image_rate=0.1, text_rate=0.05)
NOTE = "vldistill.trajectory"
NOTE_OF_TEST = ExpertNote(
    index=0, setting="heads", encoder="e", data="d", dtype="float32", snapshots=(0, 2, 10), losses=(0.5, 0.25)
)


@pytest.fixture
def bench(workbench: Bench) -> Workbench:
    return workbench()


def numbers(groups: Groups) -> dict[str, torch.Tensor]:
    return {f"{side}/{name}": tensor for side, named in groups.items() for name, tensor in named.items()}


def equal(left: Groups, right: Groups) -> bool:
    a, b = numbers(left), numbers(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*expert-*"))}


def tiny(scale: float = 1.0) -> Groups:
    return {
        "image": {"w": torch.arange(6.0).view(2, 3) * scale},
        "text": {"w": torch.ones(2) * scale, "b": torch.ones(())},
    }


# --- recording -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["heads", "full"])
def test_snapshots_are_where_the_training_was(setting: str, workbench: Bench, tmp_path: Path):
    bench = workbench(setting)
    config = replace(CONFIG, momentum=0.5, weight_decay=1e-3, image_rate=0.02, steps_per_epoch=4)
    expert = record_expert(bench, config, 1, tmp_path / "expert.safetensors")
    seed = seed_of(config.seed, "expert", 1)
    student = bench.student(seed)
    passed = {0: clone_groups(student.trained())}
    losses: list[float] = []

    def after(epoch: int, loss: float) -> None:
        passed[epoch] = clone_groups(student.trained())
        losses.append(loss)

    rates = {"image": (0.02,), "text": (0.05,)}
    how = Recipe(rates, 3, 16, momentum=0.5, weight_decay=1e-3, schedule="constant", dropout=0.0)
    options: dict[str, Any] = {"augment": setting == "full", "steps_per_epoch": 4}
    fit(student, bench.split("train").data, how, seed=seed, device=bench.device, on_epoch=after, **options)
    assert expert.epochs == [0, 1, 2, 3] and expert.note.losses == tuple(losses)
    assert all(equal(expert.snapshot(epoch), passed[epoch]) for epoch in passed)
    assert not equal(passed[0], passed[1])  # a snapshot that aliases the live weights would be the last one
    start, target = expert.segment(1, 2)
    assert equal(start, passed[1]) and equal(target, passed[3])


def test_trained_parameters_are_stored_and_nothing_else(workbench: Bench, tmp_path: Path, timm_file: Any):
    _, path = timm_file("mobilenetv2_035")
    bench = workbench("full", image=ImageTowerConfig("mobilenetv2_035", str(path), size=32))
    config = replace(CONFIG, epochs=1, steps_per_epoch=1, image_rate=0.001, augment=False)
    record_expert(bench, config, 0, tmp_path / "expert.safetensors")
    stored = load_file(tmp_path / "expert.safetensors")
    trained = numbers(bench.student(0).trained())
    assert set(stored) == {f"{epoch}/{name}" for epoch in (0, 1) for name in trained}
    assert not any("running" in name or "num_batches" in name for name in stored)
    assert all(stored[f"0/image/{n}"].equal(t) for n, t in bench.image_tower.named_parameters())


def test_only_the_snapshots_asked_for_are_kept(bench: Workbench, tmp_path: Path):
    whole = record_expert(bench, CONFIG, 0, tmp_path / "whole")
    some = record_expert(bench, replace(CONFIG, snapshots=(3, 1)), 0, tmp_path / "some")
    assert (whole.epochs, some.epochs) == ([0, 1, 2, 3], [1, 3])
    assert kept_epochs(replace(CONFIG, snapshots=(3, 1, 3))) == [1, 3]
    assert all(equal(some.snapshot(epoch), whole.snapshot(epoch)) for epoch in (1, 3))
    with pytest.raises(MatchingError, match=r"no snapshot of epoch 2; it has \[1, 3\].*Lower max_start_epoch"):
        some.segment(1, 1)
    with pytest.raises(MatchingError, match="no snapshot of epoch 4"):
        whole.segment(3, 1)


def test_half_precision_takes_half_the_disk(bench: Workbench, tmp_path: Path):
    full = record_expert(bench, CONFIG, 0, tmp_path / "full")
    half = record_expert(bench, replace(CONFIG, dtype="bfloat16"), 0, tmp_path / "half")
    for epoch in range(4):
        expected = {name: tensor.bfloat16().float() for name, tensor in numbers(full.snapshot(epoch)).items()}
        found = numbers(half.snapshot(epoch))
        assert all(found[name].dtype == torch.float32 and torch.equal(found[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half").values()} == {torch.bfloat16}
    for config, path in ((CONFIG, "full"), (replace(CONFIG, dtype="bfloat16"), "half")):
        size = (tmp_path / path).stat().st_size
        assert size - 10_000 < bytes_per_expert(bench, config) < size  # the header comes on top


@pytest.mark.usefixtures("untouched_generator")
def test_the_same_seed_gives_the_same_bytes(workbench: Bench, tmp_path: Path):
    config = replace(CONFIG, augment=True, steps_per_epoch=2, image_rate=0.02)
    for setting in ("heads", "full"):
        first, again = (record_experts(workbench(setting), config, tmp_path / setting / run) for run in "ab")
        assert contents(tmp_path / setting / "a") == contents(tmp_path / setting / "b")
        assert not equal(first[0].snapshot(3), first[1].snapshot(3)) and len(again) == 2
        other = record_experts(workbench(setting), replace(config, seed=1, count=1), tmp_path / setting / "c")
        assert not equal(other[0].snapshot(0), first[0].snapshot(0))


def test_noise_makes_another_expert_and_is_noted(workbench: Bench, tmp_path: Path):
    noisy = replace(CONFIG, count=1, noise=0.5)
    (plain,) = record_experts(workbench("heads"), replace(CONFIG, count=1), tmp_path / "plain")
    (expert,) = record_experts(workbench("heads"), noisy, tmp_path / "noisy")
    assert equal(expert.snapshot(0), plain.snapshot(0)) and not equal(expert.snapshot(1), plain.snapshot(1))
    assert expert.note.noise == 0.5 and "noise" not in plain.note.to_record()
    with pytest.raises(ConfigError, match=r"noise: 0\.5 there"):
        record_experts(workbench("heads"), replace(noisy, noise=0.6), tmp_path / "noisy")
    with pytest.raises(ConfigError, match=r"noise: 0\.5 there, None requested"):
        record_experts(workbench("heads"), replace(noisy, noise=0.0), tmp_path / "noisy")
    with pytest.raises(ConfigError, match=r"experts\.noise is 0\.5, .* setting full trains on images"):
        Config(encoder=EncoderConfig(setting="full"), experts=noisy)
    for wrong in (-0.1, float("inf")):
        with pytest.raises(ConfigError, match=r"experts\.noise"):
            replace(CONFIG, noise=wrong)


def test_an_expert_that_diverges_is_not_written(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DivergedError, match="smaller rates"):
        record_experts(bench, replace(CONFIG, image_rate=1e30, text_rate=1e30), tmp_path)
    assert not list(tmp_path.glob("**/expert-*"))

    def last_step_overflows(student: Any, *_: Any, on_epoch: Callable[[int, float], None], **__: Any) -> None:
        student.trained()["text"]["mix.bias"].data[0] = float("inf")
        on_epoch(1, 2.5)  # the loss of every step was still finite

    monkeypatch.setattr(record, "fit", last_step_overflows)
    with pytest.raises(DivergedError, match=r"expert 0: weights are not finite after epoch 1.*text_rate \(0\.05\)"):
        record_experts(bench, CONFIG, tmp_path)
    assert not list(tmp_path.glob("**/expert-*"))


def test_an_interrupted_expert_leaves_no_half_file(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "experts"
    write = save_trajectory

    def stopped_at_the_second(path: Path, *rest: Any) -> None:
        if path.name == "expert-001.safetensors":
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(record, "save_trajectory", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        record_experts(bench, CONFIG, folder)
    assert [path.name for path in folder.iterdir()] == ["expert-000.safetensors"]
    monkeypatch.undo()

    import safetensors.torch

    def stopped_in_the_middle(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", stopped_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            record_experts(bench, CONFIG, folder)
    assert [path.name for path in folder.iterdir()] == ["expert-000.safetensors"]
    assert len(record_experts(bench, CONFIG, folder)) == 2


# --- going on ------------------------------------------------------------------------------------------------------


def test_finished_experts_are_skipped_and_more_can_be_asked_for(
    bench: Workbench, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
):
    record_experts(bench, CONFIG, tmp_path)
    assert any("2 experts, 0 done; 2 to train need" in line for line in listener.said)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("expert-*")}
    monkeypatch.setattr(record, "record_expert", lambda *_: pytest.fail("trained again"))
    said = len(listener.said)
    assert [expert.note.index for expert in record_experts(bench, CONFIG, tmp_path)] == [0, 1]
    assert len(listener.said) == said  # nothing to train, nothing to say
    monkeypatch.undo()
    assert len(record_experts(bench, replace(CONFIG, count=3), tmp_path)) == 3
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert [expert.note.index for expert in open_experts(bench, tmp_path)] == [0, 1, 2]


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :]


def damaged(kind: str, path: Path) -> bytes:
    raw = path.read_bytes()
    tensors = load_file(path)
    note = {"format": 1, **Trajectory(path).note.to_record()}

    def again(tensors: dict[str, torch.Tensor], note: Any) -> bytes:
        other = path.with_name("other")
        save_file(tensors, other, {} if note is None else {NOTE: json.dumps(note)})
        rewritten = other.read_bytes()
        other.unlink()
        return rewritten

    last = {name: tensor for name, tensor in tensors.items() if name != "3/text/mix.bias"}
    return {
        "cut": lambda: raw[:-100],
        "header cut": lambda: raw[:20],
        "empty": lambda: b"",
        "flipped bit": lambda: flipped(raw, len(raw) - 50),
        "flipped bit in the note": lambda: flipped(raw, raw.index(b"losses")),
        "pickle": lambda: b"PK\x03\x04" + raw,
        "no note": lambda: again(tensors, None),
        "note of another kind": lambda: again(tensors, ["note"]),
        "note of another format": lambda: again(tensors, note | {"format": 99}),
        "no tensors": lambda: again({}, note),
        "a tensor too few": lambda: again(last, note),
        "another shape": lambda: again(last | {"3/text/mix.bias": torch.ones(3)}, note),
        "another dtype": lambda: again({name: tensor.double() for name, tensor in tensors.items()}, note),
        "another name": lambda: again(tensors | {"encoder.weight": torch.ones(3)}, note),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "cut", "header cut", "empty", "pickle", "no note", "note of another kind", "note of another format",
        "no tensors", "a tensor too few", "another shape", "another dtype", "another name", "flipped bit",
        "flipped bit in the note",
    ],
)  # fmt: skip
def test_damaged_experts_are_redone_alone(kind: str, bench: Workbench, tmp_path: Path, listener: Listener):
    record_experts(bench, CONFIG, tmp_path)
    whole = contents(tmp_path)
    kept = expert_path(tmp_path, 0).stat().st_mtime_ns
    path = expert_path(tmp_path, 1)
    path.write_bytes(damaged(kind, path))
    with pytest.raises(ArtefactError, match=r"expert-001\.safetensors is damaged or not a trajectory.*experts` again"):
        [expert.check_whole() for expert in open_experts(bench, tmp_path)]
    record_experts(bench, CONFIG, tmp_path)
    assert contents(tmp_path) == whole and expert_path(tmp_path, 0).stat().st_mtime_ns == kept
    assert len(listener.warned) == 1 and "It is recorded again now." in listener.warned[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_rate": 0.2}, r"recipe\.rates\.image: \[0\.1\] there, \[0\.2\] requested"),
        ({"epochs": 4}, r"recipe\.epochs: 3 there, 4 requested"),
        ({"snapshots": (0, 3)}, r"snapshots: \[0, 1, 2, 3\] there, \[0, 3\] requested"),
        ({"dtype": "bfloat16"}, "dtype: 'float32' there, 'bfloat16' requested"),
        ({"seed": 1}, "seed: 0 there, 1 requested"),
        ({"steps_per_epoch": 2}, "steps_per_epoch: 0 there, 2 requested"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(
    changes: dict[str, Any], message: str, bench: Workbench, tmp_path: Path
):
    record_experts(bench, CONFIG, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=message) as raised:
        record_experts(bench, replace(CONFIG, count=4, **changes), tmp_path)
    assert "another run folder" in str(raised.value) and "batch" not in str(raised.value)
    assert contents(tmp_path) == before


def test_experts_of_another_tower_or_data_are_refused(workbench: Bench, tmp_path: Path):
    record_experts(workbench(), CONFIG, tmp_path)
    before = contents(tmp_path)
    others: list[tuple[dict[str, Any], str]] = [
        ({"image": ImageTowerConfig("convnet", "random", 16, {"width": 8}, seed=1)}, "another tower, its weights"),
        ({"image": ImageTowerConfig("convnet", "random", 16, {"width": 4})}, r"other towers.*image/project\.weight"),
        ({"text": TextTowerConfig("hashing", width=16)}, r"other towers.*text/project\.weight"),
        ({"setting": "full"}, "other towers or another setting"),
        ({"dim": 8}, "other towers or another setting"),
        ({"temperature": 0.5}, "another tower, its weights or its setting"),
        ({"source": "scenes:seed=1,train=40,val=20,test=20"}, r"trained on other data \(fingerprint"),
    ]
    for changes, message in others:
        with pytest.raises(ArtefactError, match=message) as raised:
            open_experts(workbench(**changes), tmp_path)
        assert "Use a separate run folder for each" in str(raised.value)
        with pytest.raises(ConfigError, match="recorded with another configuration or other data"):
            record_experts(workbench(**changes), CONFIG, tmp_path)
    assert contents(tmp_path) == before
    with pytest.raises(ArtefactError, match=r"holds no experts\. Run `vldistill experts --run .*` first"):
        open_experts(workbench(), tmp_path / "nothing")


def test_a_full_disk_is_refused_before_training(
    bench: Workbench, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
):
    bench.pixels("train")
    each = bytes_per_expert(bench, CONFIG)
    usage = shutil.disk_usage
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(path)._replace(free=2 * each - 1))
    monkeypatch.setattr(record, "record_expert", lambda *_: pytest.fail("trained"))
    with pytest.raises(VldistillError, match=r"recording 2 experts needs .* kB in .*experts, but the disk has .* free"):
        record_experts(bench, CONFIG, tmp_path / "experts")
    assert f"2 to train need {files.human_bytes(2 * each)}" in listener.said[-1]
    assert not (tmp_path / "experts").exists()


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_note_goes_round_as_plain_values() -> None:
    imported = replace(NOTE_OF_TEST, imported_from={"image": "a.pt", "text": "b.pt"}, losses=(), version="1")
    for note in (NOTE_OF_TEST, imported, replace(NOTE_OF_TEST, noise=0.5, seed=0, augment=False, processes=2)):
        assert ExpertNote.from_record(json.loads(json.dumps(note.to_record()))) == note
    common = ["index", "setting", "encoder", "data"]
    assert list(NOTE_OF_TEST.to_record()) == [*common, "dtype", "snapshots", "losses"]
    assert list(imported.to_record()) == [*common, "imported_from", "snapshots", "losses", "dtype", "version"]
    for wrong in ({"index": None}, {"snapshots": 3}, {"losses": ["low"]}, {"recipe": 1}):
        with pytest.raises(TypeError, match="is not"):
            ExpertNote.from_record(NOTE_OF_TEST.to_record() | wrong)
    with pytest.raises(KeyError, match="encoder"):
        ExpertNote.from_record({"index": 0, "setting": "heads"})


def test_a_trajectory_gives_back_what_was_saved(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    save_trajectory(path, {0: tiny(), 10: tiny(2), 2: tiny(3)}, NOTE_OF_TEST, "float32")
    trajectory = Trajectory(path)
    assert trajectory.epochs == [0, 2, 10] and trajectory.note == NOTE_OF_TEST
    assert equal(trajectory.snapshot(10), tiny(2)) and equal(trajectory.segment(0, 2)[1], tiny(3))
    trajectory.check_fits(tiny())
    for wrong in (
        tiny() | {"text": {}},
        tiny() | {"image": {"w": torch.ones(3, 2)}},
        {**tiny(), "image": {"v": torch.ones(2, 3)}},
    ):
        with pytest.raises(ArtefactError, match=r"trained with other towers or another setting: \["):
            trajectory.check_fits(wrong)
    with pytest.raises(ArtefactError, match=r"none does not exist\. Run `vldistill experts` first"):
        Trajectory(tmp_path / "none")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_snapshot_that_is_changed_leaves_the_next_draw_alone(dtype: str, tmp_path: Path):
    path = tmp_path / "t.safetensors"
    save_trajectory(path, {0: tiny(), 1: tiny(2)}, None, dtype)
    trajectory = Trajectory(path)
    for tensor in numbers(trajectory.snapshot(0)).values():
        tensor.zero_()
    assert equal(trajectory.snapshot(0), tiny()) and equal(Trajectory(path).snapshot(0), tiny())


def test_a_segment_reads_its_two_snapshots_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "t.safetensors"
    save_trajectory(path, {epoch: tiny(epoch) for epoch in range(6)}, None, "float32")
    trajectory = Trajectory(path)
    read: list[str] = []
    handle = trajectory._file

    class Spy:
        def read(self, name: str) -> torch.Tensor:
            read.append(name)
            return handle.read(name)

    monkeypatch.setattr(trajectory, "_file", Spy())
    trajectory.segment(2, 3)
    assert sorted(read) == [f"{epoch}/{name}" for epoch in (2, 5) for name in ("image/w", "text/b", "text/w")]


def test_clones_do_not_follow_the_live_weights():
    live = torch.nn.Linear(2, 2)
    clone = clone_groups({"image": dict(live.named_parameters()), "text": {}})
    before = live.weight.detach().clone()
    with torch.no_grad():
        live.weight.add_(1)
    assert torch.equal(clone["image"]["weight"], before) and not clone["image"]["weight"].requires_grad
    half = clone_groups({"image": dict(live.named_parameters())}, torch.bfloat16)
    assert half["image"]["weight"].dtype == torch.bfloat16


# --- going on within one expert ------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a training where a SIGKILL would: nothing is saved on the way out."""


@pytest.mark.parametrize(("setting", "save_every"), [("heads", 1), ("full", 1), ("full", 3)])
def test_an_expert_goes_on_where_it_was(
    setting: str, save_every: int, workbench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stopped or killed after any step: the same bytes; nothing is trained twice but what was not saved."""
    bench = workbench(setting)
    config = replace(CONFIG, momentum=0.5, image_rate=0.02, steps_per_epoch=3, augment=True, snapshots=(0, 1, 3))
    record_expert(bench, config, 0, tmp_path / "straight.safetensors")
    path = tmp_path / "killed.safetensors"
    steps: list[int] = []
    ask = Unfinished.due

    def due(self: Unfinished) -> bool:
        steps.append(len(steps))
        if len(steps) in (2, 6, 7, 11):  # within epochs, and at their ends
            raise Killed
        return ask(self) or len(steps) % save_every == 0

    monkeypatch.setattr(Unfinished, "due", due)
    for _ in range(4):
        with pytest.raises(Killed):
            record_expert(bench, config, 0, path)
        assert not path.exists()
    record_expert(bench, config, 0, path)
    assert path.read_bytes() == (tmp_path / "straight.safetensors").read_bytes()
    assert sorted(entry.name for entry in tmp_path.glob("*killed*")) == ["killed.safetensors"]
    assert len(steps) <= 9 + 4 * save_every


def test_a_stopped_expert_says_where_and_goes_on(
    bench: Workbench, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
):
    whole = record_expert(bench, CONFIG, 0, tmp_path / "straight.safetensors")
    path = tmp_path / "stopped.safetensors"

    def ask(self: Unfinished) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "due", ask)
        with pytest.raises(Stopped, match="stopped after step 1 of expert 0; everything is saved"):
            record_expert(bench, CONFIG, 0, path)
    expert = record_expert(bench, CONFIG, 0, path)
    assert "expert 0: resuming after 1 steps" in listener.said
    assert path.read_bytes() == whole.path.read_bytes() and expert.note == whole.note


def test_a_process_killed_before_it_tidied_up_leaves_nothing_to_the_next(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "experts"

    def killed(self: Unfinished) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "remove", killed)
        with pytest.raises(Killed):
            record_experts(bench, CONFIG, folder, save_seconds=0)
    left, lock = folder / "expert-000.unfinished", folder / ".expert-000.lock"
    assert list(left.iterdir()) and expert_path(folder, 0).exists()
    with held(lock, "an expert"):  # whoever works on it keeps it
        record_experts(bench, replace(CONFIG, count=1), folder)
        assert list(left.iterdir())
    lock.touch()  # SIGKILL leaves it too
    record_experts(bench, replace(CONFIG, count=1), folder)
    assert [path.name for path in folder.iterdir()] == ["expert-000.safetensors"]


@pytest.mark.parametrize("damage", ["both checkpoints", "a snapshot", "another configuration", "the last checkpoint"])
def test_a_damaged_unfinished_expert_costs_time_alone(
    damage: str, bench: Workbench, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
):
    record_expert(bench, CONFIG, 0, tmp_path / "straight.safetensors")
    path, folder = tmp_path / "killed.safetensors", tmp_path / "killed.unfinished"
    asked = 0

    def due(self: Unfinished) -> bool:
        nonlocal asked
        asked += 1
        if asked == 20:  # of 39, 13 in each epoch
            raise Killed
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "due", due)
        with pytest.raises(Killed):
            other = replace(CONFIG, momentum=0.5) if damage == "another configuration" else CONFIG
            record_expert(bench, other, 0, path)
    hurt = {
        "both checkpoints": list(folder.glob("checkpoint*")),
        "a snapshot": [folder / "epoch-001.safetensors"],
        "the last checkpoint": [folder / "checkpoint.safetensors"],
    }
    for file in hurt.get(damage, []):
        raw = file.read_bytes()
        file.write_bytes(flipped(raw, len(raw) - 9))
    record_expert(bench, CONFIG, 0, path)
    assert path.read_bytes() == (tmp_path / "straight.safetensors").read_bytes()
    assert any("starts from the beginning" in line for line in listener.warned) == (damage != "the last checkpoint")
    assert any("resuming after 18 steps" in line for line in listener.said) == (damage == "the last checkpoint")


def test_an_expert_that_is_being_recorded_is_left_alone(bench: Workbench, tmp_path: Path):
    with (
        held(tmp_path / ".expert-000.lock", "it"),
        pytest.raises(InUseError, match=r"expert 0 in .* is in use by another process"),
    ):
        record_experts(bench, CONFIG, tmp_path)
