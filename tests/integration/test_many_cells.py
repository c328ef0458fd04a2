"""A comparison of many cells of which ten fail, each in another way: the others finish, and every failure is listed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from vldistill.cli import find_command
from vldistill.cluster import UnitFailed
from vldistill.cluster.commands import Commands
from vldistill.errors import VldistillError

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too large a minibatch": ({"method": "bilevel", "options": {"bilevel.minibatch": 500}}, "minibatch is 500"),
    "too long segments": ({"method": "bitraj", "options": {"bitraj.expert_epochs": 9}}, "expert_epochs"),
    "diverging": ({"method": "bitraj", "options": {"evaluate.head_rates": [1e30]}}, "student 0 by the generic recipe"),
    "wrong setting": ({"method": "covmatch"}, "covmatch works in setting both"),
    "no pictures": ({"method": "bitraj", "options": {"distill.space": "features", "distill.augment": ["flip"]}},
                    "distill.augment changes pictures"),
    "a similarity of two texts": (
        {"method": "bilevel", "options": {"bilevel.rank": 2, "distill.captions": 2}}, "one text each"
    ),
    "too few clusters": (
        {"method": "bitraj", "options": {"distill.start": "kmeans", "select.cluster_sample": 3}}, "cluster_sample is 3"
    ),
    "killed": ({"method": "bitraj", "seeds": [71]}, "was ended by signal 9"),
    "bug": ({"method": "bitraj", "seeds": [72]}, "hit a bug"),
    "damaged": ({"method": "bitraj", "seeds": [73]}, "set.json"),
}  # fmt: skip
SELECTORS = ("random", "herding", "kcenter", "similarity", "facility")


@pytest.mark.slow
@pytest.mark.parametrize("most", [3, 39], ids=["20 cells", "200 cells"])
def test_ten_failures_among_many_cells_are_listed(
    most: int, vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(commands: Commands, words: Sequence[str], log: Path) -> None:
        """Stages run in this process; two of them end as only processes do, and one leaves a damaged file."""
        asked = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())["distill"]
        if words[0] == "distill" and asked["seed"] in (71, 72):
            raise UnitFailed(
                {71: "`vldistill distill` was ended by signal 9", 72: "`vldistill distill` hit a bug"}[asked["seed"]]
            )
        try:
            find_command(words[0])([*words[1:], "--quiet"])
        except VldistillError as error:
            raise UnitFailed(str(error), "refused") from None
        if words[0] == "distill" and asked["seed"] == 73:
            (note,) = Path(words[words.index("--run") + 1]).glob("sets/*/set.json")
            note.write_text(note.read_text()[:-100])

    monkeypatch.setattr(Commands, "launch", launch)
    budgets = list(range(2, most + 1))
    sweep = {
        "base": str(config),
        "set": {"evaluate.seeds": 1, "evaluate.subset_epochs": [1], "distill.iterations": 8, "experts.count": 1},
        "pairs": [6],
        "methods": {label: entry for label, (entry, _) in BAD.items()},
        "targets": {name: {"pairs": budgets} for name in SELECTORS},
    }
    path, run = tmp_path / "sweep.yaml", tmp_path / "board"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    done = vldistill("compare", "--config", path, "--run", run, "--quiet")
    assert done.code == 4, done.err
    table = json.loads((run / "table.json").read_text())
    assert len(table["cells"]) == len(SELECTORS) * len(budgets) and not table["missing"]
    assert len(table["failed"]) == len(BAD) == 10
    said = dict(zip(BAD, table["failed"].values(), strict=True))
    for label, (_, expected) in BAD.items():
        assert expected in said[label], label
        assert said[label].splitlines()[0] in (run / "table.md").read_text()
    assert len(set(said.values())) == 10
