"""Disks that fill up or cannot be written, for real; two processes at one artefact; a run folder that moves."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vldistill.cli import main
from vldistill.storage.locks import held

LONG = ("--iterations", "12", "--distill.checkpoint_every", "1", "--distill.validate_every", "0")
SET = Path("sets") / "bitraj-6-s0"


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves about ``leave`` bytes of a disk free."""
    filler = disk / "filler"
    with filler.open("wb") as handle:
        handle.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def sums(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in run.rglob("*.safetensors")
    }


@pytest.fixture(scope="module")
def undisturbed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a set; copied for every test."""
    run = Path(shutil.copytree(made, tmp_path_factory.mktemp("undisturbed") / "run"))
    assert main(["distill", "--run", str(run), *LONG, "--quiet"]) == 0
    return run


@pytest.fixture
def straight(undisturbed: Path, tmp_path: Path) -> Path:
    """An undisturbed run with a set, of this test alone."""
    return Path(shutil.copytree(undisturbed, tmp_path / "straight"))


@pytest.mark.parametrize("leave", [0, 20_000, 120_000], ids=["at the start", "at a checkpoint", "later"])
def test_a_disk_that_fills_up_loses_nothing(
    leave: int, straight: Path, made: Path, vldistill: Any, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1_500_000)
    run = Path(shutil.copytree(made, disk / "run"))
    filler = fill(disk, leave)
    done = vldistill("distill", "--run", run, *LONG)
    assert done.code == 2 and "the disk is full" in done.err and "Traceback" not in done.err
    assert "same command to resume" in done.err or "cannot be used" in done.err
    assert not (run / SET / "set.json").exists()
    filler.unlink()
    assert vldistill("distill", "--run", run, *LONG).code == 0
    assert sums(run) == sums(straight) and not list(run.rglob("*.tmp"))


def test_experts_on_a_disk_that_fills_up_go_on(
    made: Path, config: Path, vldistill: Any, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1_500_000)
    run = disk / "run"
    every_step = ("--config", config, "--runtime.save_seconds", "0")
    filler = fill(disk, 150_000)  # both experts alone would fit
    done = vldistill("experts", "--run", run, *every_step)
    assert done.code == 2 and "the disk is full" in done.err
    filler.unlink()
    again = vldistill("experts", "--run", run, *every_step)
    assert again.code == 0 and "resuming after" in again.err
    assert sums(run) == sums(made) and not list(run.rglob("*.unfinished"))


def test_a_read_only_run_is_read_and_refused_to_be_written(
    straight: Path, vldistill: Any, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1_500_000)
    run = Path(shutil.copytree(straight, disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for words in (("distill", "--run", run, "--seed", "1"), ("experts", "--run", run, "--experts.count", "3")):
        done = vldistill(*words)
        assert done.code == 2 and "read-only" in done.err and "Choose another --run folder" in done.err
    assert json.loads(vldistill("inspect", run / SET, "--json").out)["pairs"] == 6
    assert vldistill("distill", "--run", straight.parent / "other", "--config", run / "config.yaml",
                     "--experts_from", run, *LONG).code == 0  # fmt: skip


def test_two_processes_at_one_artefact_and_at_two(run: Path, vldistill: Any) -> None:
    with held(run / SET / ".lock", "somebody else's work"):
        done = vldistill("distill", "--run", run, *LONG)
        assert done.code == 2 and f"{run / SET} is in use by another process (process " in done.err
        assert vldistill("distill", "--run", run, *LONG, "--seed", "1").code == 0
    assert vldistill("distill", "--run", run, *LONG).code == 0
    results = run / "results"
    with held(results / ".random-6.lock", "somebody else's work"):
        done = vldistill("evaluate", "--run", run, "--set", "random:6")
        assert done.code == 2 and "random-6.json is in use by another process" in done.err
        assert vldistill("evaluate", "--run", run, "--set", run / SET).code == 0


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch, vldistill: Any) -> Callable[[Path], None]:
    """``crash(run)``: a distillation that ends in a bug right after the checkpoint of its seventh iteration."""
    from vldistill.distillation.loop import Loop

    real = Loop._checkpoint

    def checkpoint(loop: Loop) -> None:
        real(loop)
        if loop.progress.iteration == 7:
            raise AssertionError("a crash")

    def distill(run: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_checkpoint", checkpoint)
            assert vldistill("distill", "--run", run, *LONG).code == 1

    return distill


def test_a_run_that_moves_goes_on(straight: Path, run: Path, vldistill: Any, crash: Any, tmp_path: Path) -> None:
    crash(run)
    (tmp_path / "deep").mkdir()
    moved = Path(shutil.move(run, tmp_path / "deep" / "moved"))
    done = vldistill("distill", "--run", moved, *LONG)
    assert done.code == 0 and "resuming at iteration 7" in done.err
    assert sums(moved) == sums(straight)
    assert vldistill("evaluate", "--run", moved, "--set", moved / SET).code == 0


def test_a_damaged_checkpoint_costs_one_checkpoint(straight: Path, run: Path, vldistill: Any, crash: Any) -> None:
    crash(run)
    path = run / SET / "checkpoint.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :])
    done = vldistill("distill", "--run", run, *LONG)
    assert done.code == 0 and "is damaged" in done.err and "resuming at iteration 6" in done.err
    assert sums(run) == sums(straight)
    lines = [(json.loads(line)["iteration"]) for line in (run / SET / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(12))


def test_an_interrupted_evaluation_goes_on_with_the_next_student(
    straight: Path, vldistill: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vldistill.evaluation import protocol, students

    words = ("evaluate", "--run", straight, "--set", straight / SET, "--json")
    whole = json.loads(vldistill(*words).out)
    other = Path(shutil.copytree(straight, tmp_path / "other"))
    shutil.rmtree(other / "results")
    words = ("evaluate", "--run", other, "--set", other / SET, "--json")
    real, trained = protocol.train_student, 0

    def stopped(*given: Any, **more: Any) -> Any:
        nonlocal trained
        if trained == 3:
            raise KeyboardInterrupt
        trained += 1
        return real(*given, **more)

    with monkeypatch.context() as patch:
        for module in (protocol, students):  # those that are tested, and those that are tried on val
            patch.setattr(module, "train_student", stopped)
        done = vldistill(*words)
        assert (
            done.code == 3
            and "3 trained students are kept" in done.err
            and "Run the same command to resume" in done.err
        )
    (kept, *rest) = sorted((other / "results").glob("*.unfinished/*.json"))
    assert len(rest) == 2
    kept.write_text(kept.read_text().replace('"seconds": ', '"seconds": 1'))  # damaged: trained again
    found = json.loads(vldistill(*words).out)
    assert {key: found[key] for key in ("own", "generic")} == {key: whole[key] for key in ("own", "generic")}
    assert not list((other / "results").glob("*.unfinished")) and (other / "results" / f"{SET.name}.json").exists()
