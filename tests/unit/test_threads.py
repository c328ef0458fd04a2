"""CPU threads: the container's limit, what is said, and that threads of the command line sleep while they wait."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from vldistill.runtime.log import Reporter
from vldistill.runtime.threads import allowed_cores, describe_threads, set_threads


def test_the_limit_of_the_container_counts(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "jobs" / "mine"
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/jobs/mine\n")
    assert allowed_cores(tmp_path / "cgroup", own) == math.inf
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("150000 100000\n")
    assert allowed_cores(tmp_path / "cgroup", own) == 1.5


def test_a_number_of_threads_is_taken_as_it_is() -> None:
    before = torch.get_num_threads()
    set_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert describe_threads(torch.device("cpu")) == "on cpu, 2 CPU threads"
    monkeypatch.setattr(psutil, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert "--runtime.threads 1" in describe_threads(torch.device("cpu"))


@pytest.mark.parametrize(("given", "wait"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_of_a_command_sleep_unless_told_otherwise(given: dict[str, str], wait: str) -> None:
    code = "import os, sys; from vldistill.cli import main; main(['nothing']); print(os.environ['OMP_WAIT_POLICY'])"
    rest = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**rest, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == wait


def test_a_long_silence_is_explained_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vldistill.runtime.log.waiting.__wrapped__.__defaults__", (0.0,))
    with Reporter().waiting("loading the tower"):
        time.sleep(0.2)
    with Reporter(quiet=True).waiting("loading nothing"):
        time.sleep(0.05)
    assert capsys.readouterr().err == "loading the tower\n"
