"""The table of a comparison: Markdown, LaTeX, CSV and plain rows. Recalls in percent, mean and sample deviation."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from vldistill.comparison.rows import Row
from vldistill.evaluation.measures import RECALLS, TITLES
from vldistill.evaluation.tables import LEGACY, markdown
from vldistill.storage.files import human_bytes

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
    _column("row", lambda row: row.row),
    _column("towers", lambda row: row.towers),
    _column("seed", lambda row: row.seed),
    _column("setting", lambda row: row.setting),
    _column("protocol", lambda row: row.protocol),
    _column("pairs", lambda row: row.pairs, "{:,}".format),
    _column("stored floats", lambda row: row.stored_floats, "{:,}".format),
    _column("own", lambda row: row.own),
    _column("generic", lambda row: row.generic),
    *(_column(title, lambda row, name=name: row.recalls[name]) for title, name in zip(TITLES[1:], RECALLS)),
    _column("gain over random", lambda row: row.gain, "x {:.2f}".format),
    _column("share of full", lambda row: row.share, "{:.0%}".format),
    _column("seconds", lambda row: row.seconds, "{:.0f}".format),
    _column("peak memory", lambda row: row.peak_memory_bytes, human_bytes),
)
BEFORE = ("row", "towers", "setting", "protocol", "pairs", "stored_floats", "seed", "students")
AFTER = ("recalls_by", "gain", "share", "seconds", "peak_memory_bytes", "published")
"""The columns of the CSV file before and after its figures."""


def comparison_markdown(
    rows: Sequence[Row], failures: Mapping[str, str] | None = None, missing: Sequence[str] = ()
) -> str:
    """The table with what its columns mean, missing cells, and failed ones."""
    header, lines = _cells(rows)
    text = [markdown(header, lines), "", _legend(rows), ""]
    if missing:
        text += [f"{len(missing)} not done yet: {', '.join(f'`{name}`' for name in missing)}.", ""]
    if failures:
        text += [f"{len(failures)} failed:", "", *(f"- `{name}`: {why}" for name, why in failures.items()), ""]
    return "\n".join(text)


def comparison_latex(rows: Sequence[Row]) -> str:
    """The table as a ``tabular`` (package booktabs), its meaning as comments."""
    header, lines = _cells(rows)
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


def comparison_csv(rows: Sequence[Row]) -> str:
    """The table with every number in full, and standard deviations in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    pairs = [f"{name}_{part}" for name in ("own", "generic", *RECALLS) for part in ("mean", "std")]
    writer.writerow([*BEFORE, *pairs, *AFTER, "source"])
    for row in rows:
        figures = [row.own, row.generic, *(row.recalls[name] for name in RECALLS)]
        numbers = [part for figure in figures for part in ((figure.mean, figure.std) if figure else (None, None))]
        plain = row.to_json()
        source = row.source if row.published else None
        writer.writerow([*(plain[name] for name in BEFORE), *numbers, *(plain[name] for name in AFTER), source])
    return out.getvalue()


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and texts; columns of towers and seeds only where they differ. Published rows have towers of their own."""
    towers, seeds = {row.towers for row in rows}, {row.seed for row in rows} - {None}
    alike = [name for name, values in (("towers", towers), ("seed", seeds)) if len(values) < 2]
    columns = [column for column in COLUMNS if column[0] not in alike]
    return [title for title, _ in columns], [[text(row) for _, text in columns] for row in rows]


def _legend(rows: Sequence[Row]) -> str:
    """What the numbers mean: everything a reader needs who sees the table alone."""
    ours = [row for row in rows if not row.published]
    students = sorted({row.students for row in ours if row.students is not None})
    by = sorted({row.recalls_by for row in ours}) or ["own"]
    chance = sorted({f"{row.chance:.2f}" for row in ours if row.chance is not None})
    notes = [
        "own, generic: mean of the six recalls by the set's recipe, and by the one recipe that is tuned on val for "
        f"every row; the six recalls are by the {' or '.join(by)} recipe where a row has it.",
        f"Test split, percent, mean ± standard deviation over {' or '.join(map(str, students)) or 'no'} students; "
        f"chance {' or '.join(chance) or NONE}.",
        "Gain over as many random pairs and share of the full data: generic recipe, same setting, towers and protocol.",
        "Seconds: distilling the set, without experts and trials; peak memory of that process, or of the evaluation.",
    ]
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


def _tex(text: str) -> str:
    if text.startswith("x ") and text[2:].replace(".", "").isdigit():
        return rf"$\times$ {text[2:]}"
    for plain, escaped in ((" ± ", r" $\pm$ "), ("->", r"$\to$")):
        if plain in text:
            return escaped.join(_tex(part) for part in text.split(plain))
    return text.translate(TEX)
