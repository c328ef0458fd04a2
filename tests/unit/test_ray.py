"""Units on a real Ray cluster: of one node here, of several in tests/integration/test_ray_nodes.py (slow)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from units_for_tests import breaks, dies, refused, says_version, works

from vldistill.cluster import Unit, UnitFailed, run_units
from vldistill.cluster.rays import RayCluster
from vldistill.errors import ConfigError
from vldistill.runtime.log import Reporter

pytest.importorskip("ray", reason="Ray is not installed: pip install 'vldistill[ray]'")
# Ray's own warnings, each by its words: processes and sockets that it leaves to the operating system.
pytestmark = [
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed .*socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


class Warned(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one node with one core."""
    from ray.cluster_utils import Cluster

    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", here)  # nodes find the units' work by its module
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield str(cluster.address)
        cluster.shutdown()


def test_units_are_done_once_lost_ones_again_and_broken_ones_are_listed(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vldistill.cluster.units.PAUSE_SECONDS", 0.001)
    monkeypatch.chdir(tmp_path)  # commands run where the user is, so that relative paths mean the same
    notes = str(tmp_path / "notes")
    units = [
        Unit("early", partial(works, notes=notes, name="early")),
        Unit("late", partial(works, notes=notes, name="late"), after=("early",)),
        Unit("lost", partial(dies, place=str(tmp_path / "deaths"), enough=2)),
        Unit("refused", partial(refused, notes=notes)),
        Unit("bug", partial(breaks, notes=notes)),
        Unit("needs", partial(works, notes=notes, name="needs"), needs=("refused",)),
        Unit("command", partial(says_version, log="here/log.txt")),
    ]
    reporter = Warned()
    heard: dict[str, Any] = {}

    def hear(unit: Unit, error: UnitFailed | None) -> None:
        heard[unit.name] = error

    with RayCluster(address, 1, -1, reporter) as cluster:
        assert cluster.gpus == 0 and cluster.slots == 2  # one runs, one waits in line
        failed = run_units(units, cluster, hear, reporter, retries=1)
    words = Path(notes).read_text().split()
    assert words.count("+early") == words.count("-late") == words.count("refused") == 1 and "+needs" not in words
    assert words.index("-early") < words.index("+late") and words.count("broke") == 2
    assert len(set((tmp_path / "deaths").read_text().split())) == 2
    assert sorted(failed) == ["bug", "needs", "refused"] and sorted(heard) == sorted(unit.name for unit in units)
    assert "ZeroDivisionError: a bug" in str(failed["bug"]) and str(failed["refused"]) == "never"
    assert any(said.startswith("lost: its worker was lost") and "try 2 of 2" in said for said in reporter.said)
    assert "vldistill 0" in (tmp_path / "here" / "log.txt").read_text()


def test_a_request_that_no_node_can_fill_is_told(address: str) -> None:
    reporter = Warned()
    with RayCluster(address, 64, 2, reporter):
        assert "no node of the cluster has 64 CPU cores and 2 GPUs" in reporter.said[0]


def test_no_cluster_is_refused_with_the_command_that_starts_one() -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster there .*ray start --head"):
        RayCluster("192.0.2.99", 1, 0, Warned())
