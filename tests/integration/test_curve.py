"""``vldistill curve`` on drawn scenes: evaluations are kept, a second call resumes, the report shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_a_curve_of_random_chosen_and_distilled_pairs(vldistill: Any, run: Path) -> None:
    quick = ["--evaluate.trials", 1]
    words = ["curve", "--run", run, "--budgets", "4,6", "--selectors", "random,herding", *quick]
    assert vldistill("distill", "--run", run, "--pairs", "4").code == 0
    done = vldistill(*words, "--distilled", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [one["name"] for one in found["curves"]] == ["random pairs", "herding pairs", "bitraj, distilled"]
    for one in found["curves"]:
        assert [point["pairs"] for point in one["points"]] == [4, 6]
        assert [needed["share"] for needed in one["needed"]] == [0.9, 0.95, 0.99]
    assert (run / "curve" / "curve.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (run / "results").glob("*.json")}
    assert len(before) == 7  # full, two of each selector, two sets
    more = vldistill("curve", "--run", run, "--budgets", "4,6,8", "--selectors", "random", *quick)
    assert more.code == 0 and "pairs until 90%" in more.out, more.err
    after = {path: path.stat().st_mtime_ns for path in (run / "results").glob("*.json")}
    assert len(after) == 8 and all(after[path] == when for path, when in before.items())
    assert vldistill("report", run, "--students", "never").code == 0
    assert "Pairs until a share of the full data" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--budgets", "20"], "two or more different numbers of pairs"),
        (["--budgets", "4,x"], "two or more different numbers of pairs"),
        (["--budgets", "4,6", "--selectors", "randm"], "Did you mean random"),
        (["--budgets", "4,4000"], "4000 pairs were requested"),
        (["--budgets", "4,6", "--evaluate.recipes", "[own]"], "add generic to evaluate.recipes"),
        (["--budgets", "4,6", "--evaluate.protocol", "val-best"], "a learning curve takes last"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_trained(
    vldistill: Any, run: Path, words: list[str], message: str
) -> None:
    done = vldistill("curve", "--run", run, *words)
    assert done.code == 2 and message in done.err
    assert not (run / "results").exists()
