"""The configurations of the founding paper: valid as they are, and each runs shrunken on drawn scenes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vldistill.cli import COMMANDS, find_command
from vldistill.cluster import UnitFailed
from vldistill.cluster.commands import Commands
from vldistill.comparison.matrix import OWN, read_towers
from vldistill.comparison.smoke import shrunken
from vldistill.comparison.sweepfile import read_sweep
from vldistill.errors import VldistillError
from vldistill.options.words import parse
from vldistill.workbench.run_folder import to_plain, write_config

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "src" / "vldistill" / "configs" / "paper"
FIRST = {path.name: path.read_text().splitlines()[0] for path in sorted(PAPER.glob("*.yaml"))}
SWEEPS = [name for name, line in FIRST.items() if " compare " in line]
RUNS = [name for name, line in FIRST.items() if " experts " in line]


def slow_but(names: Sequence[str], *quick: str) -> list[Any]:
    """All are read by every run of the tests; these are run shrunken there, the others by ``-m slow``."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def test_every_configuration_starts_with_the_command_that_runs_it() -> None:
    assert len(SWEEPS) == 9 and len(RUNS) == 3 and len(FIRST) == 13
    for name, line in FIRST.items():
        assert re.fullmatch(r"# vldistill (experts|compare|cross) .*", line) and f"configs/paper/{name}" in line


def test_published_values_stand_in_the_base() -> None:
    config, _ = parse("experts", ["--config", "configs/paper/flickr30k.yaml", "--run", "runs/any"])
    assert (config.experts.count, config.experts.epochs, config.experts.batch) == (20, 10, 128)
    assert (config.experts.image_rate, config.experts.text_rate, config.experts.momentum) == (0.1, 0.1, 0)
    distill = config.distill
    assert (distill.optimiser, distill.momentum, distill.image_lr, distill.text_lr) == ("sgd", 0.5, 1000, 1000)
    assert (distill.student_rate_image, distill.rate_lr, distill.iterations) == (0.1, 0.01, 2000)
    assert distill.decay == "none"
    options = config.methods["bitraj"]
    assert (options.syn_steps, options.expert_epochs, options.max_start_epoch) == (8, 1, 2)
    assert (options.student_epochs, options.student_batch, config.evaluate.seeds) == (50, 64, 5)
    coco, _ = parse("experts", ["--config", "configs/paper/coco.yaml", "--run", "runs/any"])
    assert coco.distill == config.distill and coco.experts == config.experts and coco.data != config.data
    pictures, _ = parse("experts", ["--config", "configs/paper/flickr30k_pictures.yaml", "--run", "runs/any"])
    own = replace(config.distill, iterations=7000, image_lr=5000.0, keep=(0, 2000, 7000))
    assert pictures == replace(config, distill=own)


SGD = {"optimiser": "sgd", "decay": "none", "momentum": 0.5, "student_rate_image": 0.1, "student_rate_text": 0.1}
SOFT = SGD | {"rate_lr": 0.01, "similarity_lr": 10, "pairs": 99, "iterations": 3000, "image_lr": 100, "text_lr": 100}
LOW_RANK = {
    "similarity": "lowrank", "rank": 10, "alpha": 3, "loss": "wbce", "syn_steps": 8, "expert_epochs": 1,
    "minibatch": 20, "estimator": "tesla", "reduce": "sum_of_ratios", "student_epochs": 100, "student_batch": 128,
    "max_start_epoch": 2,
}  # fmt: skip
SUCCESSORS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lors": ("full", SOFT, LOW_RANK),
    "repblend": ("heads", SOFT, LOW_RANK | {"beta": 1}),
    "mdm": (
        "full",
        SGD | {"pairs": 100, "start": "kmeans", "clip": 1.0, "iterations": 3000, "image_lr": 100, "text_lr": 100},
        {"merge": 0.5, "matching": 0.8, "sigma": 0.5, "minibatch": 64, "first_epoch": 1, "last_epoch": 10},
    ),
    "ptm": (
        "full",
        SOFT | {"pairs": 499, "ema": 0.99, "iterations": 4000, "image_lr": 1000, "text_lr": 1000},
        {"subsets": (200, 299), "first_starts": (0, 1), "last_starts": (2, 3), "straighten": (6, 8), "loss": "wbce",
         "similarity": "full", "estimator": "tesla", "syn_steps": 8, "expert_epochs": 1},
    ),
    "covmatch": (
        "both",
        {"optimiser": "sgd", "momentum": 0.5, "image_lr": 1.0, "text_lr": 1.0, "pairs": 100, "iterations": 10000},
        {"rho": 2, "matching": 0.1, "reset": 50, "tower_rate": 0.01, "head_rate": 0.1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", SUCCESSORS)
def test_published_values_stand_in_the_configurations_of_the_successors(method: str) -> None:
    path = f"configs/{method}_flickr30k.yaml"
    config, _ = parse("distill", ["--config", path, "--run", "runs/any"])
    setting, distill, options = SUCCESSORS[method]
    assert (config.encoder.setting, config.encoder.temperature, config.distill.method) == (setting, 0.07, method)
    assert {name: getattr(config.distill, name) for name in distill} == distill
    assert {name: getattr(config.methods[method], name) for name in options} == options


@pytest.mark.parametrize("name", ["lora.yaml", "main.yaml", "modality.yaml", "start.yaml"])
def test_a_sweep_of_flickr8k_is_valid_and_says_how_it_is_run(name: str) -> None:
    path = PAPER.parent / "flickr8k" / name
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# vldistill compare --config configs/flickr8k/{path.name} --run ")
    cells = read_sweep(path).cells()
    assert any(cell.needs_experts for cell in cells) and any(cell.name.startswith("random:") for cell in cells)


def test_the_other_tower_of_flickr8k_differs_in_its_name_and_weights_alone() -> None:
    config, _ = parse("cross", ["--config", "configs/flickr8k_heads.yaml", "--run", "runs/any"])
    own, other = read_towers(PAPER.parent / "flickr8k" / "cross.yaml", config).values()
    same = replace(own.encoder.image, name=other.encoder.image.name, weights=other.encoder.image.weights)
    assert other.encoder.image == same and other.encoder.image.name == "mobilenetv2_035"


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_valid_as_it_stands(name: str) -> None:
    cells = read_sweep(PAPER / name).cells()
    assert len(cells) >= 5 and any(cell.needs_experts for cell in cells)
    assert {cell.name for cell in cells} >= {"random:100", "full", "bitraj"}
    if name == "figure1.yaml":
        assert {cell.data for cell in cells} == {"digits", "shapes", "flickr8k"}
        return
    source = "${VLDISTILL_COCO:-data/coco}" if "coco" in name else "${VLDISTILL_FLICKR30K:-data/flickr30k}"
    assert {cell.configs[0].data.source for cell in cells} == {source}


def test_bases_of_the_figure_take_no_more_floats_than_what_they_stand_for() -> None:
    cells = [cell for cell in read_sweep(PAPER / "figure1.yaml").cells() if cell.configs[0].distill.bases]
    sizes = {"digits": (32, 512, 3072, 4), "shapes": (32, 512, 3072, 4), "flickr8k": (128, 384, 12288, 2)}
    assert len(cells) == 2 * 2 * 3
    for cell in cells:
        side, width, pixels, more = sizes[cell.data]
        distill, pairs = cell.configs[0].distill, cell.pairs or 0
        instead = {240: 80, 300: 100}.get(pairs, pairs // more)  # pairs of the budget
        base = 3 * (side // distill.base_scale) ** 2 + (width if distill.base_texts else 0)
        floats = distill.bases * (base + pairs) + (0 if distill.base_texts else pairs * width)
        assert 0.95 < floats / (instead * (pixels + width)) <= 1, cell.id


def in_process(commands: Commands, words: Sequence[str], log: Path) -> None:
    try:
        find_command(words[0])([*words[1:], "--quiet"])
    except VldistillError as error:
        raise UnitFailed(str(error), "refused") from None


def smoke(vldistill: Any, name: str, run: Path, only: str) -> None:
    done = vldistill("compare", "--config", PAPER / name, "--run", run, "--smoke", "--only", only, "--quiet")
    assert done.code == 0 and not json.loads((run / "smoke" / "table.json").read_text())["failed"], done.err


@pytest.mark.parametrize("name", slow_but(SWEEPS, "flickr30k_main.yaml", "flickr30k_lora.yaml"))
def test_a_sweep_runs_shrunken(vldistill: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Commands, "launch", in_process)
    methods = [cell for cell in read_sweep(PAPER / name).shrunk().cells() if cell.kind == "method"]
    smoke(vldistill, name, tmp_path, methods[-1].id)
    table = json.loads((tmp_path / "smoke" / "table.json").read_text())
    assert [row["row"] for row in table["rows"]] == [methods[-1].row]


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_runs_shrunken_in_every_cell(
    vldistill: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Commands, "launch", in_process)
    smoke(vldistill, name, tmp_path, "*")


@pytest.mark.parametrize("name", slow_but(RUNS, "flickr30k.yaml"))
def test_a_run_runs_shrunken_from_experts_to_a_matrix(vldistill: Any, name: str, tmp_path: Path) -> None:
    config, _ = parse("experts", ["--config", str(PAPER / name), "--run", "runs/any"])
    small, run = write_config(tmp_path / "small.yaml", shrunken(config)), tmp_path / "run"
    assert vldistill("experts", "--config", small, "--run", run, "--dry_run").code == 0
    assert vldistill("experts", "--config", small, "--run", run, "--quiet").code == 0
    assert vldistill("distill", "--run", run, "--quiet", "--keep", "0,2").code == 0
    made = run / "sets" / "bitraj-6-s0"
    assert (made / "kept" / "iteration-2" / "preview.png").exists()
    if name == "flickr30k.yaml":
        towers = tmp_path / "towers.yaml"  # those of the paper's table, as small
        columns = read_towers(PAPER / "flickr30k_cross.yaml", config)
        encoders = {name: to_plain(shrunken(column))["encoder"] for name, column in columns.items() if name != OWN}
        towers.write_text(yaml.safe_dump(encoders))
        done = vldistill("cross", "--run", run, "--set", made, "--towers", towers, "--also", "--quiet")
        assert done.code == 0 and "nf_regnet" in done.out, done.err
        assert "distilbert: convnet and hashing; the set's texts by a ridge map" in done.out


def test_the_towers_of_the_cross_table_are_valid() -> None:
    config, _ = parse("experts", ["--config", "configs/paper/flickr30k.yaml", "--run", "runs/any"])
    columns = read_towers(PAPER / "flickr30k_cross.yaml", config)
    assert list(columns) == ["own", "nf_resnet50", "nf_regnet", "vit_tiny", "distilbert"]
    assert columns["nf_regnet"].encoder.text == config.encoder.text
    assert columns["distilbert"].encoder.image == config.encoder.image


def test_the_map_of_the_paper_names_files_and_commands_that_exist() -> None:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    for name in FIRST:
        assert f"configs/paper/{name}" in text, name
    for path in re.findall(r"`(src/vldistill/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for stage in set(re.findall(r"`vldistill (\w+)", text)):
        assert stage in COMMANDS, stage
    for command in re.findall(r"--config (configs/[\w/]+\.yaml)", text):
        assert yaml.safe_load((ROOT / "src" / "vldistill" / command).read_text())
