from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vldistill.cli import main
from vldistill.comparison import matrix as cross
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.runtime.interrupts import stop_at_once
from vldistill.storage.files import read_json, write_record

TOWERS = """\
wider: {image: {name: convnet, weights: random, size: 20, options: {width: 12}}}
other words: {text: {name: hashing, width: 48}}
"""


@pytest.fixture
def towers(tmp_path: Path) -> Path:
    path = tmp_path / "towers.yaml"
    path.write_text(TOWERS)
    return path


@pytest.fixture(scope="module")
def distilled(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a distilled set; copied for every test."""
    run = Path(shutil.copytree(made, tmp_path_factory.mktemp("distilled") / "run"))
    assert main(["distill", "--run", str(run), "--quiet"]) == 0
    return run


@pytest.fixture(scope="module")
def crossed(distilled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a finished matrix on its own and wider towers; copied for every test."""
    folder = tmp_path_factory.mktemp("crossed")
    run = Path(shutil.copytree(distilled, folder / "run"))
    (folder / "towers.yaml").write_text(TOWERS.splitlines()[0])
    asked = ["--run", run, "--set", run / "sets" / "bitraj-6-s0", "--towers", folder / "towers.yaml", "--also"]
    assert main(["cross", *map(str, asked)]) == 0
    return run


@pytest.fixture
def made_set(run: Path, distilled: Path) -> Path:
    """A distilled set of the run."""
    shutil.copytree(distilled, run, dirs_exist_ok=True)
    return run / "sets" / "bitraj-6-s0"


@pytest.fixture
def asked_before(run: Path, crossed: Path, towers: Path) -> list[object]:
    """The words of a matrix that the run holds already."""
    shutil.copytree(crossed, run, dirs_exist_ok=True)
    towers.write_text(TOWERS.splitlines()[0])
    return ["cross", "--run", run, "--set", run / "sets" / "bitraj-6-s0", "--towers", towers, "--also"]


def test_a_set_on_other_towers_is_one_matrix_and_is_not_judged_twice(
    vldistill: Any, run: Path, made_set: Path, towers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["cross", "--run", run, "--set", made_set, "--towers", towers]
    done = vldistill(*asked)
    assert done.code == 0, done.err
    header, _, distilled, random, full = [line for line in done.out.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["set", "own", "wider", "other words"]
    assert distilled.startswith("| bitraj-6-s0") and random.startswith("| random:6") and full.startswith("| full")
    assert "ridge map from hashing" in done.out and "- wider: convnet and hashing" in done.out
    stored = json.loads((run / "cross" / "bitraj-6-s0-on-towers.json").read_text())["results"]
    assert len(stored) == 9
    assert stored["bitraj-6-s0 on wider"]["details"]["made_with_image_tower"] == "convnet"
    assert "text_map" in stored["bitraj-6-s0 on other words"]["details"]
    assert "text_map" not in stored["random:6 on other words"]["details"]
    alone = vldistill("evaluate", "--run", run, "--set", made_set, "--json")  # the own column is what evaluate says
    own = json.loads(alone.out)["generic"]["mean_recall"]
    assert stored["bitraj-6-s0 on own"]["generic"]["mean_recall"] == own
    with (run / "cross" / "bitraj-6-s0-on-towers.csv").open() as handle:
        lines = list(csv.DictReader(handle))
    assert {line["towers"] for line in lines} == {"own", "wider", "other words"} and len(lines) == 7 * (9 + 3)

    monkeypatch.setattr(cross, "evaluate_set", lambda *given: pytest.fail("judged again"))
    assert vldistill(*asked).out == done.out


def test_a_dry_run_shows_towers_disk_and_time_and_writes_nothing(
    vldistill: Any, run: Path, made_set: Path, towers: Path
) -> None:
    asked = ["cross", "--run", run, "--towers", towers]
    done = vldistill(*asked, "--set", made_set, "--dry_run")
    assert done.code == 0, done.err
    assert "3 rows on 3 kinds of towers" in done.out and re.search(r"other words: 0 of 3 done, about \d+ s", done.out)
    assert done.out.count("train: 40 images") == 1  # of the data once, not of each towers
    assert "of disk" in done.out and "expected time: about" in done.out and not (run / "cross").exists()
    early = vldistill(*asked, "--set", run / "sets" / "bitraj-7-s0", "--dry_run")  # the set is not made yet
    assert early.code == 2 and "bitraj-7-s0" in early.err
    assert re.search(r"wider: 0 of 3 done, about \d+ s", early.out)
    assert vldistill(*asked, "--set", made_set, "--also", "random", "--quiet").code == 0
    assert re.search(r"wider: 2 of 3 done, about \d+ s", vldistill(*asked, "--set", made_set, "--dry_run").out)


def test_a_tower_that_fails_is_noted_and_the_rest_goes_on(
    vldistill: Any, run: Path, made_set: Path, towers: Path
) -> None:
    towers.write_text("broken: {image: {name: convnet, weights: /no/file.safetensors}}\n" + TOWERS.splitlines()[0])
    done = vldistill("cross", "--run", run, "--set", made_set, "--towers", towers, "--also")
    assert done.code == 4
    assert "| bitraj-6-s0 |" in done.out and "failed" in done.out and "/no/file.safetensors" in done.out
    again = vldistill("cross", "--run", run, "--set", made_set, "--towers", towers, "--also", "random")
    said = [line for line in again.out.splitlines() if "/no/file" in line]
    assert len(said) == 1 and said[0].startswith("- failed: bitraj-6-s0, random:6 on broken: ")
    assert again.err.count("/no/file") == 1
    vldistill("cross", "--run", run, "--set", made_set, "--towers", towers, "--also", "--quiet")
    stored = json.loads((run / "cross" / "bitraj-6-s0-on-towers.json").read_text())
    assert sorted(stored["results"]) == ["bitraj-6-s0 on own", "bitraj-6-s0 on wider"] and len(stored["failed"]) == 1


def test_stopping_keeps_finished_cells(
    vldistill: Any, run: Path, made_set: Path, towers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = cross.evaluate_set, []

    def second_stops(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            stop_at_once(2, None)
        return real(*given)

    monkeypatch.setattr(cross, "evaluate_set", second_stops)
    asked = ["cross", "--run", run, "--set", made_set, "--towers", towers, "--also", "random"]
    done = vldistill(*asked)
    assert done.code == 3 and "Run the same command to resume" in done.err
    calls.clear()
    left = next((run / "cross").rglob("*.json")).with_suffix(".unfinished")  # a kill before it was removed
    left.mkdir(exist_ok=True)
    monkeypatch.setattr(cross, "evaluate_set", lambda *given: calls.append(given) or real(*given))
    assert vldistill(*asked).code == 0 and len(calls) == 5
    assert not list((run / "cross").rglob("*.unfinished"))


def test_a_cell_of_other_data_is_judged_again(
    vldistill: Any, run: Path, asked_before: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = next((run / "cross" / "wider").glob("*.json"))
    write_record(cell, read_json(cell, "cell") | {"data": {"train": "other", "test": "other"}})
    real, calls = cross.evaluate_set, []
    monkeypatch.setattr(cross, "evaluate_set", lambda *given: calls.append(given) or real(*given))
    assert vldistill(*asked_before).code == 0 and len(calls) == 1
    assert read_json(cell, "cell")["data"]["train"] == read_json(run / "data.json", "note")["train"]["fingerprint"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_numbers_of_data_that_were_there_before_are_not_shown_again(
    vldistill: Any, run: Path, asked_before: list[object], split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell in (run / "cross").glob("*/*.json"):  # as if the data had changed since
        kept = read_json(cell, "cell")
        write_record(cell, kept | {"data": {**kept["data"], split: "0" * 16}})
    (run / "data.json").unlink()  # as the message about changed data says
    real, calls = cross.evaluate_set, []
    monkeypatch.setattr(cross, "evaluate_set", lambda *given: calls.append(given) or real(*given))
    assert vldistill(*asked_before).code == 0 and len(calls) == 2
    found = [read_json(cell, "cell")["data"] for cell in (run / "cross").glob("*/*.json")]
    assert all(data == found[0] and set(data) == {"train", "val", "test"} for data in found)
    assert vldistill(*asked_before).code == 0 and len(calls) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "expected encoder sections by name"),
        ("own: {}", "'own' is the run's own towers"),
        ("x: {image: {nam: convnet}}", "nam"),
        ("x: {setting: hed}", "unknown setting 'hed'"),
        ("../x: {}", "'../x' cannot name towers"),
    ],
)
def test_a_wrong_list_of_towers_is_refused(
    vldistill: Any, run: Path, made_set: Path, towers: Path, text: str, said: str
) -> None:
    towers.write_text(text)
    done = vldistill("cross", "--run", run, "--set", made_set, "--towers", towers)
    assert done.code == 2 and said in done.err and not (run / "cross").exists()


def test_a_set_of_another_recipe_is_judged_again(vldistill: Any, run: Path, made_set: Path, towers: Path) -> None:
    """The same pairs: students learn by the recipe, which is part of what a cell depends on."""
    towers.write_text("{}")
    asked = ["cross", "--run", run, "--set", made_set, "--towers", towers, "--evaluate.recipes", "own"]
    found = []
    for decay in (5e-4, 5.0):
        distilled = DistilledSet.load(made_set)
        recipe = replace(distilled.recipe, weight_decay=decay)
        shutil.rmtree(made_set)
        replace(distilled, recipe=recipe).save(made_set)
        assert vldistill(*asked).code == 0
        found.append(json.loads((run / "cross" / "bitraj-6-s0-on-towers.json").read_text())["results"])
    figures = [result["bitraj-6-s0 on own"]["own"]["mean_recall"]["mean"] for result in found]
    assert figures[0] != figures[1] and all(len(result) == 1 for result in found)


def test_real_pairs_have_no_recipe_of_their_own(vldistill: Any, run: Path, made_set: Path, towers: Path) -> None:
    asked = ["cross", "--run", run, "--set", "bitraj-6-s0", "--towers", towers, "--evaluate.recipes", "own"]
    refused = vldistill(*asked, "--also", "random")
    assert refused.code == 2 and "--also random: real pairs have no recipe of their own" in refused.err
    assert made_set.is_dir() and vldistill(*asked, "--dry_run").code == 0  # a set of the run may be named


def test_rows_that_the_data_cannot_give_are_refused_before_anything_is_judged(
    vldistill: Any, run: Path, made_set: Path, towers: Path
) -> None:
    done = vldistill("cross", "--run", run, "--set", made_set, "--towers", towers, "--also", "random:60")
    assert done.code == 2 and "60 pairs were requested" in done.err
    assert not list((run / "cross").rglob("*.json"))
