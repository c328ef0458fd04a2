from __future__ import annotations

import csv
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vldistill.cli import COMMANDS
from vldistill.distillation.metagrad.backward_sweep import NonFiniteError
from vldistill.distillation.methods.bitraj import BiTrajectoryMatching
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.evaluation.measures import MEASURES
from vldistill.options.help import COMMON, EXAMPLES
from vldistill.stages import distill as distilling
from vldistill.stages import evaluate as judging
from vldistill.stages import experts as preparing

PROGRAM = [sys.executable, "-W", "error", "-m", "vldistill.cli"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def strict_json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_set_is_no_start_of_several_texts(vldistill: Any, run: Path) -> None:
    assert vldistill("distill", "--run", run).code == 0
    asked = ("distill", "--run", run, "--start", run / "sets" / "bitraj-6-s0", "--label", "two")
    done = vldistill(*asked, "--distill.captions", 2)
    assert done.code == 2 and "which has one text for each image, and distill.captions is 2" in done.err
    assert vldistill(*asked).code == 0


def test_several_captions_of_an_image_stay_apart_whatever_they_hold(
    vldistill: Any, config: Path, karpathy: Any, tmp_path: Path
) -> None:
    entries = [karpathy.entry(number, "train" if number < 8 else "val") for number in range(10)]
    for number, entry in enumerate(entries):
        entry["sentences"] = [{"raw": f"cat / dog {number}"}, {"raw": f"two {number}"}]
    karpathy.save(entries)
    karpathy.add_photos()
    asked = ["distill", "--config", config, "--data.source", karpathy.folder, "--run", tmp_path / "run"]
    asked += ["--method", "bilevel", "--distill.captions", 2, "--iterations", 2, "--distill.validate_every", 0]
    done = vldistill(*asked)
    assert done.code == 0, done.err
    folder = tmp_path / "run" / "sets" / "bilevel-6-s0"
    real = {sentence["raw"] for entry in entries[:8] for sentence in entry["sentences"]}
    for pair in DistilledSet.load(folder).captions:
        assert len(pair["start"]) == len(pair["nearest"]) == 2 and {*pair["start"], *pair["nearest"]} <= real
    assert vldistill("convert", folder, "--to", "csv", "--out", tmp_path / "out").code == 0
    rows = list(csv.DictReader((tmp_path / "out" / "pairs.csv").read_text().splitlines()))
    assert len(rows) == 12 and {row["title"] for row in rows} <= real
    assert vldistill("report", tmp_path / "run").code == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    first = DistilledSet.load(folder).captions[0]["start"]
    assert " / ".join(first) in page and "cannot be made again" not in page and "before" in page


def test_too_little_memory_is_no_bug(vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore of it.")

    monkeypatch.setattr(BiTrajectoryMatching, "step", short)
    done = vldistill("distill", "--run", run)
    assert done.code == 2 and "too little memory (CUDA out of memory. Tried to allocate 20.00 GiB.)" in done.err
    assert "bug" not in done.err and "smaller encoder.image.size" in done.err


# --- the front door -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], []])
def test_the_front_door_answers_at_once_and_without_torch(words: list[str]) -> None:
    code = (
        "import sys; from vldistill.cli import main; import vldistill; "
        f"code = main({words!r}); "
        "heavy = {'torch', 'numpy', 'jsonargparse', 'timm', 'transformers', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert done.returncode == (0 if words else 2), done.stderr
    assert seconds < 1.5  # of CPU time: other work on this machine does not count
    if words != ["--version"]:
        for stage in COMMANDS:
            assert f"\n  {stage} " in done.stdout
        assert "Exit codes" in done.stdout


def test_output_that_cannot_be_written_is_an_error_and_no_output_is_none() -> None:
    words = [*PROGRAM, "ls", "settings"]
    with Path("/dev/full").open("w") as full:
        lost = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert lost.returncode == 2 and "No space left" in lost.stderr
    closed = subprocess.run(f"{shlex.join(words)} >&-", shell=True, capture_output=True, timeout=300)
    assert closed.returncode == 0, closed.stderr


def test_a_misspelt_option_does_not_wait_for_what_only_training_needs() -> None:
    code = (
        "import sys; from vldistill.cli import main; assert main(['distill', '--methd', 'x']) == 2; "
        "heavy = {'torchvision', 'scipy', 'timm', 'transformers', 'peft'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Did you mean --method" in done.stderr, done.stderr


@pytest.mark.parametrize("stage", sorted(EXAMPLES))
def test_the_help_of_a_stage_fits_two_screens(vldistill: Any, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Common options and one example; everything else by name."""
    monkeypatch.setenv("COLUMNS", "100")
    done = vldistill(stage, "--help")
    lines = done.out.splitlines()
    assert done.code == 0 and len(lines) <= 60 and max(map(len, lines)) <= 100
    assert EXAMPLES[stage] in done.out and "--run" in done.out and f"vldistill {stage} --help all" in done.out


def test_help_on_one_section_or_method_and_on_all_options(vldistill: Any) -> None:
    own = vldistill("distill", "--help", "bitraj").out
    assert "--bitraj.syn_steps" in own and "--bilevel.steps" not in own and "--dry_run" not in own
    every = " ".join(vldistill("distill", "--help=all").out.split())
    for option in ("--encoder.image.name", "--bitraj.syn_steps", "--dry_run", "outer iterations", "--pairs"):
        assert option in every, option
    wrong = vldistill("distill", "--help", "bitrai")
    assert wrong.code == 2 and "Did you mean bitraj" in wrong.err
    for stage, options in COMMON.items():
        known = vldistill(stage, "--help", "all").out
        assert all(f"--{option} " in known or f"--{option}\n" in known for option in options), stage


@pytest.mark.parametrize("option", ["--dry-run", "--dry_run"])
def test_options_may_be_typed_with_hyphens(vldistill: Any, config: Path, tmp_path: Path, option: str) -> None:
    words = [
        "--config",
        config,
        "--run",
        tmp_path / "run",
        "--distill.validate-every=0",
        "--encoder.text.name",
        "hashing",
    ]
    done = vldistill("distill", *words, option)
    assert done.code == 0 and "plan of" in done.out and not (tmp_path / "run").exists()


def test_the_resolved_configuration_can_be_printed(vldistill: Any, config: Path, run: Path) -> None:
    done = vldistill("experts", "--config", config, "--experts.count", "7", "--print_config")
    assert done.code == 0
    printed = yaml.safe_load(done.out)
    assert printed["experts"]["count"] == 7 and printed["encoder"]["dim"] == 16 and printed["bitraj"]["syn_steps"] == 2
    again = vldistill("distill", "--run", run, "--pairs", "9", "--print_config")
    assert yaml.safe_load(again.out)["distill"]["pairs"] == 9
    assert yaml.safe_load(again.out)["encoder"]["dim"] == 16  # remembered by the run


def test_a_printed_configuration_can_be_given_back(vldistill: Any, config: Path, tmp_path: Path) -> None:
    printed = vldistill("experts", "--config", config, "--print_config").out
    (tmp_path / "again.yaml").write_text(printed)
    assert vldistill("experts", "--config", tmp_path / "again.yaml", "--print_config").out == printed


def test_data_that_change_under_a_run_are_noticed(vldistill: Any, config: Path, karpathy: Any, tmp_path: Path) -> None:
    karpathy.add_photos()
    given = ("--config", config, "--run", tmp_path / "run", "--data.source", karpathy.folder)
    assert vldistill("encode", *given).code == 0
    lost = karpathy.folder / karpathy.entries[0]["filename"]
    raw = lost.read_bytes()
    lost.unlink()
    done = vldistill("evaluate", "--run", tmp_path / "run", "--set", "random:2")
    assert done.code == 2 and "3 images and 6 captions then, 2 images and 4 captions now" in done.err
    assert "Put the data back" in done.err and not list((tmp_path / "run" / "results").glob("*.json"))
    lost.write_bytes(raw)
    done = vldistill("evaluate", "--run", tmp_path / "run", "--set", "random:2")
    assert done.code == 0
    result = strict_json((tmp_path / "run" / "results" / "random-2.json").read_text())
    assert result["data"]["train"] == strict_json((tmp_path / "run" / "data.json").read_text())["train"]["fingerprint"]


# --- wrong use ----------------------------------------------------------------------------------------------------

WRONG: list[tuple[list[str], str]] = [
    (["distil"], r"unknown command 'distil'. Did you mean distill"),
    (["distill", "--run", "RUN", "--method", "bitrajj"], "unknown method 'bitrajj'. Did you mean bitraj"),
    (["distill", "--run", "RUN", "--validate_every", "5"], "Did you mean --distill.validate_every"),
    (
        ["experts", "--run", "RUN", "--experts.cuont=5"],
        "unknown option '--experts.cuont'. Did you mean --experts.count",
    ),
    (["distill", "--run", "RUN", "--pair", "5"], "Did you mean --pairs"),
    (["experts", "--config", "CONFIG"], "needs --run FOLDER"),
    (["evaluate", "--run", "", "--set", "full"], "needs --run FOLDER"),
    (["compare", "--config", "configs/leaderboard_flickr8k.yaml", "--run", ""], "needs --run FOLDER"),
    (["evaluate", "--run", "NEW", "--set", "full"], "holds no config.yaml, and no data are named. Correct --run"),
    (["experts", "--run", "NEW", "--config", "configs/scene.yaml"], "does not exist.*Did you mean scenes.yaml"),
    (["experts", "--run", "NEW", "--encoder.setting", "hed"], "unknown setting 'hed'. Did you mean heads"),
    (["experts", "--run", "NEW", "--config", "CONFIG", "--encoder.image.name", "convnt"], "Did you mean convnet"),
    (["experts", "--run", "NEW", "--config", "CONFIG", "--data.source", "/no/where.json"], "/no/where.json"),
    (["experts", "--run", "NEW", "--config", "CONFIG", "--data.source", "scenes:trian=3"], "train"),
    (["experts", "--run", "NEW", "--config", "CONFIG", "--runtime.device", "tpu9"], "runtime.device 'tpu9'.*try auto"),
    (["experts", "--run", "RUN", "--experts.image_rate", "0"], "experts.image_rate is 0.0; expected a .*above 0"),
    (["experts", "--run", "RUN", "--experts.image_rate", "fast"], "experts.image_rate"),
    (["distill", "--run", "RUN", "--pairs", "1"], "at least 2 pairs"),
    (["distill", "--run", "RUN", "--pairs", "41"], "41 pairs.*Ask for 40 or fewer"),
    (["distill", "--run", "RUN", "--keep", "0,7"], r"distill.keep is \[7\]; expected iterations from 0 to 6"),
    (["distill", "--run", "RUN", "--start", "reel"], "start"),
    (
        ["distill", "--run", "RUN", "--bitraj.max_start_epoch", "4"],
        "no snapshot of epochs.*Lower bitraj.max_start_epoch",
    ),
    (["distill", "--run", "RUN", "--bitraj.minibatch", "7"], "bitraj.minibatch is 7, more than the 6 pairs"),
    (["distill", "--run", "RUN", "--bitraj.estimator", "adjont"], "Did you mean adjoint"),
    (["distill", "--config", "CONFIG", "--run", "NEW"], "Run `vldistill experts --run .*new` first"),
    (["distill", "--run", "RUN", "--method", "bilevel", "--experts_from", "RUN"], "bilevel needs no experts"),
    (["distill", "--run", "RUN", "--seed", "-1"], "distill.seed is -1"),
    (["distill", "--run", "RUN", "--pairs", "ten"], "distill.pairs is 'ten'; expected a whole number"),
    (["distill", "--run", "RUN", "--distill.decay", "lin"], "expected one of 'none', 'cosine', 'linear' or null"),
    (["select", "--run", "RUN", "--pairs", "5", "--seed", "-1"], "select.seed is -1"),
    (["evaluate", "--run", "RUN"], "set"),
    (["evaluate", "--run", "RUN", "--set", "random:41"], "41 pairs"),
    (["evaluate", "--run", "RUN", "--set", "random:x"], "random:N with N of 2 or more"),
    (["evaluate", "--run", "RUN", "--set", "RUN/sets/none"], "is not a distilled set: there is no such folder"),
    (["evaluate", "--run", "RUN", "--set", ""], "--set is ''; expected the folder of a set"),
    (["import", "lors", "RUN", "--run", "RUN"], "is a folder; expected"),
    (["evaluate", "--run", "RUN", "--set", "Full"], "--set is 'Full'; expected the folder of a set"),
    (["evaluate", "--run", "RUN", "--set", "random"], r"SELECTOR:N \(random:100\) or full"),
    (["evaluate", "--run", "RUN", "--set", "full", "--val_only"], "without --val_only"),
    (["evaluate", "--run", "RUN", "--set", "full", "--protocol", "best"], "unknown protocol 'best'"),
    (["evaluate", "--run", "RUN", "--set", "full", "--recipes", "own"], "no recipe of its own"),
]


@pytest.mark.parametrize(
    ("words", "said"), WRONG, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else ""
)
def test_wrong_use_is_one_clear_error_and_leaves_nothing(
    vldistill: Any, run: Path, config: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    before = files(run)
    there = {"RUN": run, "CONFIG": config, "NEW": tmp_path / "new"}
    filled = [str(there.get(word, word)).replace("RUN/", f"{run}/") for word in words]
    done = vldistill(*filled)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    lines = " ".join(done.err.split())
    assert re.search(said, lines), done.err
    assert done.err.count("error:") == 1
    assert done.out == ""
    assert not (tmp_path / "new").exists()
    after = files(run)
    assert {name for name in after if name.startswith("sets")} == set()
    assert after["config.yaml"] == before["config.yaml"]


def test_a_different_configuration_is_refused_with_the_difference(vldistill: Any, run: Path) -> None:
    for stage, more in (("experts", []), ("distill", []), ("evaluate", ["--set", "full"])):
        done = vldistill(stage, "--run", run, *more, "--encoder.dim", "24", "--experts.text_rate", "0.2")
        assert done.code == 2
        assert "encoder.dim: 16 in the run, 24 requested" in done.err
        assert "experts.text_rate: 0.1 in the run, 0.2 requested" in done.err
        assert "decoded" not in done.err


def test_other_data_are_refused_before_they_are_read(
    vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vldistill.workbench.bench.read_collection", lambda *given, **more: pytest.fail("read"))
    for words in (["experts"], ["distill"], ["evaluate", "--set", "full"]):
        done = vldistill(*words, "--run", run, "--data.source", "scenes:seed=3,train=40")
        assert done.code == 2 and "data.source: " in done.err, done.err


def test_too_many_pairs_are_refused_before_anything_is_encoded(
    vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vldistill.workbench.bench.image_encoding", lambda *given, **more: pytest.fail("encoded"))
    assert vldistill("distill", "--run", run, "--pairs", "41").code == 2


def test_a_damaged_memory_of_the_run_is_refused(vldistill: Any, run: Path) -> None:
    (run / "config.yaml").write_text("encoder: [")
    done = vldistill("distill", "--run", run)
    assert done.code == 2 and "config.yaml" in done.err and "Traceback" not in done.err


def test_a_full_disk_is_an_error_and_not_a_bug(vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(preparing, "record_experts", full)
    done = vldistill("experts", "--run", run)
    assert done.code == 2 and "No space left on device" in done.err and "Traceback" not in done.err


def test_a_bug_is_called_one(vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise ZeroDivisionError("ouch")

    monkeypatch.setattr(preparing, "record_experts", broken)
    done = vldistill("experts", "--run", run)
    assert done.code == 1 and "ouch" in done.err and "This is a bug" in done.err


# --- the stages ---------------------------------------------------------------------------------------------------


def test_experts_fill_a_run_folder(made: Path) -> None:
    names = sorted(files(made))
    assert names == [
        "account.json",
        "config.yaml",
        "data.json",
        "env.json",
        "experts/expert-000.safetensors",
        "experts/expert-001.safetensors",
        "metrics.jsonl",
    ]
    kept = yaml.safe_load((made / "config.yaml").read_text())
    assert kept["encoder"]["image"]["options"] == {"width": 8} and kept["bitraj"]["syn_steps"] == 2
    (line,) = (json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines())
    assert line["stage"] == "experts" and len(line["losses"]) == 2


def test_the_same_experts_are_not_trained_again(vldistill: Any, run: Path) -> None:
    before = files(run / "experts")
    done = vldistill("experts", "--run", run)
    assert done.code == 0 and files(run / "experts") == before and "expert 0:" not in done.err
    more = vldistill("experts", "--run", run, "--experts.count", "3")
    assert more.code == 0 and "1 to train" in more.err
    after = files(run / "experts")
    assert len(after) == 3 and before.items() <= after.items()


def test_distill_makes_a_set(vldistill: Any, run: Path) -> None:
    done = vldistill("distill", "--run", run, "--method", "bitraj", "--pairs", "8", "--seed", "4", "--keep", "0,2")
    folder = run / "sets" / "bitraj-8-s4"
    assert done.code == 0 and done.out.strip() == str(folder)
    assert {"set.safetensors", "set.json", "README.md", "preview.png", "config.json", "metrics.jsonl"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "checkpoint.safetensors").exists()
    distilled = DistilledSet.load(folder)
    assert (len(distilled), distilled.info["method"], distilled.info["seed"]) == (8, "bitraj", 4)
    assert all(caption["start"] and caption["nearest"] for caption in distilled.captions)
    kept = {path.name: DistilledSet.load(path) for path in (folder / "kept").iterdir()}
    assert {name: found.info["iteration"] for name, found in kept.items()} == {"iteration-0": 0, "iteration-2": 2}
    looks = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [look["iteration"] for look in looks if "val_mean_recall" in look] == [0, 3, 6]
    assert "mean recall on val" in done.err
    png = (folder / "preview.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 1000


def test_a_finished_set_is_left_alone_and_other_settings_are_refused(vldistill: Any, run: Path) -> None:
    assert vldistill("distill", "--run", run, "--quiet").code == 0
    folder = run / "sets" / "bitraj-6-s0"
    before = files(folder)
    again = vldistill("distill", "--run", run)
    assert again.code == 0 and again.out.strip() == str(folder)
    assert "nothing to do" in again.err and files(folder) == before
    other = vldistill("distill", "--run", run, "--bitraj.syn_steps", "3", "--distill.text_lr", "0.5")
    assert other.code == 2 and files(folder) == before
    assert "bitraj.syn_steps: 2 there, 3 requested" in other.err
    assert "distill.text_lr: 0.1 there, 0.5 requested" in other.err
    assert vldistill("distill", "--run", run, "--bitraj.syn_steps", "3", "--seed", "1", "--quiet").code == 0


def test_evaluate_prints_one_object(vldistill: Any, run: Path) -> None:
    assert vldistill("distill", "--run", run, "--quiet").code == 0
    folder = run / "sets" / "bitraj-6-s0"
    done = vldistill("evaluate", "--run", run, "--set", folder, "--seeds", "3", "--json")
    assert done.code == 0
    result = strict_json(done.out)
    keys = {"set", "setting", "protocol", "pairs", "stored_floats", "seeds", "own", "generic", "seconds"}
    assert keys | {"peak_memory_bytes", "chance"} <= result.keys()
    shown = {name: result[name] for name in ("set", "setting", "protocol", "pairs", "seeds")}
    assert shown == {"set": "bitraj-6-s0", "setting": "heads", "protocol": "last", "pairs": 6, "seeds": 3}
    assert result["stored_floats"] == DistilledSet.load(folder).stored_floats
    for recipe in ("own", "generic"):
        assert set(MEASURES) <= result[recipe].keys()
        assert all({"mean", "std"} == result[recipe][name].keys() for name in MEASURES)
    kept = strict_json((run / "results" / "bitraj-6-s0.json").read_text())
    assert {name: kept[name] for name in result} == result and "environment" in kept


def test_a_path_that_cannot_be_is_no_bug(vldistill: Any, run: Path, config: Path, tmp_path: Path) -> None:
    (tmp_path / "photo").write_text("no folder")
    below, long = tmp_path / "photo" / "x", "x" * 300
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"base: {long}")
    for words in (
        ["evaluate", "--run", run, "--set", long],
        ["evaluate", "--run", long, "--set", "full"],
        ["distill", "--run", run, "--start", long],
        ["distill", "--run", tmp_path / "new", "--config", long],
        ["compare", "--run", tmp_path / "new", "--config", sweep],
        ["inspect", long],
        ["report", long],
        ["encode", "--run", tmp_path / "new", "--config", config, "--data.cache", below],
        ["compare", "--run", tmp_path / "photo", "--config", "configs/flickr8k/main.yaml", "--smoke"],
        ["report", run, "--out", tmp_path / "photo" / "x.html"],
        ["report", run, "--out", tmp_path / long],
        ["convert", "scenes:train=4,val=2,test=2", "--to", "csv", "--out", below],
    ):
        done = vldistill(*words)
        assert done.code == 2 and "Traceback" not in done.err, done.err
        assert re.search("part of the path is a file|file of that name|name is too long", done.err), done.err


def test_a_finished_evaluation_is_left_alone_and_another_is_told(vldistill: Any, run: Path) -> None:
    words = ("evaluate", "--run", run, "--set", "random:6", "--json")
    path = run / "results" / "random-6.json"
    first, written = strict_json(vldistill(*words).out), path.read_bytes()
    again = vldistill(*words)
    assert strict_json(again.out) == first and path.read_bytes() == written and "finished already" in again.err
    other = vldistill(*words, "--seeds", "1")
    assert strict_json(other.out)["seeds"] == 1
    assert "held 2 students by generic recipe, evaluated with other options; it is replaced by 1 students" in other.err
    path.write_text("{")
    assert strict_json(vldistill(*words).out)["seeds"] == 2


def test_a_set_of_another_run_does_not_take_the_place_of_our_own(vldistill: Any, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    shutil.copytree(run, other)
    (other / "sets" / "begun").mkdir(parents=True)
    (other / "sets" / "begun" / "config.json").write_text("{}")
    done = vldistill("evaluate", "--run", other, "--set", "begun")  # by its name, too
    assert done.code == 2 and "is not finished. Run the command that began it to resume" in done.err
    for place, seed in ((run, "0.1"), (other, "0.2")):
        assert vldistill("distill", "--run", place, "--distill.image_lr", seed, "--quiet").code == 0
        assert vldistill("evaluate", "--run", run, "--set", place / "sets" / "bitraj-6-s0", "--quiet").code == 0
    names = [path.name for path in sorted((run / "results").glob("bitraj*.json"))]
    assert names == ["bitraj-6-s0-from-theirs.json", "bitraj-6-s0.json"]


@pytest.mark.parametrize(("target", "pairs"), [("random:6", 6), ("full", 200)])
def test_evaluate_takes_real_pairs_too(vldistill: Any, run: Path, target: str, pairs: int) -> None:
    result = strict_json(vldistill("evaluate", "--run", run, "--set", target, "--json").out)
    assert result["own"] is None and result["pairs"] == pairs and result["seeds"] == 2
    assert (run / "results" / f"{target.replace(':', '-')}.json").is_file()


def test_evaluate_prints_a_table(vldistill: Any, run: Path) -> None:
    done = vldistill("evaluate", "--run", run, "--set", "random:6", "--protocol", "test-best-legacy", "--quiet")
    assert done.code == 0 and done.err == ""
    assert "| random:6 | generic |" in done.out and "chance" in done.out
    assert "protocol test-best-legacy" in done.out and "biased" in done.out


def test_a_set_is_evaluated_in_another_run(vldistill: Any, run: Path, config: Path, tmp_path: Path) -> None:
    """Another image tower is the cross-architecture question; another text tower cannot work."""
    assert vldistill("distill", "--run", run, "--quiet").code == 0
    folder = run / "sets" / "bitraj-6-s0"
    common = ["evaluate", "--config", config, "--set", folder, "--recipes", "own", "--json"]
    done = vldistill(*common, "--run", tmp_path / "other", "--encoder.image.size", "24")
    assert done.code == 0 and strict_json(done.out)["details"]["made_with_image_tower"] == "convnet"
    refused = vldistill(*common, "--run", tmp_path / "third", "--encoder.text.width", "48")
    assert refused.code == 2 and "Use the tower it was made with" in refused.err
    assert not (tmp_path / "third").exists()


def test_a_run_folder_with_odd_letters_is_remembered(vldistill: Any, made: Path, tmp_path: Path) -> None:
    odd = tmp_path / "run [a] *é 1"
    shutil.copytree(made, odd)
    done = vldistill("distill", "--run", odd, "--quiet")
    assert done.code == 0, done.err
    assert (odd / "sets" / "bitraj-6-s0" / "set.json").is_file()


def test_diverging_keeps_the_best_set_and_gives_advice(
    vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BiTrajectoryMatching.step

    def step(method: BiTrajectoryMatching, state: Any, context: Any) -> Any:
        if context.iteration >= 4:
            raise NonFiniteError("the outer loss is nan")
        return real(method, state, context)

    monkeypatch.setattr(BiTrajectoryMatching, "step", step)
    done = vldistill("distill", "--run", run, "--iterations", "20", "--distill.validate_every", "2")
    assert done.code == 2
    assert done.err.count("the last step is undone") == 5
    assert "5 steps in a row failed" in done.err and "smaller distill.image_lr" in done.err
    folder = run / "sets" / "bitraj-6-s0"
    assert not (folder / "set.json").exists()
    kept = DistilledSet.load(folder / "kept" / "best-before-divergence")
    assert kept.info["iteration"] in (0, 2, 4, 6, 8) and kept.info["selection"]["undone_steps"] == 5
    done = vldistill("evaluate", "--run", run, "--set", folder)
    assert done.code == 2 and "its distillation diverged" in done.err and "best-before-divergence" in done.err


def test_a_run_that_learned_nothing_is_no_finished_set(
    vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(method: BiTrajectoryMatching, state: Any, context: Any) -> Any:
        raise NonFiniteError("the outer loss is nan")

    monkeypatch.setattr(BiTrajectoryMatching, "step", step)
    done = vldistill("distill", "--run", run, "--iterations", "3", "--distill.validate_every", "0")
    assert done.code == 2 and "all 3 steps were undone" in done.err and "smaller distill.image_lr" in done.err
    assert not (run / "sets" / "bitraj-6-s0" / "set.json").exists()


# --- stopping -----------------------------------------------------------------------------------------------------

LONG = ("--distill.validate_every", "0", "--iterations", "40")


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, id="ctrl-c"), pytest.param(signal.SIGTERM, id="sigterm", marks=pytest.mark.slow)],
)
def test_a_real_signal_stops_a_real_process_and_the_same_command_finishes(
    vldistill: Any, run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = ["distill", "--run", str(run), *LONG]
    metrics = run / "sets" / "bitraj-6-s0" / "metrics.jsonl"
    with subprocess.Popen(
        [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        patience = time.monotonic() + 300
        while not (metrics.exists() and metrics.read_text().count("\n") > 2):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < patience
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 3, err
    assert out == "" and "Traceback" not in err
    assert "everything is saved" in err and "Run the same command to resume" in err
    folder = run / "sets" / "bitraj-6-s0"
    assert (folder / "checkpoint.safetensors").is_file() and not (folder / "set.json").exists()
    assert not list(run.rglob("*.tmp"))
    unfinished = vldistill("inspect", folder)
    assert unfinished.code == 2 and "not finished" in unfinished.err
    done = vldistill(*words)
    assert done.code == 0 and "resuming at iteration" in done.err
    assert not (folder / "checkpoint.safetensors").exists()
    iterations = [json.loads(line)["iteration"] for line in metrics.read_text().splitlines() if '"value"' in line]
    assert iterations == list(range(40))
    if number == signal.SIGINT:  # and it is what an uninterrupted run makes
        straight = tmp_path / "straight"
        shutil.copytree(run, straight, ignore=shutil.ignore_patterns("sets"))
        assert vldistill("distill", "--run", straight, *LONG, "--quiet").code == 0
        name = Path("sets") / "bitraj-6-s0" / "set.safetensors"
        assert (straight / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_stopping_experts_keeps_the_finished_ones(
    vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from vldistill.experts import record

    real = record.record_expert

    def second_is_stopped(*given: Any) -> Any:
        if given[2] == 1:
            signal.raise_signal(number)
        return real(*given)

    run = tmp_path / "run"
    if number == signal.SIGINT:  # a shell starts what it puts in the background with this signal ignored
        signal.signal(number, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(record, "record_expert", second_is_stopped)
        done = vldistill("experts", "--config", config, "--run", run)
    assert done.code == 3 and "1 finished experts are kept" in done.err and "Run the same command to resume" in done.err
    again = vldistill("experts", "--run", run)
    assert again.code == 0 and "1 done; 1 to train" in again.err


def test_stopping_an_evaluation_says_how_to_go_on(vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(judging, "evaluate_set", stopped)
    done = vldistill("evaluate", "--run", run, "--set", "full")
    assert done.code == 3 and "Run the same command" in done.err and not list((run / "results").glob("*.json"))


def test_stopping_in_the_middle_of_nowhere_is_not_a_bug(
    vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(distilling, "open_bench", stopped)
    done = vldistill("distill", "--run", run)
    assert done.code == 3 and "same command" in done.err


def test_options_win_over_files_wherever_they_stand(vldistill: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("distill: {pairs: 11, seed: 1, captions: 3}")
    second.write_text("distill: {seed: 2}")
    words = ["--pairs", "7", f"--config={first}", "--run", tmp_path / "run", "--config", second]
    shown = yaml.safe_load(vldistill("distill", *words, "--print_config").out)["distill"]
    assert (shown["pairs"], shown["seed"], shown["captions"]) == (7, 2, 3)


def test_rates_beyond_all_numbers_end_as_a_divergence(vldistill: Any, run: Path) -> None:
    done = vldistill("distill", "--run", run, "--method", "bilevel", "--distill.student_rate_image", "1e30")
    assert done.code == 2 and "error: distillation diverged" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("method", ["prototypes", "bilevel"])
def test_pairs_are_counted_without_broken_photos(
    vldistill: Any, config: Path, karpathy: Any, tmp_path: Path, method: str
) -> None:
    karpathy.save([karpathy.entry(number, ("train", "val", "test")[max(0, number - 5)]) for number in range(8)])
    karpathy.add_photos()
    (karpathy.folder / "2.jpg").write_bytes(b"not a photo")
    words = ["--config", config, "--data.source", karpathy.folder, "--method", method, "--run", tmp_path / "run"]
    done = vldistill("distill", *words, "--pairs", "6")
    assert done.code == 2 and "6 pairs were requested" in done.err and "Ask for 5 or fewer" in done.err


def test_what_a_kill_right_after_the_result_left_is_cleared(vldistill: Any, run: Path) -> None:
    words = ["evaluate", "--run", run, "--set", "random:6"]
    assert vldistill(*words).code == 0
    left = run / "results" / "random-6.unfinished"
    left.mkdir()
    (left / "a.json").write_text("{}")
    again = vldistill(*words)
    assert again.code == 0 and "finished already" in again.err and not left.exists()
