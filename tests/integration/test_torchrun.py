"""One distillation, or one expert, on several processes: real ones, started by torchrun, that talk through gloo."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vldistill.storage.files import read_tensors

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def together(count: int, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``vldistill WORDS`` in ``count`` processes."""
    command = [*LAUNCH, str(count), "-m", "vldistill.cli", "--", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def values(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["iteration"], line["value"]) for line in lines if "value" in line]


def words(run: Path, draws: int, *more: object) -> list[object]:
    asked = ["distill", "--run", run, "--distill.draws", draws, "--iterations", 4, "--distill.validate_every", 2]
    return [*asked, "--quiet", *more]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_give_the_set_that_one_process_gives(vldistill: Any, run: Path, tmp_path: Path, count: int) -> None:
    alone = vldistill(*words(run, 4, "--runtime.threads", 1))
    assert alone.code == 0, alone.err
    made = run / "sets" / "bitraj-6-s0"
    other = made.rename(tmp_path / "alone")
    done = together(count, *words(run, 4))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(made)  # said once
    assert (made / "set.safetensors").read_bytes() == (other / "set.safetensors").read_bytes()
    assert values(made) == values(other) and len(values(made)) == 4
    single = vldistill(*words(run, 1, "--label", "single"))
    assert single.code == 0
    assert values(run / "sets" / "bitraj-6-s0-single") != values(made)


@pytest.mark.slow
def test_the_set_that_another_starts_from_is_made_once(vldistill: Any, run: Path, tmp_path: Path) -> None:
    asked = words(run, 2, "--method", "bilevel", "--distill.start", "canonical", "--bilevel.steps", 2)
    done = together(2, *asked)
    assert done.returncode == 0, done.stderr
    made = run / "sets" / "bilevel-6-s0"
    other = made.rename(tmp_path / "together")
    alone = vldistill(*asked, "--runtime.threads", 1)
    assert alone.code == 0, alone.err
    for name in ("start/set.safetensors", "set.safetensors"):
        assert (made / name).read_bytes() == (other / name).read_bytes(), name
    assert values(made / "start") == values(other / "start") != []


def test_draws_that_cannot_be_shared_and_stages_that_are_not_are_refused(
    vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    done = vldistill("select", "--run", run)
    assert done.code == 2 and "runs in one process; torchrun is for distill, experts, evaluate" in done.err
    lost = vldistill("distill", "--run", run)
    assert lost.code == 2 and "cannot find each other" in lost.err and "torchrun --nproc_per_node" in lost.err


@pytest.mark.slow
def test_three_draws_on_two_processes_are_refused_with_the_number_that_works(run: Path) -> None:
    done = together(2, *words(run, 3))
    assert done.returncode != 0 and "--distill.draws 4" in done.stderr


@pytest.mark.slow
def test_a_stop_is_agreed_on_and_the_same_command_goes_on_to_the_same_set(
    vldistill: Any, run: Path, tmp_path: Path
) -> None:
    long = ["distill", "--run", run, "--distill.draws", 2, "--distill.validate_every", 0, "--quiet"]
    made = run / "sets" / "bitraj-6-s0"
    command = [*LAUNCH, "2", "-m", "vldistill.cli", "--", *map(str, [*long, "--iterations", 60])]
    with subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 500
        while not (made / "metrics.jsonl").exists() or len(values(made)) < 3:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert (made / "checkpoint.safetensors").exists() or list(made.glob("checkpoint*")), err
    assert "everything is saved" in err
    again = together(2, *long, "--iterations", 60)
    assert again.returncode == 0, again.stderr
    stopped = (made / "set.safetensors").read_bytes()
    made.rename(tmp_path / "stopped")
    assert vldistill(*long, "--iterations", 60, "--runtime.threads", 1).code == 0
    assert (made / "set.safetensors").read_bytes() == stopped


@pytest.mark.slow
def test_an_expert_of_two_processes_is_that_of_one(vldistill: Any, config: Path, tmp_path: Path) -> None:
    """Two steps, of 31 pairs each: after many, networks with ReLU on flat pictures part whatever made the rounding."""
    asked = ["--encoder.setting", "full", "--experts.count", 1, "--experts.augment", "false", "--experts.batch", 31]
    asked += ["--experts.epochs", 2, "--experts.steps_per_epoch", 1, "--experts.momentum", 0.9]
    one, two = tmp_path / "one", tmp_path / "two"
    assert vldistill("experts", "--config", config, "--run", one, *asked, "--quiet").code == 0
    done = together(2, "experts", "--config", config, "--run", two, *asked, "--quiet")
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    name = Path("experts") / "expert-000.safetensors"
    (first, about), (second, other) = (read_tensors(run / name, "expert") for run in (one, two))
    assert first.keys() == second.keys()
    moved = max(float((first[n] - first[f"0/{n[2:]}"]).abs().max()) for n in first if n.startswith("2/"))
    apart = max(float((first[n] - second[n]).abs().max()) for n in first)
    assert apart < 1e-5 * moved
    notes = [json.loads(note["vldistill.trajectory"]) for note in (about, other)]
    assert notes[0]["losses"] == pytest.approx(notes[1]["losses"], rel=1e-5)
    assert "processes" not in notes[0] and notes[1]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_students_of_several_processes_are_those_of_one(vldistill: Any, run: Path, tmp_path: Path, count: int) -> None:
    asked = ["evaluate", "--run", run, "--set", "random:6", "--seeds", 5, "--quiet"]
    alone = vldistill(*asked, "--runtime.threads", 1)
    assert alone.code == 0, alone.err
    made = run / "results" / "random-6.json"
    first = json.loads(made.rename(tmp_path / "alone.json").read_text())
    done = together(count, *asked)
    assert done.returncode == 0, done.stderr
    second = json.loads(made.read_text())
    differing = {name for name in first if first[name] != second.get(name)}
    assert differing <= {"seconds", "peak_memory_bytes", "environment", "blake2b"}
    assert len(second["generic"]["students"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("count", [2, 4])
def test_where_one_process_dies_all_end_within_a_minute_with_a_message(
    run: Path, tmp_path: Path, count: int, number: signal.Signals
) -> None:
    """Started without torchrun, which would end the others: as by srun, on machines of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = run / "sets" / "bitraj-6-s0"
    asked = [*words(run, count), "--iterations", 100_000, "--distill.validate_every", 0]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vldistill.cli", *map(str, asked)]
    ranks = []
    for rank in range(count):
        with (tmp_path / f"{rank}.txt").open("w") as said:
            environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=environment, stderr=said))
    try:
        until = time.monotonic() + 500
        while not (made / "metrics.jsonl").exists() or len(values(made)) < 3:
            assert all(rank.poll() is None for rank in ranks) and time.monotonic() < until
            time.sleep(0.05)
        ranks[1].send_signal(number)
        began = time.monotonic()
        for rank in (ranks[0], *ranks[2:]):
            assert rank.wait(60) == 3
        assert time.monotonic() - began < 60
        told = (tmp_path / "0.txt").read_text()
        assert "This one ends too" in told and "Run the same command to resume" in told and "Traceback" not in told
        assert number == signal.SIGKILL or "process 1 has been silent" in told
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
