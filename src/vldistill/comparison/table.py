"""The table of a comparison: Markdown, LaTeX, CSV and plain rows. Recalls in percent, mean and sample deviation."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vldistill.evaluation.measures import RECALLS, TITLES, ratio
from vldistill.evaluation.tables import LEGACY, markdown, spread
from vldistill.storage.files import human_bytes

NONE = "-"
TEX = str.maketrans(
    {c: rf"\{c}" for c in "&%_#${}"} | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\textasciitilde{}"}
)


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return NONE
    return f"{figure['mean']:.1f}" if figure["std"] is None else spread(figure)


COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    *((key, key, str) for key in ("row", "towers", "seed", "setting", "protocol")),
    ("pairs", "pairs", "{:,}".format),
    ("stored floats", "stored_floats", "{:,}".format),
    ("own", "own", _figure),
    ("generic", "generic", _figure),
    *((title, name, _figure) for title, name in zip(TITLES[1:], RECALLS)),
    ("gain over random", "gain", "x {:.2f}".format),
    ("share of full", "share", "{:.0%}".format),
    ("seconds", "seconds", "{:.0f}".format),
    ("peak memory", "peak_memory_bytes", human_bytes),
)
"""Title, key of the row, and its value as text."""
BEFORE = ("row", "towers", "setting", "protocol", "pairs", "stored_floats", "seed", "students")
AFTER = ("recalls_by", "gain", "share", "seconds", "peak_memory_bytes")
ROW = (*BEFORE, "own", "generic", "recalls", *AFTER, "trials", "chosen", "details", "chance", "published")
"""The keys of a row, in their order; before and after its figures."""


def comparison_rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One plain row per finished cell.

    ``recalls`` are of the generic recipe where there is one, else of the own; ``recalls_by`` says which. ``gain`` is
    the generic mean recall over that of as many random pairs, ``share`` over that of the full data, both of the same
    setting, towers and protocol; None where there is no such row.
    """
    references: dict[tuple[Any, ...], float] = {}
    for result in results:
        generic = result["evaluation"].get("generic")
        if result["kind"] == "target" and generic:
            references[(*_ground(result), result["name"])] = generic["mean_recall"]["mean"]
    return [_row(result, references) for result in results]


def _ground(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two rows have to share to be compared."""
    return result["setting"], result["towers"], result["protocol"]


def _row(result: Mapping[str, Any], references: Mapping[tuple[Any, ...], float]) -> dict[str, Any]:
    judged, making = result["evaluation"], result.get("making", {})
    own, generic = judged.get("own"), judged.get("generic")
    shown = generic or own
    mean = generic["mean_recall"]["mean"] if generic else None
    random = references.get((*_ground(result), f"random:{judged['pairs']}"))
    full = references.get((*_ground(result), "full"))
    return {
        "row": result["row"],
        "towers": result["towers"],
        "setting": result["setting"],
        "protocol": result["protocol"],
        "pairs": judged["pairs"],
        "stored_floats": judged["stored_floats"],
        "seed": result["seed"] if result["kind"] == "method" else None,
        "students": judged["seeds"],
        "own": own and dict(own["mean_recall"]),
        "generic": generic and dict(generic["mean_recall"]),
        "recalls": {name: dict(shown[name]) for name in RECALLS},
        "recalls_by": "generic" if generic else "own",
        "gain": ratio(mean, random),
        "share": ratio(mean, full),
        "seconds": making.get("seconds"),
        "peak_memory_bytes": making.get("peak_memory_bytes") or judged.get("peak_memory_bytes"),
        "trials": len(result.get("trials", [])),
        "chosen": result.get("chosen"),
        "details": judged.get("details", {}),
        "chance": judged["chance"]["mean_recall"],
        "published": False,
    }


def published_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A published row as a row of the table. Its students are those of its source: never the generic recipe."""
    values = dict(zip(RECALLS, [*entry.get("tr", [None] * 3), *entry.get("ir", [None] * 3)]))
    mean = entry.get("mean_recall")
    if mean is None and all(value is not None for value in values.values()):
        mean = sum(values.values()) / 6
    note = "published, 2nd-hand" if entry.get("second_hand") else "published"
    return {
        **dict.fromkeys(ROW),
        "row": f"{entry['row']} ({note}, {entry['data']})",
        "towers": entry.get("towers", NONE),
        "setting": entry["setting"],
        "protocol": "published",
        "pairs": entry["pairs"],
        "own": None if mean is None else {"mean": mean, "std": None},
        "recalls": {name: {"mean": value, "std": None} for name, value in values.items()},
        "recalls_by": "own",
        "trials": 0,
        "details": {"source": entry["source"], "data": entry["data"]},
        "published": True,
    }


def comparison_markdown(
    rows: Sequence[Mapping[str, Any]], failures: Mapping[str, str] | None = None, missing: Sequence[str] = ()
) -> str:
    """The table with what its columns mean, the cells that are not done yet, and those that failed."""
    header, lines = _cells(rows)
    text = [markdown(header, lines), "", _legend(rows), ""]
    if missing:
        text += [f"{len(missing)} not done yet: {', '.join(f'`{name}`' for name in missing)}.", ""]
    if failures:
        text += [f"{len(failures)} failed:", "", *(f"- `{name}`: {why}" for name, why in failures.items()), ""]
    return "\n".join(text)


def comparison_latex(rows: Sequence[Mapping[str, Any]]) -> str:
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


def comparison_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table with every number in full, and standard deviations in columns of their own."""
    figures, after = ("own", "generic", *RECALLS), (*AFTER, "published")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    pairs = [f"{name}_{part}" for name in figures for part in ("mean", "std")]
    writer.writerow([*BEFORE, *pairs, *after, "source"])
    for row in rows:
        flat = {**row, **row["recalls"]}
        found = [flat[name] for name in figures]
        numbers = [None if figure is None else figure[part] for figure in found for part in ("mean", "std")]
        source = row["details"].get("source") if row["published"] else None
        writer.writerow([*(row[name] for name in BEFORE), *numbers, *(row[name] for name in after), source])
    return out.getvalue()


def _cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and texts; columns of towers and seeds only where they differ. Published rows have towers of their own."""
    alike = [key for key in ("towers", "seed") if len({row[key] for row in rows} - {None}) < 2]
    columns = [column for column in COLUMNS if column[1] not in alike]
    flat = [{**row, **row["recalls"]} for row in rows]
    lines = [[NONE if row[key] is None else show(row[key]) for _, key, show in columns] for row in flat]
    return [title for title, _, _ in columns], lines


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers mean: everything a reader needs who sees the table alone."""
    ours = [row for row in rows if not row["published"]]
    students = sorted({row["students"] for row in ours})
    by = sorted({row["recalls_by"] for row in ours}) or ["own"]
    chance = sorted({f"{row['chance']:.2f}" for row in ours})
    said = [
        "own, generic: mean of the six recalls by the set's recipe, and by the one recipe that is tuned on val for "
        f"every row; the six recalls are by the {' or '.join(by)} recipe where a row has it.",
        f"Test split, percent, mean ± standard deviation over {' or '.join(map(str, students)) or 'no'} students; "
        f"chance {' or '.join(chance) or NONE}.",
        "Gain over as many random pairs and share of the full data: generic recipe, same setting, towers and protocol.",
        "Seconds: distilling the set, without experts and trials; peak memory of that process, or of judging.",
    ]
    if any(row["trials"] for row in ours):
        said.append(f"Trials on val per method: {max(row['trials'] for row in ours)}; each is logged in the JSON.")
    if any(row["protocol"] == LEGACY for row in ours):
        said.append(f"{LEGACY} reports the best epoch on test: biased, only to compare with published rows.")
    if any(row["published"] for row in rows):
        said.append(
            "Published rows are their sources' numbers, by other protocols, students, settings and splits: they do not "
            "rank among the rows measured here."
        )
        sources = sorted({row["details"]["source"] for row in rows if row["published"]})
        said.append(f"Sources: {'; '.join(sources)}.")
    return "\n".join(said)


def _tex(text: str) -> str:
    if text.startswith("x ") and text[2:].replace(".", "").isdigit():
        return rf"$\times$ {text[2:]}"
    for plain, escaped in ((" ± ", r" $\pm$ "), ("->", r"$\to$")):
        if plain in text:
            return escaped.join(_tex(part) for part in text.split(plain))
    return text.translate(TEX)
