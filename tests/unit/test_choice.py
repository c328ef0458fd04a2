"""What the user leaves open: the method, and the outer loop that suits it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from vldistill.cli import main
from vldistill.config import SETTINGS, Config, DistillConfig, EncoderConfig, Outer, ResolvedDistillConfig, checks
from vldistill.distillation.method import METHODS
from vldistill.errors import ConfigError
from vldistill.options.parser import SECTIONS
from vldistill.options.resolve import resolve, resolve_distill
from vldistill.stages.distill_checks import check_setting

TINY = [
    *("--data.source", "scenes:train=40,val=20,test=20", "--encoder.text.name", "hashing"),
    *("--encoder.image.name", "convnet", "--encoder.image.weights", "random", "--encoder.image.size", "16"),
    *("--encoder.image.options", "{width: 8}", "--encoder.dim", "16"),
]


def own_values(config: ResolvedDistillConfig) -> dict[str, Any]:
    """What differs by method."""
    return {name: getattr(config, name) for name in asdict(Outer())}


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_every_setting_has_a_method_that_works_in_it(setting: str) -> None:
    config = resolve(Config(encoder=EncoderConfig(setting=setting)))
    name = config.distill.method
    assert name in config.why and setting in config.why
    check_setting(name, setting)
    assert own_values(config.distill) == asdict(METHODS.find(name).outer)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_named_method_brings_its_own_outer_loop_and_given_values_win(name: str) -> None:
    own = METHODS.find(name).outer
    given = DistillConfig(method=name, image_lr=0.123, ema=0.0, iterations=0)
    resolved = resolve_distill(given, "heads")
    assert own_values(resolved) == {**asdict(own), "image_lr": 0.123, "ema": 0.0, "iterations": 0}, "zeros are values"
    assert resolve_distill(resolved, "heads") is resolved
    assert resolve(Config(distill=given)).why == "", "nothing to tell where the user has chosen"


def test_the_page_of_the_methods_says_what_holds() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    told = {row[0].partition("`]")[0].strip("[`"): row[1:3] for row in rows if len(row) == 4}
    chosen = {row[0]: row[1:] for row in rows if len(row) == 3}
    outer = {row[0]: row[1:] for row in rows if len(row) == 9}
    for name, entry in METHODS.items():
        able = [setting for setting in SETTINGS if setting in entry.settings]
        assert told[name] == [", ".join(able), "yes" if entry.needs_experts else "no"], name
        assert outer.get(name, outer["all others"]) == [str(value) for value in asdict(entry.outer).values()], name
    listed = {
        known.setting
        + (f", from {known.pairs} pairs" if known.pairs > 1 else "")
        + (f" of {known.space}" if known.space else ""): [name, told[name][1]]
        for name, entry in METHODS.items()
        for known in entry.best_known
    }
    assert {name.replace("`", ""): row for name, row in chosen.items() if row[0] in METHODS} == listed


def test_the_choice_depends_on_the_budget() -> None:
    places = [known for entry in METHODS.values() for known in entry.best_known]
    assert len({(known.setting, known.pairs) for known in places}) == len(places), "one choice, whatever the order"
    for name, entry in METHODS.items():
        for known in entry.best_known:
            asked = DistillConfig(
                pairs=max(2, known.pairs), space="features" if known.space == "features" else "pixels"
            )
            config = resolve(Config(encoder=EncoderConfig(setting=known.setting), distill=asked))
            assert config.distill.method == name and known.why in config.why
            assert f"{asked.pairs} pairs" in config.why and ("of features" in config.why) == (known.space == "features")
    assert resolve(Config(distill=DistillConfig(pairs=499))).distill.method == "bilevel"
    assert resolve(Config(distill=DistillConfig(pairs=500))).distill.method == "bitraj"
    for pairs, name in ((20, "bilevel"), (100, "bitraj"), (500, "bitraj")):
        assert resolve(Config(distill=DistillConfig(pairs=pairs, space="features"))).distill.method == name


def test_values_left_open_are_never_taken_for_values() -> None:
    given: Any = resolve_distill(DistillConfig("bilevel"), "heads")
    for name in asdict(Outer()):
        with pytest.raises(ConfigError, match=f"distill.{name} is None"):
            replace(given, **{name: None})
    with pytest.raises(ConfigError, match=r"distill\.method is ''"):
        ResolvedDistillConfig()
    with pytest.raises(ConfigError, match="Did you mean"):
        resolve_distill(DistillConfig(method="bilevl"), "heads")


def test_options_of_a_method_that_is_not_taken_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["distill", "--run", str(tmp_path / "run"), *TINY, "--pairs", "6", "--dry_run"]
    assert main([*words, "--bitraj.syn_steps=4"]) == 2
    assert "--bitraj.syn_steps is an option of bitraj" in (said := capfd.readouterr().err) and "--method bitraj" in said
    assert main([*words, "--bilevel.steps", "4"]) == 0, "the one that is taken"
    assert main([*words, "--bitraj.syn_steps=4", "--method", "bitraj"]) == 0
    assert main([*words, "--bitraj.syn_steps=4", "--method", "bilevel"]) == 0, "a script may set them all"
    with_file = tmp_path / "of a file.yaml"
    with_file.write_text("data: {source: 'scenes:train=40,val=20,test=20'}\ndistill: {method: bilevel}\n")
    assert main([*words, "--config", str(with_file), "--bitraj.syn_steps=4"]) == 2
    assert "bitraj, but the method is bilevel. Add --method bitraj" in capfd.readouterr().err


def test_another_optimiser_needs_rates_of_its_own() -> None:
    """SGD with rates of Adam would hardly move anything, and nobody would see why."""
    with pytest.raises(ConfigError, match=r"optimiser is sgd, but bitraj's own rates are adam's.*distill\.text_lr"):
        resolve_distill(DistillConfig(method="bitraj", optimiser="sgd", image_lr=100), "heads")
    given = resolve_distill(DistillConfig(method="bitraj", optimiser="sgd", image_lr=100, text_lr=100), "heads")
    assert (given.optimiser, given.text_lr) == ("sgd", 100)
    with pytest.raises(ConfigError, match=r"lors's own rates are adam's\. Give distill\.similarity_lr too"):
        resolve_distill(DistillConfig(method="lors", optimiser="sgd", image_lr=100, text_lr=100), "heads")


def test_distil_without_a_method_says_which_and_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The choice and the values are written into the set; the run remembers what the user said, and no more."""
    words = ["--pairs", "6", "--iterations", "2", "--distill.validate_every", "0"]
    assert main(["distill", "--run", str(tmp_path), *TINY, *words]) == 0
    said = capfd.readouterr().err
    assert "bilevel is taken for setting heads" in said
    note = json.loads((tmp_path / "sets/bilevel-6-s0/set.json").read_text())["info"]["config"]["distill"]
    assert note["method"] == "bilevel" and note["text_lr"] == METHODS.find("bilevel").outer.text_lr
    remembered = (tmp_path / "config.yaml").read_text()
    assert "method: ''" in remembered and "text_lr: null" in remembered
    assert main(["distill", "--run", str(tmp_path), "--method", "prototypes", "--pairs", "6"]) == 0
    note = json.loads((tmp_path / "sets/prototypes-6-s0/set.json").read_text())["info"]["config"]["distill"]
    assert note["text_lr"] == METHODS.find("prototypes").outer.text_lr, "not what suited the other method"


def test_a_configuration_is_checked_at_the_door_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once as it is read and once with nothing left open, however many iterations follow."""
    counted: Counter[str] = Counter()
    check = checks.check_fields

    def counting(config: Any, section: str) -> None:
        counted[section] += 1
        check(config, section)

    for module in ("config", *(f"config.{section}" for section in SECTIONS)):
        monkeypatch.setattr(f"vldistill.{module}.check_fields", counting)
    words = ["--pairs", "6", "--iterations", "4", "--method", "bilevel", "--bilevel.steps", "3"]
    assert main(["distill", "--run", str(tmp_path), *TINY, *words]) == 0
    sections = {name: counted[name] for name in (*SECTIONS, "configuration", "bilevel")}
    assert set(sections.values()) <= {1, 2}, sections
