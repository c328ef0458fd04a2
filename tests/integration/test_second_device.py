"""Every stage as a command on the second device: the files are those of the CPU.

Each run has a cache of its own, so that nothing encoded on one device is read by the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.device import assert_same, second_device

from tiny_bert import write_bert
from vldistill.cli import main
from vldistill.workbench import bench

pytestmark = pytest.mark.device

CONFIG = """\
data: {source: "scenes:train=24,val=8,test=8", cache: CACHE}
runtime: {precision: float32, augment: device, device: DEVICE}
encoder:
  setting: SETTING
  image: {name: convnet, weights: random, size: 16, options: {width: 8}}
  text: TEXT
  dim: 16
  lora: {patterns: ["layers.*"], rank: 2}
experts: {count: 1, epochs: 3, batch: 60}
distill: {method: METHOD, pairs: 4, iterations: 2, validate_every: 2, checkpoint_every: 1}
METHOD: {student_epochs: 2}
evaluate: {seeds: 1, trials: 1, max_steps: 6, generic_epochs: 2, head_rates: [0.1], tower_rates: [0.01]}
select: {warmup_epochs: 2}
"""
TOWERS = "wider: {image: {name: convnet, weights: random, size: 16, options: {width: 12}}}"
METHODS = {"heads": "bitraj", "lora": "bitraj", "full": "lors", "both": "covmatch"}
"""A method for each setting. All but ``heads`` are slow; every method in every setting is in tests/contract."""


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image towers in the memory format that they have on a GPU: it decides the last bit of sums."""
    build, fold = bench.build_image_tower, bench.folded
    last: Any = torch.channels_last
    monkeypatch.setattr(bench, "build_image_tower", lambda config: build(config).to(memory_format=last))
    monkeypatch.setattr(bench, "folded", lambda tower: fold(tower).to(memory_format=last))


def stages(run: Path, setting: str, device: torch.device) -> Iterator[list[str]]:
    """The commands, in order."""
    where = ["--run", str(run), "--quiet"]
    config = ["--config", str(run.parent / f"{run.name}.yaml")]
    made = str(run / "sets" / f"{METHODS[setting]}-4-s0")
    yield ["encode", *where, *config]
    if setting != "both":
        yield ["experts", *where]
    yield ["distill", *where]
    yield ["select", *where, "--select.method", "herding", "--select.pairs", "4"]
    yield ["evaluate", *where, "--set", made]
    yield ["evaluate", *where, "--set", "random:4"]
    if setting == "heads":
        yield ["cross", *where, "--set", made, "--towers", str(run.parent / "towers.yaml"), "--also", "random"]
        if device.type != "cpu":
            yield ["report", str(run), "--quiet", "--students", "always"]
    yield ["train", "--set", made, "--out", str(run / "student"), "--quiet", "--device", str(device), *config]


def run_all(folder: Path, name: str, setting: str, device: torch.device) -> Path:
    text = "{name: hashing, width: 32}"
    if setting == "both":
        text = json.dumps({"name": str(write_bert(folder / "bert")), "pooling": "mean", "max_tokens": 12})
    values = {"CACHE": str(folder / f"{name}-cache"), "DEVICE": str(device), "SETTING": setting, "TEXT": text}
    config = CONFIG
    for word, value in {**values, "METHOD": METHODS[setting]}.items():
        config = config.replace(word, value)
    (folder / f"{name}.yaml").write_text(config)
    (folder / "towers.yaml").write_text(TOWERS)
    for words in stages(folder / name, setting, device):
        assert main(words) == 0, words
    return folder / name


def tensors(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    paths = sorted(path for path in run.rglob("*.safetensors") if "checkpoint" not in path.name)
    return {path.relative_to(run).as_posix(): load_file(path) for path in paths}


def results(run: Path) -> dict[str, Any]:
    """Results by file, without what no two runs have in common."""
    found = {path.name: json.loads(path.read_text()) for path in sorted(run.glob("results/*.json"))}
    for one in found.values():
        for key in ("seconds", "peak_memory_bytes", "blake2b", "environment"):
            del one[key]
        one["details"].get("selection", {}).pop("seconds", None)
    return found


@pytest.mark.parametrize(
    "setting", [pytest.param(one, marks=() if one == "heads" else pytest.mark.slow) for one in METHODS]
)
def test_every_stage_on_the_second_device(like_a_gpu: None, setting: str, tmp_path: Path) -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wanted = run_all(tmp_path, "cpu", setting, torch.device("cpu"))
    with second_device() as second:
        found = run_all(tmp_path, "other", setting, second.device)
    assert tensors(found).keys() == tensors(wanted).keys() and len(tensors(found)) > 2
    for name, own in tensors(found).items():
        assert_same(own, tensors(wanted)[name])
    assert results(found).keys() == results(wanted).keys() and results(found)
    assert not second.exact or results(found) == results(wanted)
