"""Results as text tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vldistill.evaluation.measures import MEASURES, TITLES

LEGACY = "test-best-legacy"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; a name cannot end its cell or its row."""
    table = [[_cell(text) for text in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")


def spread(figure: Mapping[str, float]) -> str:
    """``mean ± std``."""
    return f"{figure['mean']:.1f} ± {figure['std']:.1f}"


def evaluation_rows(results: Iterable[Mapping[str, Any]], extra: Sequence[str] = ()) -> list[list[str]]:
    """One row per result and recipe; ``extra`` are more keys of a result to show after its name."""
    rows = []
    for result in results:
        for recipe in ("own", "generic"):
            if figures := result.get(recipe):
                told = [str(result[key]) for key in extra]
                sizes = [f"{result[key]:,}" for key in ("pairs", "stored_floats")]
                shown = [spread(figures[name]) for name in MEASURES]
                rows.append([result["set"], *told, recipe, *sizes, *shown])
    return rows


def evaluation_text(results: Sequence[Mapping[str, Any]]) -> str:
    """A table of evaluations: what all rows share is said beneath, what differs is a column."""
    shared = {key: {str(result[key]) for result in results} for key in ("setting", "protocol", "seeds")}
    shared["image_tower"] = {str(result.get("image_tower")) for result in results}
    differing = [key for key, values in shared.items() if len(values) > 1]
    table = markdown(
        ["set", *differing, "recipe", "pairs", "stored floats", *TITLES], evaluation_rows(results, differing)
    )
    words = {"setting": "setting {}", "protocol": "protocol {}", "seeds": "{} students"}
    said = [words[key].format(*shared[key]) for key in words if len(shared[key]) == 1]
    chance = sorted({f"{result['chance']['mean_recall']:.2f}" for result in results})
    said += ["mean ± standard deviation in percent", f"chance {' or '.join(chance)}"]
    if LEGACY in shared["protocol"]:
        said.append(f"{LEGACY} reports the best epoch on test: biased, only to compare with published rows")
    return f"{table}\n{', '.join(said[:-1])}; {said[-1]}"
