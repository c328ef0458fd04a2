"""`vldistill compare` on forty drawn scenes. Stages run in this process where only their order and files matter."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from vldistill.cli import find_command
from vldistill.cluster import UnitFailed
from vldistill.cluster.commands import Commands
from vldistill.errors import Stopped, VldistillError
from vldistill.storage.files import read_json, write_record

SWEEP: dict[str, Any] = {
    "pairs": [6],
    "methods": {
        "bitraj": {},
        "bilevel": {"options": {"bilevel.minibatch": 500}},
        "only images": {
            "method": "bitraj",
            "options": {"distill.text_lr": 0.0},
            "grid": {"distill.image_lr": [0.01, 0.3]},
        },
    },
}


class Here:
    """Runs stages in this process and remembers their words; ``broken`` fails or stops some of them."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.broken: Callable[[Sequence[str]], BaseException | None] = lambda words: None

    def __call__(self, commands: Commands, words: Sequence[str], log: Path) -> None:
        self.calls.append(list(words))
        if error := self.broken(words):
            raise error
        try:
            find_command(words[0])([*words[1:], "--quiet"])
        except VldistillError as error:
            raise UnitFailed(str(error), "refused") from None

    def stages(self) -> list[str]:
        return [words[0] for words in self.calls]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    launcher = Here()
    monkeypatch.setattr(Commands, "launch", lambda *given: launcher(*given))
    return launcher


@pytest.fixture
def sweep(config: Path, tmp_path: Path) -> Callable[..., Path]:
    """``sweep(methods=...)`` writes a sweep file over the small configuration."""

    def write(**keys: Any) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"base": str(config), **SWEEP, **keys}, sort_keys=False))
        return path

    return write


def test_a_sweep_becomes_one_table_and_a_failure_stays_alone(
    vldistill: Any, here: Here, sweep: Any, tmp_path: Path
) -> None:
    run = tmp_path / "board"
    done = vldistill("compare", "--config", sweep(), "--run", run)
    assert done.code == 4, done.err
    assert here.stages()[:2] == ["encode", "experts"] and here.stages().count("experts") == 1
    table = json.loads((run / "table.json").read_text())
    assert [row["row"] for row in table["rows"]] == ["random:6", "full", "bitraj", "only images"]
    assert list(table["failed"]) == [cell for cell in table["failed"] if "bilevel" in cell]
    assert "bilevel.minibatch is 500" in (run / "table.md").read_text()
    assert "bilevel.minibatch is 500" in done.err and done.err.count("This cell will fail.") == 1
    random, full, bitraj, images = table["rows"]
    generic = bitraj["generic"]["mean"]
    assert bitraj["gain"] == pytest.approx(generic / random["generic"]["mean"])
    assert bitraj["share"] == pytest.approx(generic / full["generic"]["mean"])
    assert bitraj["seconds"] > 0 and bitraj["peak_memory_bytes"] > 1e6 and bitraj["stored_floats"] == 4802
    assert images["trials"] == 2 and set(images["chosen"]) == {"distill.image_lr"}
    trials = next(cell for cell in table["cells"] if cell["row"] == "only images")["trials"]
    assert [trial["options"]["distill.image_lr"] for trial in trials] == [0.01, 0.3]
    best = max(trials, key=lambda trial: trial["val_mean_recall"])
    assert images["chosen"] == best["options"]
    with (run / "table.csv").open() as handle:
        assert [row["row"] for row in csv.DictReader(handle)] == [row["row"] for row in table["rows"]]
    assert (run / "table.tex").read_text().count(r"\\") == 5 and done.out.endswith((run / "table.md").read_text())

    here.calls.clear()  # once more: what is finished stays, what failed is tried again
    again = vldistill("compare", "--config", sweep(), "--run", run)
    assert again.code == 4 and here.stages() == ["encode", "distill"]
    here.calls.clear()
    fixed = {**SWEEP["methods"], "bilevel": {"options": {"bilevel.real_batch": 16, "bilevel.steps": 2}}}
    assert vldistill("compare", "--config", sweep(methods=fixed), "--run", run).code == 0
    assert here.stages() == ["encode", "distill", "evaluate"]

    here.calls.clear()  # other judging: sets stay
    assert vldistill("compare", "--config", sweep(methods=fixed), "--run", run, "--evaluate.seeds", "3").code == 0
    assert set(here.stages()) == {"encode", "evaluate"} or set(here.stages()) == {"encode", "experts", "evaluate"}
    assert all(row["students"] == 3 for row in json.loads((run / "table.json").read_text())["rows"])


def test_stopping_keeps_what_is_done_and_the_same_command_goes_on(
    vldistill: Any, here: Here, sweep: Any, tmp_path: Path
) -> None:
    asked = ["compare", "--config", sweep(methods=["bitraj"]), "--run", tmp_path / "board"]

    def stop(words: Sequence[str]) -> BaseException | None:
        if words[0] == "distill":
            os.kill(os.getpid(), signal.SIGINT)
            return Stopped("stopped")
        return None

    here.broken = stop
    done = vldistill(*asked)
    assert done.code == 3 and "Run the same command to resume" in done.err and "Traceback" not in done.err
    table = json.loads((tmp_path / "board" / "table.json").read_text())
    assert [row["row"] for row in table["rows"]] == ["random:6", "full"] and len(table["missing"]) == 1
    here.broken = lambda words: None
    here.calls.clear()
    assert vldistill(*asked).code == 0
    assert here.stages() == ["encode", "experts", "distill", "evaluate"]


def test_failed_experts_fail_their_cells_and_no_others(vldistill: Any, here: Here, sweep: Any, tmp_path: Path) -> None:
    here.broken = lambda words: UnitFailed("no disk", "refused") if words[0] == "experts" else None
    done = vldistill("compare", "--config", sweep(methods=["bitraj"]), "--run", tmp_path / "board")
    assert done.code == 4
    table = json.loads((tmp_path / "board" / "table.json").read_text())
    assert [row["row"] for row in table["rows"]] == ["random:6", "full"]
    assert [why for why in table["failed"].values() if why.startswith("experts ") and "no disk" in why]


def test_trials_may_be_shorter_and_a_failed_one_is_logged(
    vldistill: Any, here: Here, sweep: Any, tmp_path: Path
) -> None:
    methods = {"bitraj": {"grid": {"bitraj.max_start_epoch": [9, 2, 1]}}}  # experts have 3 epochs: the first is refused
    path = sweep(methods=methods, targets=[], minutes=5, trial_minutes=1, trials=3)
    assert vldistill("compare", "--config", path, "--run", tmp_path / "board").code == 0
    table = json.loads((tmp_path / "board" / "table.json").read_text())
    refused, *tried = table["cells"][0]["trials"]
    assert refused["val_mean_recall"] is None and "Lower bitraj.max_start_epoch" in refused["error"]
    assert all(0 < trial["val_mean_recall"] <= 100 for trial in tried)
    folder = tmp_path / "board" / "cells" / table["cells"][0]["cell"]
    limits = {path.stem: yaml.safe_load(path.read_text())["distill"]["minutes"] for path in folder.glob("*.yaml")}
    assert {name: limit for name, limit in limits.items() if not name.startswith("judged")} == {
        "trial-1": 1.0,
        "trial-2": 1.0,
        "trial-3": 1.0,
        "made": 5.0,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "--workers is 0; expected 1 to"),
        (["--only", "*nothing*"], "matches no cell. Cells: heads-own-random-6"),
        (["--pairs", "ten"], "--pairs is 'ten'; expected numbers"),
        (["--published", "imagenet"], "unknown data set with published rows 'imagenet'"),
        (["--encoder.dimm", "8"], "dimm"),
        (["--base", "configs/scens.yaml"], "Did you mean scenes.yaml"),
        (["--dry_run", "--data.source", "/no/where"], "/no/where does not exist"),
        (["--data.source", "/no/where"], "/no/where does not exist"),
        (["--pairs", "5000"], "5000 pairs were requested, but the train split has"),
        (["--pairs", "5000", "--dry_run"], "5000 pairs were requested, but the train split has"),
    ],
)
def test_wrong_use_of_compare_is_refused_before_anything_is_written(
    vldistill: Any, sweep: Any, tmp_path: Path, words: list[str], said: str
) -> None:
    done = vldistill("compare", "--config", sweep(methods=["bitraj"]), "--run", tmp_path / "board", *words)
    assert done.code == 2 and said in done.err, done.err
    assert not (tmp_path / "board").exists()


def test_a_dry_run_shows_every_cell_and_writes_nothing(vldistill: Any, sweep: Any, tmp_path: Path) -> None:
    methods = {**SWEEP["methods"], "bilevel": {}}
    asked = ["compare", "--config", sweep(methods=methods), "--run", tmp_path / "board", "--dry_run", "--workers", 1]
    done = vldistill(*asked)
    assert done.code == 0, done.err
    for said in ("5 cells", "random-6", "bitraj-6", "2 trials", "experts heads-own", "of disk", "expected time: about"):
        assert said in done.out, done.out
    assert not (tmp_path / "board").exists()


def test_real_processes_stop_on_a_ctrl_c_and_go_on(config: Path, sweep: Any, tmp_path: Path) -> None:
    run = tmp_path / "board"
    long = {"distill.iterations": 10_000, "distill.validate_every": 0, "bilevel.real_batch": 16, "bilevel.steps": 2}
    methods = {"bilevel": {"options": long}}
    path = sweep(methods=methods, targets=[])
    words = [sys.executable, "-m", "vldistill.cli", "compare", "--config", str(path), "--run", str(run)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        patience = time.monotonic() + 500
        while not list(run.glob("cells/*/made/sets/*/metrics.jsonl")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=500)
    assert process.returncode == 3 and out == "" and "Traceback" not in err, err
    assert "Run the same command to resume" in err
    assert list(run.glob("cells/*/made/sets/*/checkpoint.safetensors"))
    log = next(iter(run.glob("cells/*/log.txt"))).read_text()
    assert "everything is saved" in log and "going on" not in log
    shutil.rmtree(run)


def test_experts_of_another_run_are_used_and_too_few_are_refused(
    vldistill: Any, config: Path, run: Path, tmp_path: Path
) -> None:
    last = ["--quiet", "--distill.validate_every", "0"]  # not the best on val, which may be the start
    asked = ["distill", "--config", config, "--run", tmp_path / "new", "--experts_from", run, *last]
    few = vldistill(*asked, "--distill.experts", "5")
    assert few.code == 2 and "distill.experts is 5" in few.err and "holds 2 experts" in few.err
    assert f"vldistill experts --run {run} --experts.count 5" in few.err
    assert not (tmp_path / "new").exists()
    assert vldistill(*asked, "--experts.count", "1").code == 0  # how many are recorded, not how many are used
    assert vldistill("distill", "--run", run, *last).code == 0
    name = Path("sets") / "bitraj-6-s0" / "set.safetensors"
    assert (tmp_path / "new" / name).read_bytes() == (run / name).read_bytes()  # the same experts, the same set
    fewer = vldistill(*asked[:4], tmp_path / "one", *asked[5:], "--distill.experts", "1")
    assert fewer.code == 0 and (tmp_path / "one" / name).read_bytes() != (run / name).read_bytes()


def test_a_look_at_val_leaves_test_closed(vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vldistill.workbench.bench import Workbench

    assert vldistill("distill", "--run", run, "--quiet").code == 0
    real = Workbench.split
    seen: list[str] = []
    monkeypatch.setattr(Workbench, "split", lambda bench, name: seen.append(name) or real(bench, name))
    made = run / "sets" / "bitraj-6-s0"
    done = vldistill("evaluate", "--run", run, "--set", made, "--val_only", "--json")
    found = json.loads(done.out)
    assert done.code == 0 and 0 < found["val_mean_recall"] <= 100
    assert set(seen) == {"val"} or set(seen) == {"train", "val"}
    written = [path.relative_to(run / "results") for path in (run / "results").rglob("*") if path.is_file()]
    assert written == [Path("val/bitraj-6-s0.json")], "where no test result of another set has its place"


# --- one table, one version of the data ---------------------------------------------------------------------------


@pytest.fixture
def folder(vldistill: Any, tmp_path: Path) -> Path:
    """Forty drawn scenes as files, which can be changed."""
    out = tmp_path / "photos"
    assert vldistill("convert", "scenes:train=40,val=20,test=20", "--to", "csv", "--out", out).code == 0
    return out


def rows_of(run: Path) -> list[str]:
    return [row["row"] for row in json.loads((run / "table.json").read_text())["rows"]]


def cell_file(run: Path, name: str) -> Path:
    (path,) = run.glob(f"cells/*{name}*/result.json")
    return path


def test_cells_of_changed_data_fail_and_are_not_put_beside_the_old_ones(
    vldistill: Any, here: Here, sweep: Any, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "board"
    asked = ["compare", "--config", sweep(methods=[]), "--run", run, "--data.source", folder]
    assert vldistill(*asked, "--only", "*random*").code == 0
    captions = next(folder.glob("*.csv"))
    captions.write_text(captions.read_text().replace("a ", "one "))
    done = vldistill(*asked)
    assert done.code == 4 and "is not what" in done.err and rows_of(run) == ["random:6"]
    (note,) = run.glob("encode/*/data.json")
    note.unlink()  # as the message of the stage says
    done = vldistill(*asked)
    assert done.code == 4 and "is not what the finished cells in" in done.err and rows_of(run) == ["random:6"]
    shutil.rmtree(cell_file(run, "random").parent)
    assert vldistill(*asked).code == 0 and rows_of(run) == ["random:6", "full"]


def test_finished_cells_of_different_data_are_refused_and_old_ones_that_do_not_say_are_not(
    vldistill: Any, here: Here, sweep: Any, tmp_path: Path
) -> None:
    run = tmp_path / "board"
    asked = ["compare", "--config", sweep(methods=[]), "--run", run]
    assert vldistill(*asked).code == 0
    before = (run / "table.json").read_bytes()
    path = cell_file(run, "random")
    result = read_json(path, "cell")
    evaluation = result["evaluation"]
    other = {**evaluation["data"], "train": "0" * 16}
    write_record(path, {**result, "evaluation": {**evaluation, "data": other}})
    for more in ([], ["--dry_run"], ["--only", "*full*"]):
        done = vldistill(*asked, *more)
        assert done.code == 2 and "of different data" in done.err and "0" * 16 in done.err, done.err
        assert path.parent.name in done.err and cell_file(run, "full").parent.name in done.err
    assert (run / "table.json").read_bytes() == before
    write_record(path, {**result, "evaluation": {k: v for k, v in evaluation.items() if k != "data"}})
    assert vldistill(*asked).code == 0 and rows_of(run) == ["random:6", "full"]


def test_a_set_of_other_data_is_not_judged_on_these(vldistill: Any, here: Here, sweep: Any, tmp_path: Path) -> None:
    def tell(words: Sequence[str]) -> None:
        if words[0] == "evaluate":
            path = next(Path(words[words.index("--set") + 1]).glob("set.json"))
            record = read_json(path, "set")
            write_record(path, record | {"info": {**record["info"], "data": "0" * 16}})

    here.broken = tell
    done = vldistill("compare", "--config", sweep(methods=["bitraj"], targets=[]), "--run", tmp_path / "board")
    assert done.code == 4 and "distilled from other training data" in done.err


def test_the_table_is_of_all_cells_whatever_is_done_now_and_a_smoke_test_leaves_it(
    vldistill: Any, here: Here, sweep: Any, tmp_path: Path
) -> None:
    run = tmp_path / "board"
    asked = ["compare", "--config", sweep(methods=[], targets=["random", "full", "herding"]), "--run", run]
    assert vldistill(*asked, "--only", "*random*").code == 0
    done = vldistill(*asked, "--only", "*full*")
    assert done.code == 0 and rows_of(run) == ["random:6", "full"]
    assert "1 not done yet: `heads-own-herding-6" in done.out
    files = {path.name: path.read_bytes() for path in run.glob("table.*")}
    assert vldistill(*asked, "--smoke").code == 0
    assert {path.name: path.read_bytes() for path in run.glob("table.*")} == files
    assert rows_of(run / "smoke") == ["random:6", "full", "herding:6"]
    assert len(list(run.glob("cells/*"))) == 2


def test_a_target_that_was_made_anew_is_judged_anew(
    vldistill: Any, here: Here, sweep: Any, run: Path, tmp_path: Path
) -> None:
    made = run / "sets" / "bitraj-6-s0"
    asked = ["compare", "--config", sweep(methods={}, targets=[str(made)]), "--run", tmp_path / "board"]
    found = []
    for start in ("real", "noise"):
        shutil.rmtree(made, ignore_errors=True)
        assert vldistill("distill", "--run", run, "--quiet", "--start", start).code == 0
        assert vldistill(*asked).code == 0
        found.append(json.loads((tmp_path / "board" / "table.json").read_text())["rows"])
    assert [len(rows) for rows in found] == [1, 1] and found[0][0]["generic"] != found[1][0]["generic"]
    here.calls.clear()
    assert vldistill(*asked).code == 0 and not here.calls


def test_cells_that_cannot_work_are_told_before_anything_begins(
    vldistill: Any, here: Here, sweep: Any, tmp_path: Path
) -> None:
    methods = {
        "bitraj": {"options": {"bitraj.expert_epochs": 4}},
        "covmatch": {},
        "bilevel": {"options": {"distill.start": "hering"}},
    }
    asked = ["compare", "--config", sweep(methods=methods, targets=[]), "--run", tmp_path / "board"]
    plan = vldistill(*asked, "--dry_run")
    assert plan.code == 2 and not here.calls
    for words in ("segments of 4 epochs", "covmatch works in setting both", "hering"):
        assert words in plan.err
    done = vldistill(*asked)
    assert done.code == 4 and done.err.count("This cell will fail.") == 3
