"""Trackers receive what metrics.jsonl holds, once: read back from event files, offline files and a file store."""

# Each service is an extra of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import vldistill as vd
from vldistill.cli import main
from vldistill.distillation.loop import Loop

SET = "bitraj-6-s0"
DISTILL = ("--iterations", "8", "--distill.checkpoint_every", "3", "--distill.validate_every", "4", "--keep", "2")
NEEDED = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
CURVES = {"value", "val_mean_recall", "rate_image", "rate_text"}
BLOCK = 32768  # bytes, of a log of LevelDB, which W&B's offline files are

Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of trackers."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name, value in (("WANDB_ERROR_REPORTING", "false"), ("MLFLOW_DISABLE_TELEMETRY", "true")):
        monkeypatch.setenv(name, value)  # set where a tracker is opened; taken back after the test
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture(params=sorted(NEEDED))
def service(request: pytest.FixtureRequest) -> str:
    """A service whose package is installed."""
    pytest.importorskip(
        NEEDED[request.param], reason=f"{request.param} is not installed: pip install '.[{request.param}]'"
    )
    return request.param


def written(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "sets" / SET / "metrics.jsonl").read_text().splitlines()]


def curves_of(lines: Sequence[dict[str, Any]]) -> Curves:
    """The curves of the lines of a metrics.jsonl."""
    found: Curves = {}
    for line in lines:
        for name in CURVES & line.keys():
            found.setdefault(name, []).append((line["iteration"], line[name]))
    return found


def same(found: list[tuple[int, float]], expected: Sequence[tuple[int, float]]) -> bool:
    """Whether two curves have the same steps in the same order, and their values in single precision."""
    values = [value for _, value in found]
    return [step for step, _ in found] == [step for step, _ in expected] and values == pytest.approx(
        [value for _, value in expected]
    )


# --- reading back --------------------------------------------------------------------------------------------------


def read(service: str, run: Path, name: str) -> tuple[Curves, set[int]]:
    """The curves that a service keeps of a subject, and the steps of its pictures."""
    return {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}[service](run, name)


def read_tensorboard(run: Path, name: str) -> tuple[Curves, set[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = EventAccumulator(str(run / "tensorboard" / name), {"scalars": 0, "images": 0}, purge_orphaned_data=False)
    kept.Reload()
    curves = {tag: [(event.step, event.value) for event in kept.Scalars(tag)] for tag in kept.Tags()["scalars"]}
    return curves, {event.step for tag in kept.Tags()["images"] for event in kept.Images(tag)}


def read_mlflow(run: Path, name: str) -> tuple[Curves, set[int]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(run / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("vldistill")
    assert experiment is not None
    (found,) = [one for one in client.search_runs([experiment.experiment_id]) if one.info.run_name == name]
    assert found.info.status == "FINISHED" and found.data.params
    histories = {tag: client.get_metric_history(found.info.run_id, tag) for tag in found.data.metrics}
    curves = {tag: [(point.step, point.value) for point in points] for tag, points in histories.items()}
    return curves, {int(path.parent.name) for path in run.glob("mlruns/*/*/artifacts/pictures/*/*.png")}


def read_wandb(run: Path, name: str) -> tuple[Curves, set[int]]:
    from wandb.proto.wandb_internal_pb2 import Record

    curves: Curves = {}
    pictures: set[int] = set()
    identities = set()
    for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        records = [Record.FromString(raw) for raw in leveldb(path.read_bytes())]
        (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        if begun.display_name != name:
            continue
        identities.add(begun.run_id)
        for record in records:
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for tag, value in row.items():
                if tag == "preview/_type":
                    pictures.add(row["iteration"])
                elif isinstance(value, int | float) and tag != "iteration" and tag[0] != "_":
                    curves.setdefault(tag, []).append((row["iteration"], value))
    assert len(identities) == 1
    return curves, pictures


def leveldb(raw: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, behind W&B's own seven bytes."""
    place, whole = 7, b""
    while place + 7 <= len(raw):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        size, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        whole += raw[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


# --- distilling ----------------------------------------------------------------------------------------------------


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch, vldistill: Any) -> Callable[..., None]:
    """``crash(run, ...)``: a distillation that ends in a bug two iterations after its checkpoint."""
    real = Loop._accept

    def accept(loop: Any, iteration: int, update: Any) -> Any:
        if iteration == 5:
            raise AssertionError("a crash")
        return real(loop, iteration, update)

    def distill(run: Path, *words: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_accept", accept)
            assert vldistill("distill", "--run", run, *DISTILL, *words).code == 1

    return distill


@pytest.fixture(scope="module")
def straight(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distillation without a tracker that nothing stops."""
    run = Path(shutil.copytree(made, tmp_path_factory.mktemp("straight") / "run"))
    assert main(["distill", "--run", str(run), *DISTILL, "--quiet"]) == 0
    return run


def sums(run: Path) -> dict[str, str]:
    names = ("set.safetensors", "preview.png", "config.json", "../../config.yaml")
    return {name: hashlib.sha256((run / "sets" / SET / name).read_bytes()).hexdigest() for name in names}


def test_a_crashed_run_has_its_curves_and_pictures_once_and_the_same_result(
    service: str, straight: Path, vldistill: Any, run: Path, crash: Any
) -> None:
    crash(run, "--log", service)  # at iteration 5; the checkpoint is of 3
    done = vldistill("distill", "--run", run, *DISTILL, "--log", service)
    assert done.code == 0 and f"log of {SET}: " in done.err and "resuming at iteration 3" in done.err
    curves, pictures = read(service, run, SET)
    expected = curves_of(written(run))
    assert expected.keys() == CURVES and len(expected["value"]) == 8 and len(expected["val_mean_recall"]) == 3
    assert not [name for name, curve in expected.items() if not same(curves[name], curve)]
    assert set(pictures) == {2, 8} and [step for step, _ in curves["distill/peak_memory_bytes"]] == [8]
    assert sums(run) == sums(straight)


@pytest.mark.parametrize("service", ["tensorboard"], indirect=True)
def test_a_tracker_that_comes_later_has_the_whole_curve(service: str, vldistill: Any, run: Path, crash: Any) -> None:
    crash(run)
    assert vldistill("distill", "--run", run, *DISTILL, "--log", service).code == 0
    assert same(read(service, run, SET)[0]["value"], curves_of(written(run))["value"])


# --- the other stages, and Python ----------------------------------------------------------------------------------


def test_experts_and_evaluations_have_what_their_lines_hold(
    service: str, vldistill: Any, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert vldistill("experts", "--config", config, "--run", run, "--log", service).code == 0
    assert vldistill("evaluate", "--run", run, "--set", "random:6", "--log", service).code == 0
    experts, evaluation = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    curves, _ = read(service, run, "experts")
    for number, losses in enumerate(experts["losses"]):
        assert same(curves[f"losses/{number}"], list(enumerate(losses)))
    curves, _ = read(service, run, "evaluate-random-6-last")
    recall = evaluation["recalls"]["generic"]["mean_recall"]
    assert same(curves["evaluate/recalls/generic/mean_recall"], [(0, recall)])
    result = json.loads((run / "results" / "random-6.json").read_text())
    assert recall == result["generic"]["mean_recall"]["mean"]


def test_python_gives_to_several_at_once(config: Path, tmp_path: Path) -> None:
    for package in NEEDED.values():
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[{package}]'")
    run = tmp_path / "run"
    options = {"method": "bilevel", "quiet": True, "iterations": 2, "bilevel.steps": 2}
    made = vd.distill(config=config, pairs=6, run=run, log="tensorboard, mlflow", **options)
    vd.evaluate(made, log=["wandb"], quiet=True)
    for service in ("tensorboard", "mlflow"):
        assert len(read(service, run, made.name)[0]["value"]) == 2
    assert "evaluate/recalls/generic/tr1" in read("wandb", run, f"evaluate-{made.name}-last")[0]
    assert "log" not in (run / "config.yaml").read_text()


# --- refusals ------------------------------------------------------------------------------------------------------


def test_an_unknown_tracker_and_a_missing_package_are_refused_before_anything_is_done(
    vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", "--config", config, "--run", tmp_path / "run", "--method", "bilevel", "--log")
    done = vldistill(*words, "tensorbord")
    assert done.code == 2 and "unknown tracker 'tensorbord'. Did you mean tensorboard?" in done.err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = vldistill(*words, "wandb")
    assert done.code == 2 and 'pip install "vldistill[wandb]"' in done.err
    with pytest.raises(vd.VldistillError, match=r'pip install "vldistill\[mlflow\]"'):
        vd.distill(config=config, run=tmp_path / "run", log="mlflow", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_called_wandb_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vldistill.tracking.services.tensor_board import TensorBoard
    from vldistill.tracking.tracker import Service

    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(vd.VldistillError, match="needs the package only_a_folder"):
        Service("it", "only_a_folder", TensorBoard).check()


def test_a_tracker_that_cannot_be_opened_is_refused_and_one_that_breaks_is_left_out(
    vldistill: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install '.[tensorboard]'")
    from vldistill.tracking.services.tensor_board import TensorBoard

    (run / "tensorboard").write_text("a file in its place")
    done = vldistill("distill", "--run", run, *DISTILL, "--log", "tensorboard")
    assert done.code == 2 and "--log tensorboard cannot be opened (" in done.err
    (run / "tensorboard").unlink()
    real, given = TensorBoard.metrics, 0

    def full(tracker: Any, step: int, values: Any) -> None:
        nonlocal given
        given += 1
        if given == 4:
            raise OSError(28, "No space left on device")
        real(tracker, step, values)

    monkeypatch.setattr(TensorBoard, "metrics", full)
    done = vldistill("distill", "--run", run, *DISTILL, "--log", "tensorboard")
    assert done.code == 0 and done.err.count("tensorboard receives nothing more of this run: OSError") == 1
    assert given == 4 and len(written(run)) == 11
