"""What a report reads from run folders, and the tables and charts it makes of it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from vldistill.drawing.figures import PALETTE, curves, inline_svg
from vldistill.drawing.pictures import change_gain, change_pictures, change_sizes, data_uri, fitting_quality
from vldistill.errors import ConfigError
from vldistill.reporting.charts import budget_chart, training_charts
from vldistill.reporting.costs import cost_table, duration
from vldistill.reporting.overview import gain, headline, result_table, share_of_full, tower_matrix
from vldistill.reporting.records import read_run, read_runs


def result(name: str, mean: float, pairs: int = 20, **more: Any) -> dict[str, Any]:
    figures = {key: {"mean": mean, "std": 0.5} for key in ("mean_recall", "tr1", "tr5", "tr10", "ir1", "ir5", "ir10")}
    base = {"set": name, "setting": "heads", "protocol": "last", "pairs": pairs, "stored_floats": 71_682, "seeds": 3}
    base |= {"own": None, "generic": figures, "image_tower": "convnet", "text_tower": "hashing", "seconds": 75.0}
    return base | more


def run_of(folder: Path, *results: dict[str, Any]) -> Path:
    (folder / "results").mkdir(parents=True)
    for index, value in enumerate(results):
        (folder / "results" / f"{index}.json").write_text(json.dumps(value))
    return folder


def texts(table: Any) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_gains_compare_with_random_pairs_of_the_same_number_and_setting(tmp_path: Path):
    own = result("m-20-s0", 12.0) | {"own": result("", 9.0)["generic"]}
    run = read_run(
        run_of(tmp_path / "r", own, result("random:20", 3.0), result("random:50", 6.0, 50), result("full", 48.0, 900)),
        "r",
    )
    rows = {(row.set, row.recipe): row for row in run.rows}
    assert gain(rows["m-20-s0", "generic"], run.rows) == pytest.approx(4.0)
    assert gain(rows["m-20-s0", "own"], run.rows) == pytest.approx(3.0)
    assert share_of_full(rows["m-20-s0", "generic"], run.rows) == pytest.approx(0.25)
    assert gain(rows["full", "generic"], run.rows) is None
    table = result_table([run])
    assert table is not None
    assert [title for title, _, _ in table.columns][:5] == ["set", "recipe", "mean recall", "× random", "of full"]
    assert texts(table)[0][:7] == ["m-20-s0", "generic", "12.0", "4.0 ×", "25 %", "20", "71,682"]
    assert "setting heads".capitalize() in table.notes[0] and "protocol last" in table.notes[0]
    top = headline([run])
    assert top is not None and [value for value, _, _ in top.figures] == ["12.0 %", "4.0 ×", "25 %", "20"]


def test_real_pairs_of_a_selector_are_no_distilled_row(tmp_path: Path):
    folder = result("herding-20-s0", 31.0) | {"kind": "subset"}  # the same, as `vldistill select` writes it
    run = read_run(run_of(tmp_path / "r", result("herding:20", 30.0), folder, result("random:20", 3.0)), "r")
    assert sorted(row.kind for row in run.rows) == ["random", "subset", "subset"]
    assert headline([run]) is None, "only a distilled set leads"
    assert [gain(row, run.rows) for row in run.rows if row.set == "herding:20"] == [pytest.approx(10.0)]


def test_what_differs_is_a_column_and_never_a_ratio(tmp_path: Path):
    other = result("random:20", 1.0, setting="full")
    legacy = result("m-20-s0", 99.0, protocol="test-best-legacy")
    run = read_run(run_of(tmp_path / "r", result("m-20-s0", 12.0), legacy, other), "r")
    table = result_table([run])
    assert table is not None
    assert {"setting", "protocol"} <= {title for title, _, _ in table.columns}
    assert all(row[5] == "–" for row in texts(table)), "random pairs of another setting say nothing"
    assert any("biased" in note for note in table.notes)
    top = headline([run])
    assert top is not None and top.figures[0][0] == "12.0 %", "a biased figure never leads"


def test_cells_of_a_comparison_are_read(tmp_path: Path):
    for seed in (0, 1):
        cell = {"row": "bitraj (tuned)", "seed": seed, "pairs": 20, "evaluation": result("bitraj-20-s0", 10.0 + seed)}
        place = tmp_path / "c" / "cells" / f"bitraj-s{seed}"
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(cell | {"making": {"seconds": 30.0}}))
    (place / "failed.json").write_text("{}")
    run = read_run(tmp_path / "c", "c")
    assert [(row.label, row.kind, row.mean) for row in run.rows] == [
        ("bitraj (tuned)", "distilled", 10.0),
        ("bitraj (tuned)", "distilled", 11.0),
    ]
    cost = cost_table([run])
    assert cost is not None and ["distill", "bitraj (tuned)", "30 s", "–", "–"] in texts(cost)


def test_a_damaged_run_is_read_as_far_as_it_goes(tmp_path: Path):
    folder = run_of(tmp_path / "r", result("m-20-s0", 12.0))
    (folder / "results" / "half.json").write_text('{"set": "x", "gene')
    (folder / "results" / "list.json").write_text('[1, null, {"set": 3}, {"generic": {"mean_recall": "high"}}]')
    (folder / "config.yaml").write_text("a: [1, 2")
    (folder / "metrics.jsonl").write_text('{"stage": "distill", "set": "s"}\n[1]\n{"stage": ')
    (folder / "sets" / "begun").mkdir(parents=True)
    (folder / "sets" / "begun" / "metrics.jsonl").write_text('{"iteration": 1, "value": null}\n')
    run = read_run(folder, "r")
    assert len(run.rows) == 1 and len(run.events) == 1 and not run.sets[0].finished
    assert any("half.json" in note for note in run.notes) and any("config.yaml" in note for note in run.notes)
    assert budget_chart([run]) is None and training_charts([run]) == []


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="not a folder"):
        read_runs([tmp_path / "none"])
    with pytest.raises(ConfigError, match="not a run"):
        read_runs([tmp_path])
    folder = run_of(tmp_path / "r", result("full", 1.0))
    with pytest.raises(ConfigError, match="given twice"):
        read_runs([folder, tmp_path / "x" / ".." / "r"])


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    folders = [run_of(tmp_path / place / "demo", result("full", 1.0)) for place in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/demo", "b/demo"]


def test_towers_against_towers(tmp_path: Path):
    here = run_of(tmp_path / "here", result("m-20-s0", 12.0))
    made = {"made_with_image_tower": "convnet"}
    there = run_of(tmp_path / "there", result("m-20-s0", 7.0, image_tower="resnet18", details=made))
    assert tower_matrix(read_runs([here])) is None
    table = tower_matrix(read_runs([here, there]))
    assert table is not None
    assert [title for title, _, _ in table.columns] == ["set", "made with", "recipe", "convnet", "resnet18"]
    assert texts(table) == [["m-20-s0", "convnet", "generic", "12.0", "7.0"]]


def cell_of(folder: Path, number: int, result: dict[str, Any], **more: Any) -> None:
    """A cell of a comparison."""
    place = folder / "cells" / f"cell-{number}"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps({"cell": place.name, **more, "evaluation": result}))


def test_towers_of_a_comparison_are_told_apart_though_their_networks_have_one_name(tmp_path: Path):
    means = {"own": (12.0, 3.0), "small": (10.0, 5.0)}
    for number, (towers, (made, drawn)) in enumerate(means.items()):
        cell_of(tmp_path / "c", 2 * number, result("m-20-s0", made), row="m", towers=towers)
        cell_of(tmp_path / "c", 2 * number + 1, result("random:20", drawn), row="random:20", towers=towers)
    run = read_run(tmp_path / "c", "c")
    table = result_table([run])
    assert table is not None and "towers" in [title for title, _, _ in table.columns]
    assert sorted(row[4] for row in texts(table)) == ["2.0 ×", "4.0 ×", "–", "–"], "each over those of its own towers"
    matrix = tower_matrix([run])
    assert matrix is not None
    assert [title for title, _, _ in matrix.columns][3:] == ["convnet, own", "convnet, small"]
    assert texts(matrix)[0][3:] == ["12.0", "10.0"]


def test_a_matrix_of_towers_is_read_whole_and_its_own_column_once(tmp_path: Path):
    folder = run_of(tmp_path / "r", result("m-20-s0", 12.0))
    for towers, mean in (("own", 12.0), ("wider", 9.0)):
        (folder / "cross" / towers).mkdir(parents=True)
        (folder / "cross" / towers / "m.json").write_text(json.dumps(result("m-20-s0", mean, towers=towers)))
    assert sorted(row.mean for row in read_run(folder, "r").rows) == [9.0, 12.0]


def test_lines_against_pairs_never_join_different_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from vldistill.reporting import charts

    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        charts, "curves", lambda lines, **more: drawn.update(lines=lines, **more) or curves(lines, **more)
    )
    rows = [("m", 0, "own"), ("m", 1, "own"), ("m", 0, "small"), ("only images", 0, "own")]
    number = 0
    for pairs in (20, 50):
        for mean, (row, seed, towers) in enumerate(rows):
            made = result(f"m-{pairs}-s{seed}", mean + pairs, pairs, details={"method": "m"})
            cell_of(tmp_path / "c", number, made, row=row, seed=seed, towers=towers)
            number += 1
        for towers in ("own", "small"):
            target = result(f"random:{pairs}", 1.0, pairs)
            cell_of(tmp_path / "c", number, target, row=f"random:{pairs}", seed=0, towers=towers)
            number += 1
    for towers, mean in (("own", 70.0), ("small", 60.0)):
        cell_of(tmp_path / "c", number, result("full", mean, 900), row="full", seed=0, towers=towers)
        number += 1
    assert budget_chart([read_run(tmp_path / "c", "c")]) is not None
    assert {name: [y for _, y in points] for name, points in drawn["lines"].items()} == {
        "m, generic, towers own, seed 0": [20.0, 50.0],
        "m, generic, towers own, seed 1": [21.0, 51.0],
        "m, generic, towers small, seed 0": [22.0, 52.0],
        "only images, generic, towers own, seed 0": [23.0, 53.0],
        "random pairs, towers own": [1.0, 1.0],
        "random pairs, towers small": [1.0, 1.0],
    }
    assert drawn["levels"] == {"full, towers own": 70.0, "full, towers small": 60.0}
    sets = [result(f"m-{pairs}-s0{label}", 9.0, pairs) for pairs in (20, 50) for label in ("", "-noise")]
    assert budget_chart([read_run(run_of(tmp_path / "r", *sets), "r")]) is not None
    assert sorted(drawn["lines"]) == ["m-s0, generic", "m-s0-noise, generic"]


def test_the_row_at_the_top_is_chosen_on_val_or_said_not_to_be(tmp_path: Path):
    def chosen(name: str, mean: float, val: float | None) -> dict[str, Any]:
        return result(name, mean, details={"selection": {"val_mean_recall": val}})

    one = headline([read_run(run_of(tmp_path / "one", chosen("a-20-s0", 9.0, None)), "r")])
    assert one is not None and one.why == "the only distilled row"
    lucky = run_of(tmp_path / "val", chosen("a-20-s0", 12.0, 5.0), chosen("b-20-s0", 11.0, 6.0))
    best = headline([read_run(lucky, "r")])
    assert best is not None and best.of.startswith("b-20-s0") and best.figures[0][0] == "11.0 %"
    assert best.why == "of 2 distilled rows the best on val"
    mixed = run_of(tmp_path / "test", chosen("a-20-s0", 12.0, None), chosen("b-20-s0", 11.0, 6.0))
    highest = headline([read_run(mixed, "r")])
    assert highest is not None and highest.of.startswith("a-20-s0")
    assert highest.why == "the highest of 2 rows on test, not chosen on val"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_charts_of_a_run_are_drawn_with_unique_ids(tmp_path: Path):
    folder = run_of(tmp_path / "r", result("m-20-s0", 12.0), result("m-50-s0", 15.0, 50), result("full", 40.0, 900))
    place = folder / "sets" / "m-20-s0"
    place.mkdir(parents=True)
    lines = [{"iteration": i, "value": 1 / (i + 1), "rate_image": 0.1, "rate_text": 0.2} for i in range(1000)]
    lines += [{"iteration": i, "val_mean_recall": float(i), "seconds": 60.0 * i} for i in range(3)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(folder, "r")
    budget = budget_chart([run])
    charts = training_charts([run])
    assert budget is not None
    assert [chart.title for chart in charts] == [
        "Recall against time", "Recall against iterations", "Loss of the method", "Learned student rates",
    ]  # fmt: skip
    roots = [ElementTree.fromstring(chart.svg) for chart in (budget, *charts)]
    ids = [element.get("id") for root in roots for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert max(len(chart.svg) for chart in charts) < 60_000, "a thousand steps are thinned"


def test_drawings_follow_the_theme_and_keep_their_text():
    name = "<b>&\"'#0072B2</b>"
    svg = inline_svg(curves({name: [(0, 1.0), (1, 2.0)], "b": [(0, 2.0)]}, xlabel="x", ylabel="y"), "one", name)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") == name
    assert name in "".join(root.itertext())
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert "var(--c0)" in styles and "var(--ink)" in styles and PALETTE[0].lower() not in styles.lower()
    references = [value for element in root.iter() for key, value in element.items() if key.endswith("href")]
    assert references and all(reference.startswith("#one-") for reference in references)


def test_the_change_is_around_grey_and_its_gain_fills_the_range():
    before = np.full((2, 3, 8, 8), 100, np.uint8)
    after = before.copy()
    after[0, 0] += 10
    after[1, :, :4] -= 20
    factor = change_gain(change_sizes(before, after))
    assert factor == pytest.approx(42 / ((100 / 3 + 400 / 2) / 2) ** 0.5)
    change = change_pictures(before, after, factor)
    assert change[0, 0, 0, 0] == round(128 + 10 * factor) and change[1, 0, 7, 0] == 128
    assert change[1, 0, 0, 0] == round(128 - 20 * factor)
    assert change_pictures(before, after, 64.0)[1, 0, 0, 0] == 0, "clipped, not wrapped"
    assert change_sizes(before, after) == pytest.approx([10 / 3**0.5, 20 / 2**0.5])
    assert change_gain(change_sizes(before, before)) == 1.0


def test_changes_of_many_pictures_take_little_memory():
    before = np.zeros((64, 3, 64, 64), np.uint8)
    after = before + np.uint8(9)
    tracemalloc.start()
    sizes = change_sizes(before, after)
    change_pictures(before, after, change_gain(sizes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == pytest.approx([9] * 64) and peak < 2 * before.nbytes


@pytest.mark.parametrize("side", [16, 64, 128])
def test_pictures_fit_their_budget(side: int):
    import base64
    import io

    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (6, 3, side, side), dtype=np.uint8)
    for budget in (10_000_000, 300 * 4000):
        share, quality = fitting_quality(noise, 300, budget)
        uris = [data_uri(picture, share, quality) for picture in noise]
        assert side <= 64 or sum(map(len, uris)) / len(uris) * 300 <= budget
    raw = base64.b64decode(data_uri(noise[0]).partition(",")[2])
    with Image.open(io.BytesIO(raw)) as image:
        assert image.size == (side, side)
        exact = np.array_equal(np.asarray(image), noise[0].transpose(1, 2, 0))
        assert exact == (side <= 64), "small pictures are embedded without loss"
