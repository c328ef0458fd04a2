from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from vldistill.config import Config, DataConfig, DistillConfig, EncoderConfig, ExpertsConfig, LoraConfig
from vldistill.data.pairs import Pairs
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.errors import ArtefactError, ConfigError
from vldistill.storage.files import read_json, write_record
from vldistill.workbench import run_folder as runs
from vldistill.workbench.run_folder import Run, command, commit, differences, environment, to_plain, with_defaults

CONFIG = Config(data=DataConfig(source="scenes:train=40"), methods={"bitraj": BitrajOptions(syn_steps=3)})


def test_the_first_stage_writes_the_configuration_and_the_environment(tmp_path: Path) -> None:
    run = Run(tmp_path / "a" / "run")
    run.begin(CONFIG)
    kept = yaml.safe_load(run.config_path.read_text())
    assert kept == to_plain(CONFIG)
    assert kept["data"]["source"] == "scenes:train=40" and kept["bitraj"]["syn_steps"] == 3 and "methods" not in kept
    note = json.loads((run.folder / "env.json").read_text())
    assert {"command", "commit", "python", "platform", "threads", "versions"} == note.keys()
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.yaml", "data.json", "env.json"]


def test_nothing_slow_is_done_while_others_wait_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    lock = tmp_path / "run" / ".begin.lock"
    monkeypatch.setattr(runs, "environment", lambda: seen.append(lock.exists()) or {})
    monkeypatch.setattr(runs, "write_json", lambda path, value: seen.append(lock.exists()))
    Run(tmp_path / "run").begin(CONFIG)
    assert seen == [False, False]


def test_the_same_configuration_is_welcome_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(CONFIG)
    before = run.config_path.stat().st_mtime_ns
    run.begin(CONFIG)
    assert run.config_path.stat().st_mtime_ns == before


def test_another_configuration_is_refused_and_the_difference_shown(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(CONFIG)
    other = replace(
        CONFIG,
        data=DataConfig(source="scenes:train=50"),
        encoder=EncoderConfig(dim=64),
        experts=ExpertsConfig(snapshots=(0, 2)),
    )
    with pytest.raises(ConfigError) as caught:
        run.begin(other)
    message = str(caught.value)
    assert "data.source: 'scenes:train=40' in the run, 'scenes:train=50' requested" in message
    assert "encoder.dim: 512 in the run, 64 requested" in message
    assert "experts.snapshots: [] in the run, [0, 2] requested" in message
    assert "another --run folder" in message and str(run.config_path) in message
    assert yaml.safe_load(run.config_path.read_text()) == to_plain(CONFIG)


def test_what_does_not_change_the_meaning_may_differ(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(CONFIG)
    run.begin(
        replace(
            CONFIG,
            data=replace(CONFIG.data, strict=True, cache="elsewhere"),
            experts=ExpertsConfig(count=50),
            distill=DistillConfig(method="bitraj", pairs=7),
            methods={"bitraj": BitrajOptions(syn_steps=9)},
        )
    )


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "a: [1", "a: \x00"])
def test_a_configuration_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.config_path.write_text(text)
    with pytest.raises(ArtefactError, match=r"config\.yaml is not a configuration"):
        run.begin(CONFIG)


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="Choose another --run folder"):
            Run(folder).begin(CONFIG)


def test_events_are_appended(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.log(stage="experts", losses=[1.0, 0.5])
    run.log(stage="distill", set="é")
    first, second = (json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines())
    assert first["stage"] == "experts" and first["losses"] == [1.0, 0.5] and "T" in first["time"]
    assert second["set"] == "é"


def test_differences_name_every_leaf() -> None:
    old = {"a": 1, "b": {"c": [1], "d": {"e": 2}}, "gone": {"x": 1}}
    new = {"a": 1, "b": {"c": [1, 2], "d": {"e": 3}}, "new": None, "gone": 4}
    assert list(differences(old, new)) == [("b.c", [1], [1, 2]), ("b.d.e", 2, 3), ("gone", {"x": 1}, 4)]
    assert list(differences(old, old)) == []


def test_the_environment_names_versions_and_a_command_that_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/vldistill", "experts", "--encoder.image.options", "{width: 8}"])
    assert command() == "vldistill experts --encoder.image.options '{width: 8}'"
    found = environment()
    assert found["versions"]["torch"] and found["command"] == command()
    assert json.loads(json.dumps(found)) == found


def test_the_commit_is_that_of_a_checkout_of_this_library_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)

    def make_repository(folder: Path) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one", "--allow-empty"]):
            subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)

    source = tmp_path / "environment" / "lib" / "vldistill" / "workbench/run_folder.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    monkeypatch.setattr(runs, "__file__", str(source))
    make_repository(tmp_path)  # somebody's project that happens to hold the environment
    assert commit() is None
    make_repository(tmp_path / "environment")  # its src/ is what is imported
    found = commit()
    assert found is not None and len(found) == 12
    source.write_text("changed")
    assert commit() == f"{found}+changes"


def test_a_run_from_before_an_option_existed_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(CONFIG)
    old = yaml.safe_load(run.config_path.read_text())
    del old["encoder"]["lora"], old["encoder"]["text"]["options"], old["experts"]["snapshots"]
    run.config_path.write_text(yaml.safe_dump(old))
    run.begin(CONFIG)
    with pytest.raises(ConfigError, match=r"encoder\.lora\.rank: 8 in the run, 4 requested"):
        run.begin(replace(CONFIG, encoder=EncoderConfig(lora=LoraConfig(rank=4))))


def test_defaults_fill_what_is_missing_only() -> None:
    defaults = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}}
    given = {"b": {"c": 5, "d": None}, "f": {"own": 1}, "more": 0}
    assert with_defaults(given, defaults) == {"a": 1, "b": {"c": 5, "d": None}, "f": {"own": 1}, "more": 0}
    assert with_defaults({}, defaults) == defaults


# --- the data of a run --------------------------------------------------------------------------------------------


def test_a_run_keeps_what_its_data_were_once_it_is_begun(scene_pairs: Callable[[str], Pairs], tmp_path: Path) -> None:
    run, train = Run(tmp_path / "run"), scene_pairs("train")
    assert not run.check_data(train)
    assert not run.folder.exists()  # looking at data begins nothing
    run.begin(CONFIG)
    run.check_data(scene_pairs("test"))
    kept = read_json(run.data_path, "note")
    accounts = read_json(run.account_path, "account")
    assert accounts.keys() == {"train", "test"} and accounts["train"][0]["seen"] == accounts["train"][0]["used"] == 80
    assert kept.keys() == {"train", "test", "made_splits"} and kept["train"]["fingerprint"] == train.fingerprint
    assert (kept["train"]["images"], kept["train"]["captions"]) == (train.count_images, train.count_captions)
    before = run.data_path.stat().st_mtime_ns
    assert Run(run.folder).check_data(train)  # a former stage has said what was left out
    assert run.data_path.stat().st_mtime_ns == before


def test_other_data_than_a_run_was_begun_with_are_refused(scene_pairs: Callable[[str], Pairs], tmp_path: Path) -> None:
    run, train = Run(tmp_path / "run"), scene_pairs("train")
    run.begin(CONFIG)
    run.check_data(train)
    fewer = train.select_images(range(train.count_images - 1))
    with pytest.raises(ConfigError) as caught:
        Run(run.folder).check_data(fewer)
    message = str(caught.value)
    assert f"{train.count_images} images and" in message and f"{fewer.count_images} images and" in message
    assert str(run.data_path) in message and "Put the data back" in message
    turned = replace(train, captions=[train.captions[1], train.captions[0], *train.captions[2:]])
    with pytest.raises(ConfigError, match="now, other ones"):
        Run(run.folder).check_data(turned)
    run.data_path.unlink()
    Run(run.folder).check_data(fewer)
    assert read_json(run.data_path, "note")["train"]["images"] == fewer.count_images


def test_runs_of_former_versions_keep_their_smaller_splits(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert not run.former_splits, "a run that is not begun makes splits as they are made now"
    run.begin(CONFIG)
    assert not Run(run.folder).former_splits
    write_record(run.data_path, {"train": {"images": 3, "captions": 6, "fingerprint": "0" * 16}})
    assert Run(run.folder).former_splits
    run.data_path.unlink()
    assert Run(run.folder).former_splits, "the first versions wrote no data.json"
