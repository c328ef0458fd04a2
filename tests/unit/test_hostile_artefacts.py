"""Sets, experts and arrays that others made, changed by chance: each is read, or refused by an error of ours.

A handful of cases each time; ``-m slow`` runs 10,000 of each.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from benchmark_scripts import benchmark
from vldistill.commands.inspect import describe
from vldistill.config.plain_yaml import parse_yaml
from vldistill.data.load import load_pairs, source_summary
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError, VldistillError
from vldistill.experts.note import ExpertNote
from vldistill.experts.trajectory import Trajectory, save_trajectory
from vldistill.options.merge import resolved
from vldistill.reporting.records import read_run
from vldistill.runtime.log import Reporter
from vldistill.storage.arrays import open_array
from vldistill.storage.files import read_json

small_set: Callable[[], DistilledSet] = benchmark("fuzz_targets").small_set
holders: Callable[[Any], list[Any]] = benchmark("fuzz").holders

FEW, MANY = 25, 10_000
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}

TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["../../x", "/etc/passwd", "\0", "a\nb", "<b>", "x" * 5000]))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([10**400, -1, 2**63, 1e308])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def changed(draw: st.DataObject, value: Any) -> Any:
    """``value`` with one place of it replaced by anything, or gone."""
    holder = draw.draw(st.sampled_from(holders(value)), "holder")
    key = draw.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))), "key")
    if draw.draw(st.booleans(), "gone"):
        del holder[key]
    else:
        holder[key] = draw.draw(VALUES, "value")
    return value


def as_json(value: Any) -> str:
    """JSON as anybody may write it: half surrogates, infinities and numbers of any length."""
    text = json.dumps(value, default=str)
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def try_set_record(draw: st.DataObject, folder: Path) -> None:
    small_set().save(folder)
    record = changed(draw, read_json(folder / "set.json", "set"))
    (folder / "set.json").write_text(as_json(record))
    found = DistilledSet.load(folder)
    assert found.stored_floats > 0 and found.pixels().shape == (3, 3, 2, 2)
    assert (folder / "results" / f"{found.name}.json").resolve().parent == (folder / "results").resolve()
    found.save(folder / "again")


def try_set_tensors(draw: st.DataObject, folder: Path) -> None:
    small_set().save(folder)
    path = folder / "set.safetensors"
    raw = damaged(draw, path.read_bytes())
    path.write_bytes(raw)
    record = read_json(folder / "set.json", "set") | {"sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "set.json").write_text(json.dumps(record))
    found = DistilledSet.load(folder)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.tensors().values())


def damaged(draw: st.DataObject, raw: bytes) -> bytes:
    """Bytes cut, overwritten or grown somewhere."""
    place = draw.draw(st.integers(0, len(raw) - 1), "place")
    new = draw.draw(st.binary(max_size=9), "new")
    match draw.draw(st.sampled_from(["cut", "write", "insert"]), "action"):
        case "cut":
            return raw[:place]
        case "write":
            return raw[:place] + new + raw[place + len(new) :]
        case _:
            return raw[:place] + new + raw[place:]


def try_trajectory(draw: st.DataObject, folder: Path) -> None:
    path = folder / "expert-000.safetensors"
    snapshots = {epoch: {side: {"w": torch.zeros(2)} for side in ("image", "text")} for epoch in range(2)}
    note = ExpertNote(
        index=0, losses=(1.0, 0.5), setting="heads", encoder="e", data="d", dtype="float32", snapshots=(0, 1)
    )
    if draw.draw(st.booleans(), "damage"):
        save_trajectory(path, snapshots, note, "float32")
        path.write_bytes(damaged(draw, path.read_bytes()))
    else:
        text = as_json(changed(draw, {"format": 1, **note.to_record()}))
        tensors = {f"{e}/{s}/{n}": t for e, g in snapshots.items() for s, p in g.items() for n, t in p.items()}
        path.write_bytes(save(tensors, {"vldistill.trajectory": text}))
    describe(str(folder), Reporter(quiet=True))
    expert = Trajectory(path)
    for epoch in expert.epochs:
        expert.snapshot(epoch)


def try_array(draw: st.DataObject, folder: Path) -> None:
    path = folder / "x.npy"
    np.save(path, np.arange(12, dtype=np.float32).reshape(3, 4))
    path.write_bytes(damaged(draw, path.read_bytes()))
    assert isinstance(open_array(path, "features").tobytes(), bytes)


def try_karpathy(draw: st.DataObject, folder: Path) -> None:
    images = [{"filename": f"{i}.jpg", "split": s, "sentences": [{"raw": "a"}]} for i, s in enumerate(("train", "val"))]
    (folder / "0.jpg").write_bytes(b"x")
    (folder / "dataset.json").write_text(as_json(changed(draw, {"images": images})))
    for split in source_summary(folder)["splits"]:
        load_pairs(folder, split)


def try_blip(draw: st.DataObject, folder: Path) -> None:
    (folder / "0.jpg").write_bytes(b"x")
    records = changed(draw, [{"image": "0.jpg", "caption": "a", "image_id": 1}, {"image": "0.jpg", "caption": "b"}])
    (folder / "x_train.json").write_text(as_json(records))
    for split in source_summary(folder)["splits"]:
        load_pairs(folder, split)


def try_json_bytes(draw: st.DataObject, folder: Path) -> None:
    raw = json.dumps({"images": [{"filename": "é.jpg", "split": "train", "sentences": [{"raw": "a"}]}]}).encode()
    (folder / "é.jpg").write_bytes(b"x")
    (folder / "dataset.json").write_bytes(damaged(draw, raw))
    load_pairs(folder, "train")


def try_options(draw: st.DataObject, folder: Path) -> None:
    options = {"encoder": {"setting": "full", "image": {"name": "convnet", "mean": [0.5, 0.5, 0.5], "options": {}}}}
    options |= {"distill": {"pairs": 5, "augment": ["flip"]}, "data": {"source": "scenes", "strict": True}}
    text = as_json(changed(draw, options))
    try:
        read = parse_yaml(text)
    except Exception as error:
        from yaml import YAMLError

        assert isinstance(error, ValueError | YAMLError)
        return
    if isinstance(read, dict):
        resolved(read, "here")


def try_results(draw: st.DataObject, folder: Path) -> None:
    figures = {name: {"mean": 1.0, "std": 0.1} for name in ("mean_recall", "tr1", "ir1")}
    result = {"set": "x", "pairs": 3, "stored_floats": 5, "setting": "heads", "protocol": "last", "generic": figures}
    result |= {"chance": {"mean_recall": 1.0}, "environment": {"command": "x"}, "row": "x", "seconds": 1}
    (folder / "config.yaml").write_text("data: {source: scenes}\n")
    (folder / "results").mkdir()
    text = as_json(changed(draw, [result, dict(result)]))
    for name in ("results/x.json", "env.json", "metrics.jsonl"):
        (folder / name).write_text(text)
    assert read_run(folder, "run").name == "run"


CASES: dict[str, Callable[[st.DataObject, Path], None]] = {
    name.removeprefix("try_"): value for name, value in list(globals().items()) if name.startswith("try_")
}


def run_cases(name: str, count: int) -> dict[str, int]:
    """``count`` cases; how they ended. Anything but a result or an error of ours fails."""
    ended: dict[str, int] = {}

    @settings(max_examples=count, **QUIET)
    @given(st.data())
    def case(draw: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                CASES[name](draw, Path(folder))
                end = "result"
            except VldistillError as error:
                assert str(error)
                end = type(error).__name__
        ended[end] = ended.get(end, 0) + 1

    case()
    return ended


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_read_or_refused(name: str):
    assert sum(run_cases(name, FEW).values()) >= FEW // 2


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ten_thousand_cases_are_read_or_refused(name: str):
    ended = run_cases(name, MANY)
    print(name, ended)
    assert ended.get("result", 0) > 0


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", ".", "a/b", "a\\b", "a\nb", "", "x" * 300, 5, ["x"], "<b>", "a|b"]
)
def test_a_set_cannot_be_named_out_of_the_results_folder(name: object, tmp_path: Path):
    small_set().save(tmp_path)
    record = read_json(tmp_path / "set.json", "set")
    record["info"]["name"] = name
    (tmp_path / "set.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=r"info\.name is .* results are written under it"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + bytes(60), b"\x80\x04.", b"", b"\x93NUMPY\x01\x00\x10\x00{((((((((((((((("]
)
def test_an_array_is_never_taken_for_something_else(content: bytes, tmp_path: Path):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"x\.npy cannot be read"):
        open_array(tmp_path / "x.npy", "features")
