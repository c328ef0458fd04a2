"""Which layers get adapters, how many numbers are trained, and setting ``lora`` from experts to a judged set."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from vldistill.config import DistillConfig, EvaluateConfig, ExpertsConfig, ImageTowerConfig, LoraConfig
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.start import make_start
from vldistill.encoders.build import build_image_tower
from vldistill.encoders.dual import Head
from vldistill.encoders.lora import adapter_targets, add_adapters
from vldistill.encoders.tower import ImageTower
from vldistill.errors import ConfigError
from vldistill.evaluation.protocol import evaluate_set
from vldistill.experts.record import record_experts
from vldistill.options.resolve import resolve_distill

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

DEFAULT = LoraConfig().patterns
VIT = ImageTowerConfig(
    "vit_tiny_patch16_224",
    "random",
    options={"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2},
)
BERT_WIDTH = 768


def empty(name: str) -> ImageTower:
    """A tower of the real size without numbers."""
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=0)
    return ImageTower(model, name, int(model.num_features), 224, (0.5,) * 3, (0.5,) * 3)


def count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("name", "share", "adapters"),
    [
        # per block and rank: qkv d + 3d, proj 2d, fc1 and fc2 5d each
        ("vit_tiny_patch16_224", 0.10, 12 * 8 * 16 * 192),
        ("vit_base_patch16_224", 0.03, 12 * 8 * 16 * 768),
        ("vit_base_patch32_clip_224", 0.03, 12 * 8 * 16 * 768),
    ],
)
def test_adapters_and_text_head_are_a_small_part_of_the_tower(name: str, share: float, adapters: int):
    tower = empty(name)
    whole = count(tower.parameters())
    add_adapters(tower, DEFAULT, 8, 16.0)
    trained = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    assert count(trained) == adapters
    assert count(trained) + count(Head(BERT_WIDTH, tower.width).parameters()) < share * whole


def test_patterns_are_of_the_full_path():
    model = empty("vit_tiny_patch16_224").model
    found = adapter_targets(model, DEFAULT)
    assert len(found) == 48 and found[0] == "blocks.0.attn.qkv" and "patch_embed.proj" not in found
    assert adapter_targets(model, ["attn.proj"]) == [f"blocks.{block}.attn.proj" for block in range(12)]
    assert adapter_targets(model, ["proj"])[0] == "patch_embed.proj"
    assert adapter_targets(model, ["blocks.1?.mlp.*"]) == [f"blocks.{b}.mlp.fc{n}" for b in (10, 11) for n in (1, 2)]
    assert adapter_targets(model, ["patch_embed.proj"]) == ["patch_embed.proj"]  # exactly this one, and only it
    with pytest.raises(ConfigError, match=r"\['tn.proj'\] match no linear layer"):
        adapter_targets(model, ["tn.proj"])


def test_only_the_layers_meant_are_changed():
    tower = build_image_tower(VIT)
    before = {name: type(module) for name, module in tower.model.named_modules()}
    add_adapters(tower, ["blocks.1.attn.proj"], 2, 4.0)
    after = dict(tower.model.named_modules())
    changed = [name for name, kind in before.items() if type(after[name]) is not kind]
    assert changed == ["blocks.1.attn.proj"]
    named = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    assert named == [f"model.blocks.1.attn.proj.lora_{part}.default.weight" for part in "AB"]


@pytest.mark.parametrize(
    ("name", "patterns", "message"),
    [
        ("resnet18", DEFAULT, r"\['attn.qkv', .*It has: conv1, layer1\.\*\.conv1 \(2\).*--encoder.lora.patterns '\["),
        ("mobilenetv2_035", ["conv_pw", "conv_pwx"], r"\['conv_pwx'\] match no.*blocks\.\*\.\*\.conv_dw \(1"),
        ("mobilenetv2_035", ["conv_dw"], r"'blocks\.0\.0\.conv_dw', a grouped convolution.*merged.*Leave it out"),
        ("convnet", ["attn.proj"], r"It has: layers\.\* \(3\)"),
    ],
)
def test_patterns_that_cannot_be_meant(name: str, patterns: list[str], message: str):
    tower = build_image_tower(ImageTowerConfig(name, "random", 32))
    with pytest.raises(ConfigError, match=message):
        adapter_targets(tower.model, patterns)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "mobilenetv2_035", "convnet"])
def test_the_pattern_that_an_error_proposes_can_be_used(name: str):
    model = (
        empty(name).model if name.startswith("vit") else build_image_tower(ImageTowerConfig(name, "random", 32)).model
    )
    with pytest.raises(ConfigError) as refused:
        adapter_targets(model, ["attn.query"])
    proposed = str(refused.value).rpartition("'[")[2].partition("]'")[0]
    assert (targets := adapter_targets(model, [proposed])) and "patch_embed.proj" not in targets


def test_layers_that_cannot_carry_an_adapter():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2)
            self.wide = nn.Conv2d(3, 3, 3, dilation=2)

    with pytest.raises(ConfigError, match=r"'attn.out_proj', whose weight torch's attention uses.*no effect"):
        adapter_targets(Attention(), ["out_proj"])
    with pytest.raises(ConfigError, match="a dilated convolution"):
        adapter_targets(Attention(), ["wide"])


def test_what_is_trained_and_what_decides_the_fingerprint(workbench: Bench):
    bench = workbench("lora", image=VIT)
    student = bench.student(3)
    named = student.trained()
    assert len(named["image"]) == 2 * 4 * 2 and all(".lora_" in name for name in named["image"])
    assert sorted(named["text"]) == sorted(dict(student.text.named_parameters()))
    assert bench.embedding_width == 12
    again, other = bench.student(3).trained()["image"], bench.student(4).trained()["image"]
    assert all(torch.equal(again[name], tensor) for name, tensor in named["image"].items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in named["image"].items())
    assert not any("lora" in name for name, _ in bench.image_tower.named_modules())  # the tower itself stays plain
    prints = {
        workbench("lora", image=VIT, lora=lora).fingerprint
        for lora in (LoraConfig(), LoraConfig(rank=4), LoraConfig(alpha=8.0), LoraConfig(("attn.qkv",)))
    }
    assert len(prints) == 4 and workbench("lora", image=VIT).fingerprint in prints
    assert workbench("full", image=VIT).fingerprint not in prints
    rank = workbench("full", image=VIT, lora=LoraConfig(rank=4)).fingerprint
    assert rank == workbench("full", image=VIT).fingerprint  # adapters mean nothing in other settings


def test_towers_without_the_named_layers_are_refused_early(workbench: Bench):
    with pytest.raises(ConfigError, match="match no linear layer or convolution"):
        workbench("lora").check_towers()


LORA = {
    "vit": (VIT, LoraConfig(rank=2, alpha=4.0)),
    "convnet": (ImageTowerConfig("convnet", "random", 16, {"width": 8}), LoraConfig(("layers.*",), 2, 4.0)),
}


@pytest.mark.parametrize("kind", LORA)
@pytest.mark.parametrize("method", ["bitraj", "bilevel"])
def test_from_experts_to_a_judged_set(kind: str, method: str, workbench: Bench, tmp_path: Path):
    image, lora = LORA[kind]
    bench = workbench("lora", image=image, lora=lora)
    frozen = copy.deepcopy(bench.image_tower.state_dict())
    config = ExpertsConfig(count=1, epochs=2, batch=20, augment=False)
    experts = record_experts(bench, config, tmp_path) if method == "bitraj" else []
    for expert in experts:
        begin, target = expert.segment(0, 2)
        assert all(".lora_" in name for name in begin["image"])
        moved = [name for name, tensor in begin["image"].items() if not torch.equal(tensor, target["image"][name])]
        assert len(moved) == len(begin["image"])
    entry = METHODS.find(method)
    small = {"syn_steps": 2, "student_epochs": 2} if method == "bitraj" else {"steps": 2, "real_batch": 8}
    settings = DistillConfig(method=method, pairs=4)
    context = Context(bench, resolve_distill(settings, bench.setting), entry.options(**small), experts)
    built: Any = entry.build()
    built.check(context)
    state = built.setup(make_start(bench, "real", 4, 0), context)
    found: dict[str, Any] = {
        estimator: built.step(state, replace(context, options=replace(context.options, estimator=estimator)))
        for estimator in ("adjoint", "unrolled")
    }
    for name, gradient in found["adjoint"].gradients.items():
        other = found["unrolled"].gradients[name]
        assert float(gradient.norm()) > 0, name
        torch.testing.assert_close(gradient, other, rtol=1e-2, atol=1e-3 * float(other.abs().max()))
    distilled = built.export(state, context)
    assert distilled.setting == "lora" and distilled.info["config"]["encoder"]["lora"]["rank"] == 2
    judging = EvaluateConfig(generic="generic-v1", seeds=1, generic_epochs=1, head_rates=(0.1,), tower_rates=(0.01,))
    result = evaluate_set(bench, distilled, judging)
    assert result.setting == "lora" and result.scores()["own"].mean_recall.mean >= 0
    after = bench.image_tower.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())
