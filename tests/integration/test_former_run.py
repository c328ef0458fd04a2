"""A run folder of an earlier version (0.1.0, before options had names of their own version) goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vldistill.distilled import DistilledSet
from vldistill.storage.files import read_json

FORMER = Path(__file__).resolve().parents[1] / "data" / "former_run"


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A copy: one expert, a finished set, a coreset, an evaluation, and a set that was stopped in its third step."""
    return Path(shutil.copytree(FORMER, tmp_path / "run"))


def test_it_holds_options_that_are_no_more() -> None:
    assert "gallery: 128" in (FORMER / "config.yaml").read_text(encoding="utf-8")
    assert read_json(FORMER / "sets" / "herding-4-s0" / "config.json", "coreset")["select"]["warmup_batch"] == 128


def test_its_sets_are_finished_and_evaluate_to_the_same_figures(vldistill: Any, former: Path) -> None:
    for words in (["distill"], ["select", "--method", "herding", "--pairs", "4"], ["experts"]):
        done = vldistill(*words, "--run", former)
        assert done.code == 0, done.err
    assert "1 expert" in done.err
    kept = read_json(former / "results" / "bitraj-4-s0.json", "evaluation")
    (former / "results" / "bitraj-4-s0.json").unlink()
    done = vldistill("evaluate", "--run", former, "--set", "bitraj-4-s0", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["data"] == kept["data"] and result["generic"]["recipe"] == kept["generic"]["recipe"]
    assert result["generic"]["mean_recall"]["mean"] == pytest.approx(kept["generic"]["mean_recall"]["mean"], abs=15)


def test_what_was_stopped_goes_on_where_it_was(vldistill: Any, former: Path) -> None:
    done = vldistill("distill", "--run", former, "--label", "half")
    assert done.code == 0 and "at iteration 3" in done.err, done.err
    folder = former / "sets" / "bitraj-4-s0-half"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "value" in line] == list(range(6))
    assert len(DistilledSet.load(folder)) == 4 and not (folder / "checkpoint.safetensors").exists()


def test_a_report_shows_it(vldistill: Any, former: Path) -> None:
    done = vldistill("report", former, "--students", "never")
    assert done.code == 0, done.err
    page = (former / "report.html").read_text(encoding="utf-8")
    assert "bitraj-4-s0" in page and "herding-4-s0" in page
