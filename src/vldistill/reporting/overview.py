"""Tables over several runs: results with gains, towers against towers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from vldistill.config.plain import entry
from vldistill.evaluation.measures import ACCURACIES, RECALLS, TITLE_OF, Figure, ratio, title_of
from vldistill.evaluation.tables import LEGACY
from vldistill.reporting.records import OWN, Row, RunRecord
from vldistill.workbench.headline import IN_WORDS, MEAN_RECALL, TOP1

V = TypeVar("V", bound=float | str)
WORDS = {
    "setting": "setting {}",
    "protocol": "protocol {}",
    "towers": "towers {}",
    "image_tower": "image tower {}",
    "text_tower": "text tower {}",
    "seeds": "{} students a row",
}
"""Conditions of a row: a note below the table where all rows share them, else a column."""
ATTRIBUTES = {**WORDS, "pairs": "{} pairs", "seed": "seed {}"}
"""Conditions that are added to a row's name where it is not unique."""
COLUMN = {"image_tower": "image tower", "text_tower": "text tower", "seeds": "students"}


@dataclass(frozen=True)
class TableCell:
    """One cell of a table.

    Args:
        text: what it shows.
        sort: what a sorted column compares; None sorts last.
        small: text after it, smaller.
        share: of the largest value in its column, 0 to 1, for the bar behind it.
        head: whether it names the row.
        strong: whether it stands out.
    """

    text: str
    sort: float | str | None = None
    small: str = ""
    share: float | None = None
    head: bool = False
    strong: bool = False

    @classmethod
    def of(
        cls, value: V | None, show: Callable[[V], str] = str, *, head: bool = False, strong: bool = False
    ) -> TableCell:
        """A value that the column is sorted by, as text; a dash where there is none."""
        return cls("–") if value is None else cls(show(value), value, head=head, strong=strong)

    @classmethod
    def of_figure(cls, figure: Figure | None, top: float = 0.0, strong: bool = False) -> TableCell:
        """A recall, mean and deviation, with a bar where the ``top`` of its column is given."""
        if figure is None:
            return cls("–")
        mean, share = figure.mean, figure.mean / top if top > 0 else None
        return cls(f"{mean:.1f}", mean, f"± {figure.std or 0.0:.1f}", share, strong=strong)


@dataclass(frozen=True)
class Table:
    """A table: column titles (title, explanation, whether numbers), rows of cells, and notes below it."""

    columns: Sequence[tuple[str, str, bool]]
    rows: Sequence[Sequence[TableCell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Headline:
    """A distilled row in large figures: (value, small text, what it is); ``why`` it is this one, in words."""

    of: str
    why: str
    figures: Sequence[tuple[str, str, str]] = field(default_factory=tuple)


def every_row(runs: Iterable[RunRecord]) -> list[Row]:
    """All evaluations of all runs."""
    return [row for run in runs for row in run.rows]


def gain(row: Row, rows: Iterable[Row]) -> float | None:
    """How many times the mean recall of random pairs of the same number; None without such a row.

    Real pairs carry no recipe of their own, so they are always the ones trained by the generic one.
    """
    if row.kind == "full":
        return None
    return _over(row, (other for other in rows if other.kind == "random" and other.pairs == row.pairs))


def share_of_full(row: Row, rows: Iterable[Row]) -> float | None:
    """Mean recall over that of the full data; None without such a row."""
    return _over(row, (other for other in rows if other.kind == "full"))


def _over(row: Row, references: Iterable[Row]) -> float | None:
    """Mean recall over that of the first of the ``references`` that it can be compared with."""
    return next((ratio(row.mean, other.mean) for other in references if row.comparable(other)), None)


def differing(rows: Iterable[Row], keys: Iterable[str], alike: Callable[[Row], Hashable]) -> list[str]:
    """The ``keys`` in which rows differ that are ``alike``, and the same in the keys before."""
    rows, found = list(rows), []
    for key in keys:
        groups: dict[Hashable, set[str]] = {}
        for row in rows:
            same = (alike(row), *(str(row.condition(one)) for one in found))
            groups.setdefault(same, set()).add(str(row.condition(key)))
        if any(len(values) > 1 for values in groups.values()):
            found.append(key)
    return found


def words_of(row: Row, keys: Iterable[str]) -> str:
    """The conditions ``keys`` of a row, to be put after its name."""
    values = ((key, row.condition(key)) for key in keys)
    return "".join(f", {ATTRIBUTES[key].format(short(value))}" for key, value in values if value is not None)


def best_row(rows: Sequence[Row]) -> tuple[Row, str] | None:
    """The best distilled row and the reason in words; by the generic recipe and an unbiased protocol if there are any.

    The best is that on val, if every row has its figure on val; the highest on test may be so by chance.
    """
    distilled = [row for row in rows if row.kind == "distilled"]
    if not distilled:
        return None

    def rank(row: Row) -> tuple[bool, bool]:
        return row.protocol != LEGACY, row.recipe == "generic"

    top = max(map(rank, distilled))
    several = [row for row in distilled if rank(row) == top]
    if len(several) == 1:
        return several[0], "the only distilled row"
    if all(row.val is not None for row in several):
        return max(several, key=lambda row: row.val or 0.0), f"of {len(several)} distilled rows the best on val"
    return max(several, key=lambda row: row.mean), f"the highest of {len(several)} rows on test, not chosen on val"


def headline(runs: Sequence[RunRecord]) -> Headline | None:
    """The figures at the top, or None without an evaluated set."""
    rows = every_row(runs)
    found = best_row(rows)
    if found is None:
        return None
    best, why = found
    figure = best.headline
    shown = [(f"{figure.mean:.1f} %", f"± {figure.std or 0.0:.1f}", f"{IN_WORDS[best.measure]} on test")]
    if (times := gain(best, rows)) is not None:
        shown.append((f"{times:.1f} ×", "", "that of as many random pairs"))
    if (share := share_of_full(best, rows)) is not None:
        shown.append((percent(share), "", "of what the full data reaches"))
    if best.pairs:
        floats = f"{best.stored_floats:,} numbers to store" if best.stored_floats else ""
        shown.append((f"{best.pairs:,}", "pairs", floats))
    size = next((check.score for check in best.checks if check.name == "test size"), None)
    if size is not None:
        chance = f"chance {best.chance:.2f} %" if best.chance is not None else ""
        shown.append((f"{size:,.0f}", "test images", chance))
    of = f"{best.label}, {best.recipe} recipe" + (f", run {best.run}" if len(runs) > 1 else "")
    return Headline(of, why, shown)


def result_table(runs: Sequence[RunRecord]) -> Table | None:
    """Every evaluation with its gain over random pairs, or None without any."""
    rows = every_row(runs)
    if not rows:
        return None
    values = {key: {str(v) for row in rows if (v := row.condition(key)) is not None} for key in WORDS}
    extra = [key for key in WORDS if len(values[key]) > 1]
    columns = [("run", "", False)] if len(runs) > 1 else []
    columns += [("set", "distilled set, random:N real pairs, or the full data", False), ("recipe", "", False)]
    columns += [(COLUMN.get(key, key), "", key == "seeds") for key in extra]
    words = " or ".join(IN_WORDS[measure] for measure in IN_WORDS if any(row.measure == measure for row in rows))
    columns += [
        (words, _meaning(words), True),
        ("× random", f"{words} over that of as many random pairs", True),
        ("of full", f"share of the full data's {words}", True),
        ("pairs", "", True),
        ("floats", "numbers to store: images, texts, similarity, rates", True),
    ]
    names = beside(rows)
    named = {row.sides for row in rows}
    sides = named.pop() if len(named) == 1 else ()
    columns += [(title_of(name, sides), _meaning(TITLE_OF[name], sides), True) for name in names]
    top = max(row.mean for row in rows)
    best, _ = best_row(rows) or (None, "")
    body = [
        [
            *_result_cells(row, rows, extra, len(runs) > 1, top, row is best),
            *(TableCell.of_figure(row.figures.get(name) if name in beside([row]) else None) for name in names),
        ]
        for row in rows
    ]
    parts = {(row.pairs, whole) for row in rows if (whole := entry(row.details, "of_pairs", int))}
    notes = [f"full is {pairs:,.0f} of {whole:,} training pairs, drawn once." for pairs, whole in sorted(parts)]
    return Table(columns, body, [*_shared_notes(rows, values), *notes])


def beside(rows: Sequence[Row]) -> list[str]:
    """The measures beside the headline: the recalls, of class sets the other accuracies, for equal prompts tie."""
    classes, pairs = (any(row.measure == measure for row in rows) for measure in (TOP1, MEAN_RECALL))
    return [*(ACCURACIES[1:] if classes else ()), *(RECALLS if pairs else ())]


def zero_shot_table(runs: Sequence[RunRecord]) -> Table | None:
    """Accuracies on class sources that sets were not made of; None without any."""
    rows = [row for row in every_row(runs) if row.zero_shot]
    if not rows:
        return None
    columns = [("set", "", False), ("recipe", "", False), ("classified", "a class source", False)]
    columns += [(TITLE_OF[name], _meaning(TITLE_OF[name]), True) for name in ACCURACIES]
    columns += [("chance", "of top-1", True)]
    body = []
    for row in rows:
        for source, figures in row.zero_shot.items():
            cells = [TableCell.of(row.label, head=True), TableCell.of(row.recipe), TableCell.of(source)]
            cells += [TableCell.of_figure(figures.get(name)) for name in ACCURACIES]
            count = entry(row.zero_shot_classes, source, int)
            body.append([*cells, TableCell.of(100 / count if count else None, "{:.1f}".format)])
    return Table(columns, body, ["Zero-shot classification in percent, mean ± standard deviation over students."])


def _meaning(title: str, sides: Sequence[str] = ()) -> str:
    meanings = {
        "zero-shot top-1": "share of images whose class has the nearest mean prompt",
        "top-1": "share of images whose class has the nearest mean prompt",
        "top-5": "share of images whose class is among the nearest five",
        "balanced": "the mean of the classes' own top-1",
    }
    if title in meanings:
        return meanings[title]
    if " or " in title:
        return "of pairs the mean of the six recalls, of class sets the share of images whose class is nearest"
    if title == "mean recall":
        return "mean of the six recalls"
    side, _, k = title.partition("@")
    names = [f"{sides[0]} rows", f"{sides[1]} rows"] if len(sides) == 2 else ["images", "captions"]
    query, gallery = names if side == "TR" else names[::-1]
    return f"share of {query} with a right one among the first {k} of all {gallery}"


def _result_cells(
    row: Row, rows: Sequence[Row], differing: Sequence[str], named: bool, top: float, best: bool
) -> list[TableCell]:
    cells = [TableCell.of(row.run)] if named else []
    cells += [TableCell.of(row.label, head=True, strong=best), TableCell.of(row.recipe)]
    for key in differing:
        value = row.condition(key)
        cells.append(TableCell(short(value), value if isinstance(value, int | float) else str(value)))
    cells.append(TableCell.of_figure(row.headline, top, best))
    cells.append(TableCell.of(None if row.kind == "random" else gain(row, rows), "{:.1f} ×".format))
    cells.append(TableCell.of(None if row.kind == "full" else share_of_full(row, rows), percent))
    for value in (row.pairs, row.stored_floats):
        cells.append(TableCell.of(None if value is None else float(value), _compact))
    return cells


def _compact(value: float) -> str:
    """``71,682``, ``4.95 M``."""
    if value < 100_000:
        return f"{value:,.0f}"
    for limit, unit in ((1e6, "k"), (1e9, "M"), (1e12, "G")):
        if value < limit:
            return f"{value / limit * 1000:.3g} {unit}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """``12 %``."""
    return f"{share:.0%}".replace("%", " %")


def short(value: str | float | None) -> str:
    """A tower's name without the folder it is in."""
    if value is None:
        return "–"
    text = str(value)
    return Path(text).name if "/" in text else text


def _shared_notes(rows: Sequence[Row], values: Mapping[str, set[str]]) -> list[str]:
    shared = {key: values[key] for key in WORDS if len(values[key]) == 1 and (key, values[key]) != ("towers", {OWN})}
    facts = [WORDS[key].format(short(*value)) for key, value in shared.items()]
    chance = sorted({f"{row.chance:.2f}" for row in rows if row.chance is not None})
    facts += ["mean ± standard deviation over students, in percent, on the test split"]
    facts += [f"chance {' or '.join(chance)}"] if chance else []
    notes = [_sentence("; ".join(facts)), *check_notes(rows)]
    if any(row.recipe == "own" for row in rows):
        notes.append("Recipes: own is the one a set carries; generic is one for every row, its rates chosen on val.")
    if LEGACY in values["protocol"]:
        notes.append(f"{LEGACY} reports the best epoch on test: biased, only to compare with published rows.")
    return notes


def check_notes(rows: Sequence[Row]) -> list[str]:
    """How large the test splits are, and what the checks of the data flag."""
    checks = dict.fromkeys(check for row in rows for check in row.checks)
    sizes = [check.summary for check in checks if check.name == "test size" and not check.flag]
    return sizes + [f"Warning, {check.name}: {check.summary}" for check in checks if check.flag]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def tower_matrix(runs: Sequence[RunRecord]) -> Table | None:
    """The headline of every distilled set (rows) by the towers of its students (columns); None for one kind of them."""
    rows = [row for row in every_row(runs) if row.image_tower]
    parts = ["image_tower", *differing(rows, ("text_tower", "towers"), lambda row: row.image_tower)]

    def towers_of(row: Row) -> tuple[str, ...]:
        return tuple(short(row.condition(part)) for part in parts)

    towers = list(dict.fromkeys(map(towers_of, rows)))
    if len(towers) < 2:
        return None
    extra = differing(
        rows, ("pairs", "setting", "protocol", "seed"), lambda row: (row.label, row.recipe, towers_of(row))
    )
    table: dict[tuple[str, str, str], dict[tuple[str, ...], Row]] = {}
    for row in rows:
        made = entry(row.details, "made_with_image_tower", str)
        origin = short(made or row.image_tower) if row.kind == "distilled" else "real pairs"
        table.setdefault((row.label + words_of(row, extra), origin, row.recipe), {})[towers_of(row)] = row
    top = max(row.mean for row in rows)
    body = []
    for (label, origin, recipe), found in table.items():
        cells = [TableCell.of(label, head=True), TableCell.of(origin), TableCell.of(recipe)]
        figures = [found[tower].headline if tower in found else None for tower in towers]
        body.append(cells + [TableCell.of_figure(figure, top) for figure in figures])
    columns = [("set", "", False), ("made with", "image tower", False), ("recipe", "", False)]
    columns += [
        (", ".join(tower), f"students with {words_of(found, parts)[2:]}", True)
        for tower, found in ((tower, next(row for row in rows if towers_of(row) == tower)) for tower in towers)
    ]
    words = " or ".join(dict.fromkeys(IN_WORDS[row.measure] for row in rows))
    return Table(columns, body, [f"{words[0].upper()}{words[1:]} in percent, mean ± standard deviation over students."])
