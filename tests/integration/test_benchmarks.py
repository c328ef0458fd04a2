"""The scripts that make the published results: what they put in a table, and when they refuse to."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark_scripts import benchmark

tables = benchmark("tables")


def on_tower(mean: float, recipe: str = "generic") -> dict[str, Any]:
    figures: dict[str, Any] = {"own": None, "generic": None, recipe: {"mean_recall": {"mean": mean, "std": 0.5}}}
    return {"image_tower": "convnet", "setting": "heads", "protocol": "last", "seeds": 3, **figures}


@pytest.mark.parametrize("recipe", ["own", "generic"])
def test_a_matrix_with_a_tower_that_failed_is_a_table(recipe: str) -> None:
    result = {
        "results": {"m on own": on_tower(9.0, recipe), "m on wider": on_tower(8.0, recipe)},
        "failed": {"m on broken": "no weights", "full on own": "diverged"},
        "environment": {"commit": "abc", "command": "vldistill cross"},
    }
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.table_of(result).splitlines()]
    assert lines[0] == ["set", "convnet (own)", "convnet", "broken"]
    assert lines[2:4] == [["m", "9.0 ± 0.5", "8.0 ± 0.5", "failed"], ["full", "failed", "-", "-"]]
    assert f"{recipe} recipe" in tables.table_of(result)


QUICK = {"distill.method": "bilevel", "distill.iterations": 2, "bilevel.steps": 2, "bilevel.real_batch": 16}


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    benchmark(name).main()


def test_an_ablation_is_for_the_options_that_it_was_made_with(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = tmp_path / "variants.yaml", tmp_path / "out.json"
    words = ["--variants", plan, "--run", tmp_path / "runs", "--out", out]

    def go(base: dict[str, Any], *more: object, config: Path = config) -> Any:
        plan.write_text(yaml.safe_dump({"base": base, "variants": {"one": {"distill.image_lr": 0.02}}}))
        run_script(monkeypatch, "ablation", "--config", config, "--seeds", 2, *words, *more)
        return json.loads(out.read_text())["rows"]

    rows = go(QUICK)
    assert go(QUICK) == rows and rows[0]["students"] == 2
    with pytest.raises(SystemExit, match="2"):
        go({**QUICK, "bilevel.steps": 3})
    assert re.search(r"steps: 2 there, 3 requested", capsys.readouterr().err)
    assert json.loads(out.read_text())["rows"] == rows
    (row,) = go(QUICK, "--seeds", 3)
    assert row["students"] == 3 and row["val"] != rows[0]["val"], "judged anew"
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text().replace("head_rates: [0.1]", "head_rates: [0.2]"))
    assert go(QUICK, config=other)[0]["rate"] == 0.2 != rows[0]["rate"]


@pytest.mark.slow
def test_a_table_of_places_is_for_the_plan_that_it_was_made_with(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "plan.yaml", tmp_path / "out.json"

    def go(made: dict[str, Any], place: dict[str, Any]) -> Any:
        path.write_text(yaml.safe_dump({"config": str(config), "sets": {"plain": made}, "places": {"here": place}}))
        words = ["--plan", path, "--run", tmp_path / "runs", "--out", out, "--also", "random:6"]
        run_script(monkeypatch, "elsewhere", *words)
        return json.loads(out.read_text())["rows"]

    place = {"evaluate.seeds": 1}
    rows = go(QUICK, place)
    assert [row["set"] for row in rows] == ["plain", "random:6"] and go(QUICK, place) == rows
    with pytest.raises(SystemExit, match="2"):
        go({**QUICK, "distill.image_lr": 0.5}, place)
    assert "image_lr" in capsys.readouterr().err
    assert json.loads(out.read_text())["rows"] == rows
    assert [row["seeds"] for row in go(QUICK, {})] == [2, 2], "judged anew: the option is gone from the plan"
