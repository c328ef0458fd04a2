"""Names that options had, options that are gone, and ids that neither may change."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from vldistill.cli import main
from vldistill.comparison.cells import Cell, expert_group
from vldistill.config import Config, DistillConfig, ExpertsConfig
from vldistill.config.former import GONE, RENAMED, as_before, current, later, without_neutral
from vldistill.config.plain import section
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.errors import ConfigError
from vldistill.options.merge import resolved


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``distill.pairs`` was called ``distill.size_of_set``, and ``experts.noise`` stood in section ``data``."""
    monkeypatch.setitem(RENAMED, "distill.size_of_set", "distill.pairs")
    monkeypatch.setitem(RENAMED, "data.noise", "experts.noise")


def cell(config: Config) -> Cell:
    return Cell("bitraj", "method", "bitraj", config.distill.pairs, "heads", "own", 0, (config,))


def test_files_are_read_under_todays_names_and_ids_keep_the_former_ones(renamed: None) -> None:
    old = {"distill": {"size_of_set": 7, "seed": 1}, "data": {"noise": 0.5}, "experts": {}, "label": "x"}
    new = current(old)
    assert new == {"distill": {"pairs": 7, "seed": 1}, "data": {}, "experts": {"noise": 0.5}, "label": "x"}
    assert as_before(new) == old
    config = resolved({"distill": {"size_of_set": 7}}, "a sweep")
    assert config.distill.pairs == 7


def test_a_rename_changes_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(distill=DistillConfig("bitraj", pairs=7), methods={"bitraj": BitrajOptions()})
    before = cell(config).id, expert_group(cell(config), config)
    config = replace(config, distill=replace(config.distill, pairs=8))
    assert cell(config).id != before[0]
    monkeypatch.setitem(RENAMED, "distill.size_of_set", "distill.pairs")
    first = cell(config).id
    monkeypatch.delitem(RENAMED, "distill.size_of_set")
    assert first != cell(config).id, "ids are made of the former names"


def test_an_option_that_is_gone_is_read_at_the_value_that_is_built_in_and_refused_at_another(tmp_path: Path) -> None:
    assert current({"select": {"warmup_batch": 128, "pairs": 5}}) == {"select": {"pairs": 5}}
    with pytest.raises(ConfigError, match=r"here: select.gallery is 64, but .* always 128. Leave it out"):
        current({"select": {"gallery": 64}}, "here")
    assert set(section(as_before({"select": {}}), "select")) == {name.partition(".")[2] for name in GONE}
    assert "select" not in as_before({"distill": {}})


def test_what_was_typed_names_its_successor(renamed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, what in (("--distill.size_of_set", "is called distill.pairs now"), ("--select.gallery", "always 128")):
        assert main(["distill", "--run", str(tmp_path), "--data", "scenes", option, "3"]) == 2
        assert what in capsys.readouterr().err


def test_ids_omit_a_later_option_at_its_neutral_value_and_not_at_its_default() -> None:
    @dataclass(frozen=True)
    class Options:
        strength: int = later(3, neutral=0)

    assert without_neutral(Options, asdict(Options())) == {"strength": 3}
    assert without_neutral(Options, {"strength": 0, "other": 1}) == {"other": 1}


def test_a_changed_default_changes_the_id_and_a_neutral_value_does_not() -> None:
    config = Config(distill=DistillConfig("bitraj"), methods={"bitraj": BitrajOptions()})
    plain = cell(config).id
    assert (
        cell(replace(config, methods={"bitraj": BitrajOptions(persistent_students=8, persistent_steps=0)})).id == plain
    )
    assert cell(replace(config, methods={"bitraj": BitrajOptions(persistent_students=4)})).id != plain, (
        "as another default would"
    )
    noisy = replace(config, experts=ExpertsConfig(noise=0.5))
    assert expert_group(cell(noisy), noisy) != expert_group(cell(config), config)
