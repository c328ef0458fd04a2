"""Coresets from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError


def test_a_coreset_is_chosen_kept_shown_and_judged(vldistill: Any, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = vldistill("select", "--config", config, "--run", run, "--method", "kcenter", "--pairs", "6")
    assert done.code == 0, done.err
    folder = run / "sets" / "kcenter-6-s0"
    assert done.out.strip() == str(folder)
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "data", "pairs.json", "preview.png", "set.json", "set.safetensors",
    }  # fmt: skip
    names = [pair["image"] for pair in json.loads((folder / "pairs.json").read_text())["pairs"]]
    assert len(set(names)) == len(DistilledSet.load(folder)) == 6
    before = (folder / "set.safetensors").stat().st_mtime_ns
    again = vldistill("select", "--run", run, "--method", "kcenter", "--pairs", "6")
    assert again.code == 0 and "nothing to do" in again.err
    assert (folder / "set.safetensors").stat().st_mtime_ns == before
    other = vldistill("select", "--run", run, "--method", "kcenter", "--pairs", "6", "--select.warmup_epochs", "2")
    assert other.code == 2 and "select.warmup_epochs: 5 there, 2 requested" in other.err
    assert "Use another --seed, --label or --run" in other.err
    shown = json.loads(vldistill("inspect", folder, "--json").out)
    assert shown["kind"] == "coreset"
    results = [
        json.loads(vldistill("evaluate", "--run", run, "--set", target, "--json").out)
        for target in ("kcenter:6", folder)
    ]
    assert [row["set"] for row in results] == ["kcenter:6", "kcenter-6-s0"]
    assert all(row["own"] is None and row["stored_floats"] == 6 * (3 * 16 * 16 + 32) for row in results)
    assert (run / "results" / "kcenter-6.json").is_file() and (run / "results" / "kcenter-6-s0.json").is_file()


def test_a_label_keeps_variants_side_by_side(vldistill: Any, config: Path, tmp_path: Path) -> None:
    asked = ["select", "--run", tmp_path, "--method", "herding", "--pairs", "6"]
    assert vldistill(*asked, "--config", config, "--select.warmup_epochs", "1").code == 0
    for warmup, label, code in (("2", "long.1", 0), ("2", "long.1", 0), ("3", "long.1", 2), ("3", "a/b", 2)):
        done = vldistill(*asked, "--select.warmup_epochs", warmup, "--label", label)
        assert done.code == code, done.err
    assert "--label is 'a/b'; expected letters" in done.err
    names = {path.name for path in (tmp_path / "sets").iterdir()}
    assert names == {"herding-6-s0", "herding-6-s0-long.1"}
    made = DistilledSet.load(tmp_path / "sets" / "herding-6-s0-long.1")
    assert made.name == "herding-6-s0-long.1" and made.info["config"]["select"]["warmup_epochs"] == 2
    judged = vldistill("evaluate", "--run", tmp_path, "--set", made.name, "--json")
    assert json.loads(judged.out)["set"] == made.name
    assert (tmp_path / "results" / f"{made.name}.json").is_file()


def test_a_choice_that_fails_leaves_nothing(vldistill: Any, config: Path, karpathy: Any, tmp_path: Path) -> None:
    karpathy.entries[:] = [karpathy.entry(i, "train" if i < 9 else "val") for i in range(10)]
    karpathy.save()
    karpathy.add_photos()
    for name in ("3.jpg", "5.jpg"):
        (karpathy.folder / name).write_bytes((karpathy.folder / name).read_bytes()[:50])
    asked = ["select", "--config", config, "--data.source", karpathy.folder, "--run", tmp_path / "run"]
    done = vldistill(*asked, "--method", "random", "--pairs", "8")
    assert done.code == 2 and "of the 9 images of the train split 7 can be read" in done.err
    assert "Ask for 7 or fewer" in done.err and not (tmp_path / "run").exists()
    assert vldistill(*asked, "--method", "random", "--pairs", "7").code == 0


def test_a_selector_that_breaks_leaves_no_folder(
    vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ConfigError("the choice failed")

    monkeypatch.setattr("vldistill.selection.coreset.choose_pairs", broken)
    done = vldistill("select", "--config", config, "--run", tmp_path, "--method", "random", "--pairs", "6")
    assert done.code == 2 and "the choice failed" in done.err
    assert not list((tmp_path / "sets").iterdir())


def test_a_distillation_starts_from_a_selector(vldistill: Any, run: Path) -> None:
    assert vldistill("distill", "--run", run, "--start", "similarity").code == 0
    assert vldistill("select", "--run", run, "--method", "similarity", "--pairs", "6").code == 0
    made, chosen = (DistilledSet.load(run / "sets" / name) for name in ("bitraj-6-s0", "similarity-6-s0"))
    assert [pair["start"] for pair in made.captions] == [pair["start"] for pair in chosen.captions]
    other = vldistill("distill", "--run", run, "--start", "similarity", "--select.warmup_epochs", "2")
    assert other.code == 2 and "{'warmup_epochs': 2} requested" in other.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "--set", "hording:6"], "unknown selector 'hording'. Did you mean herding"),
        (["evaluate", "--set", "kcenter:41"], "has 40 images"),
        (["select", "--method", "k_center"], "unknown selector 'k_center'. Did you mean kcenter"),
        (["select", "--pairs", "41"], "has 40 images"),
        (["select", "--pairs", "1"], "select.pairs is 1; expected at least 2 pairs"),
        (["select", "--method", "facility", "--pairs", "9", "--select.ground_set", "8"], "select.ground_set is 8"),
        (["distill", "--start", "kmean"], "unknown distill.start 'kmean'. Did you mean kmeans"),
    ],
)
def test_wrong_use_is_refused(vldistill: Any, config: Path, tmp_path: Path, words: list[str], said: str) -> None:
    done = vldistill(*words, "--config", config, "--run", tmp_path / "new")
    assert done.code == 2 and said in done.err
    assert not (tmp_path / "new").exists()


def test_a_look_at_val_trains_by_the_own_recipe_which_a_coreset_lacks(
    vldistill: Any, config: Path, tmp_path: Path
) -> None:
    asked = ["--method", "random", "--pairs", "6", "--encoder.setting", "full"]
    assert vldistill("select", "--config", config, "--run", tmp_path, *asked).code == 0
    done = vldistill("evaluate", "--run", tmp_path, "--set", tmp_path / "sets" / "random-6-s0", "--val_only")
    assert done.code == 2 and "Leave out --val_only" in done.err


def test_selectors_are_listed(vldistill: Any) -> None:
    listed = vldistill("ls", "selectors").out
    assert "herding" in listed and "select.ground_set" not in listed
    one = vldistill("ls", "selectors", "herding").out
    assert "select.warmup_epochs" in one and "The same pairs for every seed" in one
    assert vldistill("ls", "selectors", "k*").out.count("\n") == 2
