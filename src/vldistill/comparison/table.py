"""The table of a comparison: Markdown, LaTeX, CSV and plain rows. Recalls in percent, mean and sample deviation."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from vldistill.comparison.rows import Row
from vldistill.evaluation.bootstrap import LEVEL
from vldistill.evaluation.measures import ACCURACIES, RECALLS, TITLE_OF, TITLES, Figure, sides_note, title_of
from vldistill.evaluation.tables import LEGACY, markdown
from vldistill.storage.files import human_bytes
from vldistill.workbench.headline import MEAN_RECALL, TOP1

NONE = "-"
TEX = str.maketrans(
    {c: rf"\{c}" for c in "&%_#${}"} | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\textasciitilde{}"}
)


T = TypeVar("T")
Column = tuple[str, Callable[[Row], str]]
"""Title, and a row's value as text."""


def _column(title: str, value: Callable[[Row], T | None], show: Callable[[T], str] = str) -> Column:
    return title, lambda row: NONE if (found := value(row)) is None else show(found)


COLUMNS: tuple[Column, ...] = (
    _column("data", lambda row: row.data or None),
    _column("row", lambda row: row.row),
    _column("towers", lambda row: row.towers),
    _column("seed", lambda row: row.seed),
    _column("setting", lambda row: row.setting),
    _column("protocol", lambda row: row.protocol),
    _column("pairs", lambda row: row.pairs, "{:,}".format),
    _column("stored floats", lambda row: row.stored_floats, "{:,}".format),
    _column("own", lambda row: row.own),
    _column("generic", lambda row: row.generic),
    *(_column(TITLE_OF[name], lambda row, name=name: row.recalls.get(name)) for name in ACCURACIES[1:]),
    *(_column(title, lambda row, name=name: _recall(row, name)) for title, name in zip(TITLES[1:], RECALLS)),
    _column("to the best", lambda row: _to_the_best(row)),
    _column("gain over random", lambda row: row.gain, "x {:.2f}".format),
    _column("at equal floats", lambda row: row.floats_gain, "x {:.2f}".format),
    _column("share of full", lambda row: _share(row)),
    _column("LRS", lambda row: row.lrs, "{:.1f}".format),
    _column("ARS", lambda row: row.ars, "{:.1f}".format),
    _column("steps", lambda row: row.steps, "{:,}".format),
    _column("tried", lambda row: row.tried, "{:,}".format),
    _column("val looks", lambda row: row.val_looks or None, "{:,}".format),
    _column("edge", lambda row: ", ".join(row.edges) or None),
    _column("seconds", lambda row: row.seconds, "{:.0f}".format),
    _column("peak memory", lambda row: row.peak_memory_bytes, human_bytes),
)
OPTIONAL = (
    "data",
    "top-5",
    "balanced",
    "to the best",
    "at equal floats",
    "LRS",
    "ARS",
    "steps",
    "tried",
    "val looks",
    "edge",
)
"""Columns that are left out where no row has a value."""
BEFORE = (
    *("row", "group", "towers", "setting", "protocol", "chosen_by", "pairs", "stored_floats", "seed", "students"),
    *("distillations", "spread_of"),
)
AFTER = (
    *("recalls_by", "student_std", "distillation_std", "tied", "gain", "floats_gain", "share", "lrs", "ars", "steps"),
    *("tried", "val_looks", "seconds", "peak_memory_bytes", "published"),
)
"""The columns of the CSV file before and after its figures."""


def comparison_markdown(
    rows: Sequence[Row],
    failures: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    sides: Sequence[str] = (),
) -> str:
    """The table with what its columns mean, missing cells, and failed ones; ``sides`` have names of their own."""
    text: list[str] = []
    ranked = any(row.difference for row in rows)
    for group in dict.fromkeys(row.group if ranked else "" for row in rows):
        members = [row for row in rows if not ranked or row.group == group]
        text += [f"**{group or 'published'}**", ""] if ranked else []
        header, lines = _cells(members, rows)
        text += [markdown(_titled(header, sides), lines), ""]
    text += [_legend(rows), ""]
    text += [f"{sides_note(sides)}.", ""] if sides else []
    if missing:
        text += [f"{len(missing)} not done yet: {', '.join(f'`{name}`' for name in missing)}.", ""]
    if failures:
        text += [f"{len(failures)} failed:", "", *(f"- `{name}`: {why}" for name, why in failures.items()), ""]
    return "\n".join(text)


def comparison_latex(rows: Sequence[Row], sides: Sequence[str] = ()) -> str:
    """The table as a ``tabular`` (package booktabs), its meaning as comments."""
    header, lines = _cells(rows)
    header = _titled(header, sides)
    body = [" & ".join(map(_tex, line)) + r" \\" for line in lines]
    numbers = header.index("pairs")
    parts = [
        *(f"% {line}" for line in _legend(rows).splitlines()),
        rf"\begin{{tabular}}{{{'l' * numbers}{'r' * (len(header) - numbers)}}}",
        r"\toprule",
        " & ".join(map(_tex, header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(parts) + "\n"


def _titled(header: Sequence[str], sides: Sequence[str]) -> list[str]:
    """Titles of columns with the names of the sides."""
    names = {TITLE_OF[name]: title_of(name, sides) for name in RECALLS}
    return [names.get(title, title) for title in header]


def comparison_csv(rows: Sequence[Row]) -> str:
    """The table with every number in full, and standard deviations in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    classes = any(row.measure == TOP1 for row in rows)
    recalls = (*ACCURACIES[1:], *RECALLS) if classes else RECALLS
    pairs = [f"{name}_{part}" for name in ("own", "generic", *recalls) for part in ("mean", "std")]
    measure = ["measure"] if classes else []  # of own and generic
    data = ["data"] if any(row.data for row in rows) else []
    writer.writerow([*data, *BEFORE, *measure, *pairs, *AFTER, "source"])
    for row in rows:
        figures = [row.own, row.generic, *(row.recalls.get(name) for name in recalls)]
        numbers = [part for figure in figures for part in ((figure.mean, figure.std) if figure else (None, None))]
        plain = row.to_json()
        source = row.source if row.published else None
        own = [row.measure] if classes else []
        writer.writerow(
            [
                *([row.data] if data else ()),
                *(plain[name] for name in BEFORE),
                *own,
                *numbers,
                *(plain[name] for name in AFTER),
                source,
            ]
        )
    return out.getvalue()


def _cells(rows: Sequence[Row], every: Sequence[Row] = ()) -> tuple[list[str], list[list[str]]]:
    """Header and texts of ``rows``; columns where ``every`` row has the same towers or seed, or no value, are left out.

    Published rows have towers of their own.
    """
    every = every or rows
    towers, seeds = {row.towers for row in every}, {row.seed for row in every} - {None}
    left_out = [name for name, values in (("towers", towers), ("seed", seeds)) if len(values) < 2]
    optional = (*OPTIONAL, *(TITLES[1:] if any(row.measure == TOP1 for row in every) else ()))
    left_out += [name for name, text in COLUMNS if name in optional and all(text(row) == NONE for row in every)]
    columns = [column for column in COLUMNS if column[0] not in left_out]
    return [title for title, _ in columns], [[text(row) for _, text in columns] for row in rows]


def _recall(row: Row, name: str) -> Figure | None:
    """A recall; of class sets none, for equal prompts tie."""
    return None if row.measure == TOP1 else row.recalls[name]


def _to_the_best(row: Row) -> str | None:
    """The difference to the best row of the group with its interval, and whether it is a tie."""
    return None if row.difference is None else f"{row.difference}{' tie' if row.tied else ''}"


def _share(row: Row) -> str | None:
    """The share of the full data with its interval, where there is one."""
    if row.share is None:
        return None
    found = row.share_interval
    return f"{row.share:.0%}" + (f" [{found.low:.0%}, {found.high:.0%}]" if found else "")


def _legend(rows: Sequence[Row]) -> str:
    """What the numbers mean: everything a reader needs who sees the table alone."""
    ours = [row for row in rows if not row.published]
    students = sorted({row.students for row in ours if row.students is not None})
    by = sorted({row.recalls_by for row in ours}) or ["own"]
    chance = sorted({f"{row.chance:.2f}" for row in ours if row.chance is not None})
    beside = "others" if any(row.measure == TOP1 for row in ours) else "six recalls"
    notes = [
        f"own, generic: {_measures(ours)} by the set's recipe, and by the recipe that is chosen on val in one way "
        f"for every row; the {beside} are by the {' or '.join(by)} recipe where a row has it.",
        f"Test split, percent, mean ± standard deviation over {' or '.join(map(str, students)) or 'no'} students"
        f"{_spread_note(ours)}; chance {' or '.join(chance) or NONE}.",
        "Gain over as many random pairs and share of the full data: generic recipe, same setting, towers and protocol.",
        "Seconds: distilling the set, without experts and trials; peak memory of that process, or of the evaluation.",
    ]
    notes += _protocol_notes(ours)
    if any(row.trials for row in ours):
        notes.append(f"Trials on val per method: {max(row.trials for row in ours)}; each is logged in the JSON.")
    if any(row.protocol == LEGACY for row in ours):
        notes.append(f"{LEGACY} reports the best epoch on test: biased, only to compare with published rows.")
    if sources := sorted({row.source for row in rows if row.published}):
        notes.append(
            "Published rows are their sources' numbers, by other protocols, students, settings and splits: they do not "
            "rank among the rows measured here."
        )
        notes.append(f"Sources: {'; '.join(sources)}.")
    return "\n".join(notes)


def _measures(rows: Sequence[Row]) -> str:
    words = {MEAN_RECALL: "mean of the six recalls", TOP1: "zero-shot top-1"}
    found = [word for measure, word in words.items() if any(row.measure == measure for row in rows)]
    return ", of class sets ".join(found) or words[MEAN_RECALL]


def _tex(text: str) -> str:
    if text.startswith("x ") and text[2:].replace(".", "").isdigit():
        return rf"$\times$ {text[2:]}"
    for plain, escaped in ((" ± ", r" $\pm$ "), ("->", r"$\to$")):
        if plain in text:
            return escaped.join(_tex(part) for part in text.split(plain))
    return text.translate(TEX)


def _spread_note(rows: Sequence[Row]) -> str:
    """What the deviations are of, where rows differ in it or have several distillations."""
    kinds = sorted({row.spread_of for row in rows})
    most = max((row.distillations for row in rows), default=1)
    several = f" of each of {most} distillations" if most > 1 else ""
    return several + (f" (of {'; '.join(kinds)})" if kinds not in ([], ["student"]) else "")


def _protocol_notes(rows: Sequence[Row]) -> list[str]:
    """How the generic recipe was chosen, and what the intervals and scores are."""
    notes: list[str] = []
    chosen = sorted({row.chosen_by for row in rows if row.chosen_by})
    if chosen:
        notes.append(f"Generic recipe chosen by protocol {' and '.join(chosen)}.")
    if any(row.difference for row in rows):
        notes.append(
            f"To the best: the difference to the best row of the group with its {LEVEL} % interval, by a paired "
            f"bootstrap over test images, distillations and students; a tie is not distinguishable from the best."
        )
    if any(row.edges for row in rows):
        notes.append("Edge: where the search for the recipe ended at an edge of what it tried.")
    if any(row.lrs is not None for row in rows):
        scored = "top-1" if any(row.measure == TOP1 for row in rows) else "mean recalls"
        notes.append(
            f"LRS, ARS: label- and augmentation-robust score of DD-Ranking (arXiv 2505.13300) of {scored}; ARS by "
            "the best trials on val with and without augmentation."
        )
    return notes
