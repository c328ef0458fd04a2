"""The scripts that make the published results: what they put in a table, and when they refuse to."""

from __future__ import annotations

from typing import Any

import pytest

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
