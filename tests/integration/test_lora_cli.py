"""Setting lora, one learned side and BLIP-style lists through the commands, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vldistill.distilled.distilled_set import DistilledSet
from vldistill.experts.trajectory import Trajectory
from vldistill.storage.files import read_json

CONFIG = """\
data: {source: "scenes:train=12,val=6,test=6"}
encoder:
  setting: lora
  image:
    name: vit_tiny_patch16_224
    weights: random
    options: {img_size: 16, patch_size: 8, embed_dim: 12, depth: 1, num_heads: 2}
  text: {name: hashing, width: 16}
  lora: {rank: 2}
experts: {count: 2, epochs: 2, batch: 12, augment: false}
distill: {pairs: 3, iterations: 2, validate_every: 2}
bitraj: {syn_steps: 2, student_epochs: 2}
bilevel: {steps: 2, real_batch: 4}
evaluate: {seeds: 1, trials: 1, max_steps: 2, generic_epochs: 1, head_rates: [0.1], tower_rates: [0.01]}
"""


def test_experts_distil_evaluate_with_adapters(vldistill: Any, tmp_path: Path) -> None:
    (tmp_path / "lora.yaml").write_text(CONFIG)
    run = tmp_path / "run"
    done = vldistill("experts", "--config", tmp_path / "lora.yaml", "--run", run)
    assert done.code == 0, done.err
    expert = Trajectory(run / "experts" / "expert-000.safetensors")
    assert expert.note.setting == "lora"
    assert all(".lora_" in name for name in expert.snapshot(0)["image"])
    again = vldistill("experts", "--run", run)
    assert again.code == 0 and "2 experts" in again.err + again.out
    for words in (["--method", "bitraj"], ["--method", "bilevel"]):
        done = vldistill("distill", "--run", run, *words)
        assert done.code == 0, done.err
    done = vldistill("distill", "--run", run, "--method", "bitraj", "--learn", "image", "--label", "image-only",
                     "--distill.start_text", "herding", "--distill.experts", "1")  # fmt: skip
    assert done.code == 0, done.err
    note = run / "sets" / "bitraj-3-s0" / "config.json"  # as a set begun before these options existed
    old = read_json(note, "set configuration")
    for name in ("learn", "label", "start_image", "experts"):
        del old["distill"][name]
    note.write_text(json.dumps(old))
    assert "finished already" in vldistill("distill", "--run", run, "--method", "bitraj").err
    differing = vldistill("distill", "--run", run, "--method", "bitraj", "--learn", "text")
    assert differing.code == 2 and "distill.learn: 'both' there, 'text' requested" in differing.err
    names = sorted(path.name for path in (run / "sets").iterdir())
    assert names == ["bilevel-3-s0", "bitraj-3-s0", "bitraj-3-s0-image-only"]
    made = DistilledSet.load(run / "sets" / "bitraj-3-s0-image-only")
    assert made.setting == "lora" and made.info["config"]["distill"]["learn"] == "image"
    done = vldistill("evaluate", "--run", run, "--set", run / "sets" / "bitraj-3-s0-image-only", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["setting"] == "lora"
    other = vldistill("evaluate", "--run", run, "--set", "random:3", "--encoder.lora.rank", "4")
    assert other.code == 2 and "encoder.lora.rank: 2 in the run, 4 requested" in other.err


def test_patterns_can_be_typed_with_commas_and_wrong_ones_stop_before_a_run_is_made(
    vldistill: Any, tmp_path: Path
) -> None:
    (tmp_path / "lora.yaml").write_text(CONFIG)
    words = ["experts", "--config", tmp_path / "lora.yaml", "--run", tmp_path / "run"]
    done = vldistill(*words, "--encoder.lora.patterns", "attn.qkv,attn.prj")
    assert done.code == 2
    assert "encoder.lora.patterns ['attn.prj'] match no linear layer" in done.err and "blocks.*.attn.qkv" in done.err
    assert not (tmp_path / "run").exists()


def test_settings_and_readers_are_listed(vldistill: Any) -> None:
    assert "low-rank adapters" in vldistill("ls", "settings").out
    assert "NAME_train.json" in vldistill("ls", "readers").out
    towers = vldistill("ls", "towers").out
    assert "resnet18_gn" in towers and "open_clip:MODEL" in towers


@pytest.mark.parametrize("stage", ["experts", "distill"])
def test_adapters_and_ablations_are_in_the_help(vldistill: Any, stage: str) -> None:
    said = " ".join(vldistill(stage, "--help", "all").out.split())
    for option in ("--encoder.lora.patterns", "--encoder.lora.rank", "--distill.learn", "--distill.start_image"):
        assert option in said
