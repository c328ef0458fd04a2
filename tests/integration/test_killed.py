"""Real processes killed with SIGKILL, at random moments and while they write. `benchmarks/torture.py` kills 200."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmark_scripts import benchmark


@pytest.mark.skipif(sys.platform == "win32", reason="no such processes there")
@pytest.mark.parametrize(
    ("kills", "settings"),
    [
        pytest.param(3, ("heads",), id="3"),
        pytest.param(20, ("heads", "full"), id="20", marks=pytest.mark.slow),
    ],
)
def test_killed_processes_lose_nothing(
    kills: int, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    toll = benchmark("torture").torture(
        kills, 0, tmp_path, settings, ("encode", "experts", "distill", "evaluate", "select")
    )
    assert not toll.lost and not toll.different
    assert toll.kills == kills and toll.identical == toll.lives > 0
