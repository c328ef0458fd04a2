"""Experts on a real Ray cluster of three nodes, one of which dies in the middle."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'vldistill[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed .*socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


def test_a_node_that_dies_costs_nothing_but_time(
    vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # on a busy machine
    asked = ["experts", "--config", config, "--encoder.setting", "full", "--experts.count", 4, "--experts.epochs", 12]
    alone = vldistill(*asked, "--run", tmp_path / "alone", "--runtime.threads", 1, "--quiet")
    assert alone.code == 0, alone.err
    one_core: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**one_core, "include_dashboard": False})
    victims = [cluster.add_node(**one_core) for _ in range(2)]
    run = tmp_path / "spread"
    killed: list[int] = []

    def kill_in_the_middle() -> None:
        """Once two experts are at work, the head has one of them at most."""
        until = time.monotonic() + 300
        while len(list(run.glob("units/expert-*.log"))) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        killed.append(len(list(run.glob("experts/*.safetensors"))))
        cluster.remove_node(victims[0], allow_graceful=False)

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    try:
        done = vldistill(*asked, "--run", run, "--cluster", cluster.address)
    finally:
        killer.join()
        cluster.shutdown()
    assert done.code == 0, done.err
    assert killed and killed[0] < 4 and "was lost" in done.err and "try 2 of 3" in done.err
    experts = [
        {p.name: p.read_bytes() for p in (place / "experts").glob("*.safetensors")}
        for place in (tmp_path / "alone", run)
    ]
    assert experts[0] == experts[1] and len(experts[0]) == 4
    assert os.environ.get("VLDISTILL_PARENT") is None
