"""Results as text tables."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterable, Sequence

from vldistill.evaluation.measures import ACCURACIES, MEASURES, TITLE_OF, Figure, sides_note, title_of
from vldistill.evaluation.results import MOST_OF_TOP5, Evaluation

LEGACY = "test-best-legacy"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; a name cannot end its cell or its row."""
    table = [[_cell(text) for text in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def fitted(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """:func:`markdown`, or where a terminal is too narrow for that, a block of lines for each row."""
    table = markdown(header, rows)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    if max(map(len, table.splitlines())) <= width:
        return table
    longest = max(map(len, header[1:]), default=0)
    blocks = [
        "\n".join([row[0], *(f"  {name.ljust(longest)}  {value}" for name, value in zip(header[1:], row[1:]))])
        for row in rows
    ]
    return "\n\n".join(blocks) + "\n"


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")


def _conditions(result: Evaluation) -> dict[str, str]:
    """What the results of one table usually have in common."""
    conditions = {"setting": result.setting, "protocol": result.protocol, "seeds": str(result.seeds)}
    return conditions | {"image_tower": str(result.image_tower)}


def evaluation_rows(
    results: Iterable[Evaluation], extra: Sequence[str] = (), measures: Sequence[str] = MEASURES
) -> list[list[str]]:
    """One row per result and recipe; ``extra`` are conditions to show after its name."""
    return [
        [
            result.set,
            *(_conditions(result)[key] for key in extra),
            recipe,
            f"{result.pairs:,}",
            f"{result.stored_floats:,}",
            *(str(scores.figures.get(name, "-")) for name in measures),
        ]
        for result in results
        for recipe, scores in result.scores().items()
    ]


def evaluation_text(results: Sequence[Evaluation]) -> str:
    """A table of evaluations: conditions that all rows share are a note below it, the others are columns."""
    every = [_conditions(result) for result in results]
    shared = {key: {conditions[key] for conditions in every} for key in every[0]}
    differing = [key for key, values in shared.items() if len(values) > 1]
    measures = list(dict.fromkeys(name for result in results for name in result.measures))
    named = {result.sides for result in results}
    sides = named.pop() if len(named) == 1 else ()
    titles = [title_of(name, sides) for name in measures]
    rows = evaluation_rows(results, differing, measures)
    table = fitted(["set", *differing, "recipe", "pairs", "stored floats", *titles], rows)
    words = {"setting": "setting {}", "protocol": "protocol {}", "seeds": "{} students"}
    notes = [words[key].format(*shared[key]) for key in words if len(shared[key]) == 1]
    chance = sorted({f"{result.chance_headline:.2f}" for result in results})
    notes += ["mean ± standard deviation in percent", f"chance {' or '.join(chance)}"]
    if LEGACY in shared["protocol"]:
        notes.append(f"{LEGACY} reports the best epoch on test: biased, only to compare with published rows")
    checks = [check for result in results for check in result.checks]
    sizes = sorted({check.summary for check in checks if check.name == "test size" and not check.flag})
    warnings = dict.fromkeys(warning for result in results for warning in result.warnings)
    beneath = [
        sides_note(sides),
        *dict.fromkeys(result.part_of_full for result in results),
        *dict.fromkeys(map(_class_note, results)),
        *map(_zero_shot_note, results),
        *sizes,
        *(f"warning: {warning}" for warning in warnings),
    ]
    return "\n".join([table, f"{', '.join(notes[:-1])}; {notes[-1]}", *filter(None, beneath)])


def _class_note(result: Evaluation) -> str:
    """What the figures of a class set are, and which recalls are left out; empty for any other."""
    if result.classes is None:
        return ""
    left = [TITLE_OF[name] for name in MEASURES if name not in result.measures]
    note = f"zero-shot classification among {result.classes:,} classes by their mean prompts; ties count against"
    return note + (f". Left out, because equal prompts tie: {', '.join(left)}" if left else "")


def _zero_shot_note(result: Evaluation) -> str:
    """A line for each other source that was classified, and recipe."""
    lines: list[str] = []
    for recipe, scores in result.scores().items():
        for source, students in scores.zero_shot.items():
            count = result.zero_shot_classes.get(source, 0)
            names = [name for name in ACCURACIES if count > MOST_OF_TOP5 or name != "top5"]
            shown = [f"{TITLE_OF[name]} {Figure.of([getattr(one, name) for one in students])}" for name in names]
            chance = f" ({count:,} classes, chance {100 / count:.1f})" if count else ""
            lines.append(f"zero-shot on {source}{chance}: {result.set}, {recipe}: {', '.join(shown)}")
    return "\n".join(lines)
