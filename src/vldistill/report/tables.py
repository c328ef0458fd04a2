"""Results as text tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = ("mean_recall", "tr1", "tr5", "tr10", "ir1", "ir5", "ir10")
TITLES = ("mean recall", "TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def spread(figure: Mapping[str, float]) -> str:
    """``mean ± std``."""
    return f"{figure['mean']:.1f} ± {figure['std']:.1f}"


def evaluation_rows(results: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """One row per result and recipe."""
    rows = []
    for result in results:
        for recipe in ("own", "generic"):
            figures = result.get(recipe)
            if figures:
                rows.append([result["set"], recipe, str(result["pairs"]), *[spread(figures[name]) for name in COLUMNS]])
    return rows


def evaluation_text(results: Sequence[Mapping[str, Any]]) -> str:
    """A table of evaluations, with the setting, the protocol and the level of chance said beneath."""
    table = markdown(["set", "recipe", "pairs", *TITLES], evaluation_rows(results))
    first = results[0]
    return (
        f"{table}\n"
        f"setting {first['setting']}, protocol {first['protocol']}, {first['seeds']} students, "
        f"mean ± standard deviation in percent; chance {first['chance']['mean_recall']:.2f}"
    )
