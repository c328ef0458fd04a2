"""The charts of a report, from what the runs logged."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from vldistill.config.plain import Plain, Record, entry
from vldistill.drawing.figures import SMALL, Points, curves, inline_svg
from vldistill.reporting.overview import differing, every_row, words_of
from vldistill.reporting.records import Row, RunRecord, SetRecord
from vldistill.reporting.views import FigureView
from vldistill.workbench.headline import IN_WORDS, val_key

CONDITIONS = ("setting", "protocol", "towers", "image_tower", "text_tower")
MOST_POINTS = 240
"""Of a line on the page: more are averaged in bins, for a chart is about 400 pixels wide."""


def budget_chart(runs: Sequence[RunRecord]) -> FigureView | None:
    """Mean recall on test against pairs; None with a single number of pairs."""
    rows = [row for row in every_row(runs) if row.pairs]
    extra = differing(rows, CONDITIONS, lambda row: row.run)
    extra += differing([row for row in rows if row.kind == "distilled"], ("seed",), lambda row: (row.run, row.label))

    def name_of(row: Row) -> str:
        name = f"{row.run}: {_line(row)}" if len(runs) > 1 else _line(row)
        return name + words_of(row, extra if row.kind == "distilled" else [key for key in extra if key != "seed"])

    lines: dict[str, dict[float, tuple[float, float]]] = {}
    for row in rows:
        if row.kind != "full":
            figure = row.headline
            lines.setdefault(name_of(row), {})[float(row.pairs or 0)] = (figure.mean, figure.std or 0.0)
    if len({pairs for line in lines.values() for pairs in line}) < 2:
        return None
    words = " or ".join(dict.fromkeys(IN_WORDS[row.measure] for row in rows))
    full = {name_of(row): row.mean for row in rows if row.kind == "full"}
    figure = curves(
        {name: [(x, line[x][0]) for x in sorted(line)] for name, line in lines.items()},
        errors={name: [line[x][1] for x in sorted(line)] for name, line in lines.items()},
        xlabel="pairs",
        ylabel=f"{words} on test, %",
        levels=full,
        size=SMALL,
        log_x=True,
    )
    label = f"Line chart of {words} on test against the number of pairs: {', '.join(lines)}."
    note = " ".join(["Bars: one standard deviation.", *pairs_needed_notes(runs)])
    return FigureView("Recall against pairs", inline_svg(figure, "budget", label), note)


def pairs_needed_notes(runs: Sequence[RunRecord]) -> list[str]:
    """How many pairs reach a share of the full data, where ``vldistill curve`` has computed it."""
    notes: list[str] = []
    for run in runs:
        for one in entry(run.curve, "curves", list) or ():
            record = one if isinstance(one, Mapping) else {}
            parts = [found for found in map(_needed, entry(record, "needed", list) or ()) if found]
            if parts:
                where = f"{run.name}: " if len(runs) > 1 else ""
                notes.append(f"{where}{record.get('name')}: {', '.join(parts)}.")
    return [f"Pairs until a share of the full data, with 95 % intervals. {' '.join(notes)}"] if notes else []


def _needed(value: Plain) -> str:
    """``90 %: 210 [180, 260]``; a number that is missing is more than the largest budget."""
    record = value if isinstance(value, Mapping) else {}
    share = entry(record, "share", int, float)
    numbers = [entry(record, name, int) for name in ("pairs", "low", "high")]
    shown = ["more" if number is None else f"{number:,}" for number in numbers]
    return f"{share:.0%}: {shown[0]} [{shown[1]}, {shown[2]}]" if share else ""


def _line(row: Row) -> str:
    """The name that rows of different budgets share: the row's label, or the set's name without its pairs."""
    if row.kind == "full":
        return "full"
    name = re.sub(rf"-{row.pairs}(?=-|$)", "", row.set.partition(":")[0])
    return f"{row.row or name}, {row.recipe}" if row.kind == "distilled" else f"{name} pairs"


def training_charts(runs: Sequence[RunRecord]) -> list[FigureView]:
    """Recall on val over minutes and iterations, losses, and learned rates."""
    sets = [item for run in runs for item in run.sets if item.metrics]
    names = {id(item): f"{item.run}: {item.name}" if len(runs) > 1 else item.name for item in sets}

    def lines(x: Callable[[Record], Plain], key: str, suffix: str = "") -> dict[str, Points]:
        found = {names[id(item)] + suffix: _points(item, x, key) for item in sets}
        return {name: points for name, points in found.items() if points}

    def minutes(line: Record) -> Plain:
        seconds = entry(line, "seconds", int, float)
        return None if seconds is None else seconds / 60

    def iteration(line: Record) -> Plain:
        return line.get("iteration")

    words = " or ".join(word for measure, word in IN_WORDS.items() if lines(iteration, val_key(measure)))

    def on_val(x: Callable[[Record], Plain]) -> dict[str, Points]:
        return {name: points for measure in IN_WORDS for name, points in lines(x, val_key(measure)).items()}

    rates = lines(iteration, "rate_image", ", image") | lines(iteration, "rate_text", ", text")
    loss = "Methods have losses of their own."
    wanted = (
        ("Recall against time", on_val(minutes), "minutes", f"{words} on val, %", ""),
        ("Recall against iterations", on_val(iteration), "outer iteration", f"{words} on val, %", ""),
        ("Loss of the method", lines(iteration, "value"), "outer iteration", "loss", loss),
        ("Learned student rates", rates, "outer iteration", "learning rate", ""),
        ("Experts", _expert_losses(runs), "epoch", "training loss", "Mean over the experts of a run."),
    )  # fmt: skip
    return [
        _chart(number, title, series, xlabel, ylabel, note)
        for number, (title, series, xlabel, ylabel, note) in enumerate(wanted)
        if any(len(points) > 1 for points in series.values())
    ]


def _chart(number: int, title: str, series: dict[str, Points], xlabel: str, ylabel: str, note: str) -> FigureView:
    values = [y for points in series.values() for _, y in points if math.isfinite(y)]
    log_y = "%" not in ylabel and bool(values) and min(values) > 0 and max(values) > 30 * min(values)
    figure = curves(series, xlabel=xlabel, ylabel=ylabel, size=SMALL, log_y=log_y)
    label = f"Line chart, {title.lower()}: {ylabel} over {xlabel} for {', '.join(series)}."
    return FigureView(title, inline_svg(figure, f"chart{number}", label), note)


def _points(item: SetRecord, x: Callable[[Record], Plain], key: str) -> Points:
    pairs = [(x(line), line.get(key)) for line in item.metrics if key in line]
    known = [(float(a), float(b)) for a, b in pairs if isinstance(a, int | float) and isinstance(b, int | float)]
    return _thinned(known)


def _thinned(points: Points) -> Points:
    """At most :data:`MOST_POINTS`: means of neighbours, so that noise shrinks but nothing moves."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in bins]


def _expert_losses(runs: Sequence[RunRecord]) -> dict[str, Points]:
    """By run, the mean loss of its experts by epoch, from the last time they were recorded."""
    found: dict[str, Points] = {}
    for run in runs:
        recorded = [losses for event in run.events if (losses := entry(event, "losses", list))]
        recorded = [losses for losses in recorded if all(isinstance(one, list) for one in losses)]
        if recorded:
            means = [sum(values) / len(values) for values in zip(*recorded[-1])]
            found[run.name] = [(float(epoch), mean) for epoch, mean in enumerate(means, start=1)]
    return found
