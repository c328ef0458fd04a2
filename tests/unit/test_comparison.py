from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest

from vldistill.comparison.published import data_of, published
from vldistill.comparison.results import CellResult
from vldistill.comparison.rows import comparison_rows, published_row
from vldistill.comparison.table import comparison_csv, comparison_latex, comparison_markdown
from vldistill.errors import ConfigError

NAMES = ("mean_recall", "tr1", "tr5", "tr10", "ir1", "ir5", "ir10")


def result(row: str, mean: float, *, kind: str = "method", own: float | None = None, **more: Any) -> CellResult:
    """A cell as run_cell leaves it; recall i is the mean plus i."""

    def figures(value: float) -> dict[str, Any]:
        return {name: {"mean": value + index, "std": 0.5} for index, name in enumerate(NAMES)}

    evaluation = {
        "pairs": 6,
        "stored_floats": 4800,
        "seeds": 3,
        "own": None if own is None else figures(own),
        "generic": figures(mean),
        "chance": dict.fromkeys(NAMES, 1.25),
        "peak_memory_bytes": 2_000_000,
        "details": {},
    }
    base = {"row": row, "name": row, "kind": kind, "setting": "heads", "towers": "own", "protocol": "last", "seed": 0}
    return CellResult.from_json(base | {"evaluation": evaluation} | more)


def test_gain_and_share_are_of_the_same_budget_setting_towers_and_protocol() -> None:
    rows = comparison_rows(
        [
            result("bitraj", 20.0, own=15.0, making={"seconds": 12.0, "peak_memory_bytes": 5}),
            result("random:6", 5.0, kind="target"),
            result("random:8", 9.0, kind="target"),
            result("full", 40.0, kind="target"),
            result("bitraj", 20.0, setting="full"),
        ]
    )
    first, random, _, _, elsewhere = rows
    assert first.gain == 4.0 and first.share == 0.5 and first.own and first.own.mean == 15.0
    assert (first.seconds, first.peak_memory_bytes) == (12.0, 5)
    assert random.gain == 1.0 and random.seconds is None and random.peak_memory_bytes == 2_000_000
    assert elsewhere.gain is None and elsewhere.share is None  # no random or full row in that setting


def test_the_table_in_four_forms_says_the_same() -> None:
    rows = comparison_rows([result("image_only & co", 20.0, own=15.0), result("random:6", 5.0, kind="target")])
    text = comparison_markdown(rows, {"cell-1": "it broke"}, ["cell-2", "cell-3"])
    assert "2 not done yet: `cell-2`, `cell-3`." in text
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    header, _, first, _ = lines
    shown = dict(zip(header, first))
    assert shown["own"] == "15.0 ± 0.5" and shown["generic"] == "20.0 ± 0.5" and shown["TR@1"] == "21.0 ± 0.5"
    assert shown["gain over random"] == "x 4.00" and shown["share of full"] == "-"
    assert shown["setting"] == "heads" and shown["protocol"] == "last" and "seed" not in header
    assert "`cell-1`: it broke" in text and "over 3 students" in text and "chance 1.25" in text
    latex = comparison_latex(rows)
    assert r"image\_only \& co" in latex and r"20.0 $\pm$ 0.5" in latex and r"$\times$ 4.00" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {len(header)}
    read = list(csv.DictReader(io.StringIO(comparison_csv(rows))))
    assert read[0]["row"] == "image_only & co" and float(read[0]["ir10_mean"]) == 26.0 and float(read[0]["gain"]) == 4
    assert read[0]["share"] == "" and read[0]["own_std"] == "0.5"


def test_seeds_and_towers_are_columns_where_they_differ() -> None:
    rows = comparison_rows([result("bitraj", 20.0), result("bitraj", 21.0, seed=1, towers="small")])
    assert comparison_markdown(rows).startswith("| row    | towers | seed |")


def test_a_label_is_what_it_says_in_latex() -> None:
    latex = comparison_latex(comparison_rows([result(r"{a}\b^2 ~5% -> $x_1$", 20.0)]))
    assert r"\{a\}\textbackslash{}b\^{}2 \textasciitilde{}5\% $\to$ \$x\_1\$ &" in latex


# --- published rows -----------------------------------------------------------------------------------------------


def test_published_recalls_have_the_published_means() -> None:
    """Two tables of the sources check each other: six recalls, and the mean that reviews give of them."""
    means = {
        ("flickr30k", 100): 20.4,
        ("flickr30k", 200): 21.2,
        ("flickr30k", 500): 25.0,
        ("coco", 100): 7.4,
        ("coco", 200): 9.2,
        ("coco", 500): 12.6,
    }
    ours = {
        (entry.data, entry.pairs): entry.mean
        for entry in published()
        if entry.row == "bi-trajectory" and entry.towers == "NFNet-L0, BERT" and entry.data != "flickr8k"
    }
    assert ours.keys() == means.keys() | {("flickr30k", 1000), ("coco", 1000)}
    for key, mean in means.items():
        assert ours[key] == pytest.approx(mean, abs=0.051), key
    full = [e for e in published(["flickr30k"]) if e.row == "full data" and None not in e.recalls.values()]
    assert [entry.mean for entry in full] == [pytest.approx(54.7, abs=0.051)]


def test_every_published_row_has_a_source_and_a_setting_and_is_marked() -> None:
    rows = published()
    assert len(rows) > 80
    for entry in rows:
        assert entry.source and entry.setting in ("full", "heads", "lora", "both", "not stated"), entry
        reported = bool(entry.note) + (entry.mean_recall is not None) + any(entry.recalls.values())
        assert reported == 1 and entry.place in ("paper", "abstract", "page"), entry
        row = published_row(entry)
        assert row.published and row.protocol == "published" and row.generic is None
        assert "(published" in row.row and ("2nd-hand" in row.row) == entry.second_hand
        assert ("read in" in row.row) == (entry.place != "paper") and entry.note in row.source
        assert all(0 < figure.mean < 100 for figure in row.recalls.values() if figure)
        for side in ("tr", "ir"):
            known = [value for name, value in entry.recalls.items() if name.startswith(side) and value is not None]
            assert known == sorted(known), entry


def test_published_rows_are_chosen_by_data_and_budget_and_never_rank() -> None:
    rows = published(["flickr30k"], [100])
    assert {entry.data for entry in rows} == {"flickr30k"} and {entry.pairs for entry in rows} == {100, None}
    assert data_of("/data/Flickr30K/x.json") == ["flickr30k"] and len(data_of("scenes")) == 3
    with pytest.raises(ConfigError, match="Did you mean flickr8k"):
        published(["flickr8"])
    table = comparison_rows([result("bitraj", 20.0)]) + [published_row(entry) for entry in rows]
    text = comparison_markdown(table)
    assert "do not rank" in " ".join(text.split()) and "Sources: " in text and "arXiv 2308.07545" in text
    assert "published" not in comparison_markdown(comparison_rows([result("bitraj", 20.0)]))
    assert len(list(csv.reader(io.StringIO(comparison_csv(table))))) == len(table) + 1
    assert comparison_latex(table).count(r"\\") == len(table) + 1


def test_published_rows_say_their_data_their_towers_and_their_source() -> None:
    """Else rows of the full data on six kinds of towers and two data sets would look the same."""
    table = comparison_rows([result("bitraj", 20.0)]) + [published_row(entry) for entry in published(pairs=[100])]
    lines = [line for line in comparison_markdown(table).splitlines() if line.startswith("|")]
    assert lines[0].split("|")[2].strip() == "towers" and len(set(lines)) == len(lines)
    assert any("full data (published, coco)" in line for line in lines)
    assert any("(published, 2nd-hand, flickr30k)" in line and "NF-ResNet50, BERT" in line for line in lines)
    read = list(csv.DictReader(io.StringIO(comparison_csv(table))))
    assert read[0]["source"] == "" and all(row["source"] for row in read[1:])
