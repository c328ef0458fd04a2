"""Parts of a stage done by jobs that know nothing of each other, and by several processes: the same files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from vldistill.cli import find_command
from vldistill.cluster.commands import Commands
from vldistill.storage.locks import held

ROOT = Path(__file__).resolve().parents[2]


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def test_experts_in_two_parts_are_those_of_one_run(vldistill: Any, config: Path, run: Path, tmp_path: Path) -> None:
    whole = files(run / "experts", "*.safetensors")
    parts = tmp_path / "parts"
    for number in (2, 1):
        done = vldistill("experts", "--config", config, "--run", parts, "--shard", f"{number}/2", "--quiet")
        assert done.code == 0, done.err
        assert len(files(parts / "experts", "*.safetensors")) == 3 - number
    assert files(parts / "experts", "*.safetensors") == whole and len(whole) == 2
    spare = vldistill("experts", "--run", parts, "--shard", "3/3", "--quiet")  # more jobs than experts
    assert spare.code == 0 and files(parts / "experts", "*.safetensors") == whole


def test_feature_shards_in_parts_are_those_of_one_run(
    vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vldistill.encoders.features.SHARD_ROWS", 16)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = ["encode", "--config", config, "--data.views", 1, "--quiet"]
    assert vldistill(*asked, "--run", tmp_path / "a", "--data.cache", whole).code == 0
    divided = [*asked, "--run", tmp_path / "b", "--data.cache", parts]
    assert vldistill(*divided, "--decode_only").code == 0
    assert not list(parts.glob("features-*"))
    made = []
    for number in (3, 1, 2):
        assert vldistill(*divided, "--shard", f"{number}/3").code == 0
        made.append(len(list(parts.glob("features-*/*.npy"))))
    assert files(parts, "features-*/*.npy") == files(whole, "features-*/*.npy")
    assert 0 < made[0] < made[1] < made[2] == len(list(whole.glob("features-*/*.npy")))


def test_a_comparison_in_parts_needs_no_merging_but_its_table(
    vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def here(commands: Commands, words: Sequence[str], log: Path) -> None:
        calls.append(words[0])
        find_command(words[0])([*words[1:], "--quiet"])

    monkeypatch.setattr(Commands, "launch", here)
    sweep, board = tmp_path / "sweep.yaml", tmp_path / "board"
    sweep.write_text(yaml.safe_dump({"base": str(config), "pairs": [6], "methods": ["bitraj"]}))
    asked = ["compare", "--config", sweep, "--run", board, "--quiet"]
    for number in (1, 2):
        part = ["--shard", f"{number}/2"]
        done = vldistill(*asked, *part, "--until", "experts")
        assert done.code == 0 and done.out == "", done.err
    assert calls == ["encode", "experts"] * 2 and len(list(board.glob("experts/*/experts/*.safetensors"))) == 2
    calls.clear()
    assert vldistill(*asked, "--shard", "2/2").code == 0  # full alone: of three cells the second
    assert calls == ["encode", "evaluate"] and not (board / "table.json").exists()
    assert vldistill(*asked, "--shard", "1/2").code == 0
    calls.clear()
    merged = vldistill(*asked)
    assert merged.code == 0 and calls == []
    rows = [row["row"] for row in json.loads((board / "table.json").read_text())["rows"]]
    assert rows == ["random:6", "full", "bitraj"] and "bitraj" in merged.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "3/2"], "--shard is '3/2'; expected I/N"),
        (["--workers", "0"], "--workers is 0"),
        (["--cluster", "auto", "--shard", "1/2"], "Leave one of them out"),
    ],
)
def test_a_part_that_is_none_is_refused(
    vldistill: Any, config: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = vldistill("experts", "--config", config, "--run", tmp_path / "run", *words)
    assert done.code == 2 and said in done.err and not (tmp_path / "run").exists()


def test_the_script_for_slurm_submits_jobs_that_wait_for_each_other(tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    record = tmp_path / "jobs"
    sbatch = place / "sbatch"
    sbatch.write_text(f'#!/bin/bash\necho "$@" >> {record}\nwc -l < {record}\n')
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IEXEC)
    words = [str(ROOT / "examples" / "slurm.sh"), "config.yaml", "sweep.yaml", str(tmp_path / "run")]
    environment = {**os.environ, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}", "PARTS": "3"}
    subprocess.run(words, env=environment, check=True, capture_output=True)
    jobs = record.read_text().splitlines()
    assert [job.split("--job-name=vld-")[1].split()[0] for job in jobs] == [
        "decode", "encode", "experts", "shared", "cells", "table"
    ]  # fmt: skip
    waits = [job.split("--dependency=")[1].split()[0] if "--dependency=" in job else "" for job in jobs]
    assert waits == ["", "afterok:1", "afterok:2", "afterok:2", "afterok:4", "afterany:5"]  # a failed cell has a table
    assert all("--shard $SLURM_ARRAY_TASK_ID/3" in job and "--array=1-3" in job for job in (jobs[1], jobs[2], jobs[4]))


@pytest.mark.slow
def test_several_processes_give_what_one_gives_and_list_what_fails(
    vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vldistill.cluster.options.cores", lambda: 2)  # of one thread each, whatever this machine has
    asked = ["experts", "--config", config, "--encoder.setting", "full", "--experts.count", 3]
    assert vldistill(*asked, "--run", tmp_path / "one", "--runtime.threads", 1, "--quiet").code == 0
    done = vldistill(*asked, "--run", tmp_path / "two", "--workers", 2)
    assert done.code == 0 and "experts: 4 units, 2 at a time, 1 threads each" in done.err, done.err
    one, two = (files(tmp_path / name / "experts", "*.safetensors") for name in ("one", "two"))
    assert one == two and len(one) == 3
    for number in (1, 2):
        (tmp_path / "two" / "experts" / f"expert-00{number}.safetensors").unlink()
    with held(tmp_path / "two" / "experts" / ".expert-001.lock", "expert 1"):
        broken = vldistill(*asked, "--run", tmp_path / "two", "--workers", 2, "--retries", 0)
    assert broken.code == 4 and "warning: expert 1: " in broken.err and "in use by another process" in broken.err
    assert sorted(files(tmp_path / "two" / "experts", "*.safetensors")) == [
        "expert-000.safetensors", "expert-002.safetensors"
    ]  # fmt: skip
    assert vldistill(*asked, "--run", tmp_path / "two", "--workers", 2, "--quiet").code == 0
    assert files(tmp_path / "two" / "experts", "*.safetensors") == one
