"""Adapters: the gradient through them, and merging them into the weights, against the same thing done another way."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from towers import make_problem, outputs, relative_error

from vldistill.config import ImageTowerConfig
from vldistill.encoders.build import build_image_tower
from vldistill.encoders.lora import add_adapters, merge_adapters
from vldistill.encoders.tower import ImageTower

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}
NFNET = {"depths": [1, 1, 1, 1], "channels": [16, 16, 32, 32], "stem_type": "3x3", "num_features": 0}
TOWERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "vit": ("vit_tiny_patch16_224", VIT, ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}, ("conv1", "conv2")),
    "same_padding": ("mobilenetv2_035", {"pad_type": "same"}, ("conv_stem", "conv_pw")),
    "standardised": ("nf_resnet50", NFNET, ("conv1", "conv2", "conv3")),
    "standardised_same": ("dm_nfnet_f0", NFNET | {"group_size": 8, "stem_type": "deep"}, ("stem.conv*", "conv3")),
}


def adapted(kind: str, zero: bool = False) -> tuple[ImageTower, ImageTower]:
    """A tower in float64 as it was built, and with adapters of rank 2; B is not zero unless ``zero``."""
    name, options, patterns = TOWERS[kind]
    plain = build_image_tower(ImageTowerConfig(name, "random", 0 if kind == "vit" else 16, options))
    plain = plain.double().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tower = add_adapters(copy.deepcopy(plain), patterns, 2, 3.0)
        for parameter_name, parameter in tower.named_parameters():
            if ".lora_B." in parameter_name and not zero:
                nn.init.normal_(parameter, 0.0, 0.3)
    return plain, tower


def trained(tower: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in tower.named_parameters() if p.requires_grad}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", TOWERS)
@torch.no_grad()
def test_fresh_adapters_change_nothing_and_merged_ones_compute_the_same(kind: str, images: Tensor) -> None:
    images = images[..., :8, :8] if kind == "vit" else images
    plain, fresh = adapted(kind, zero=True)
    assert relative_error(fresh(images), plain(images)) < 1e-12
    _, tower = adapted(kind)
    moved = tower(images)
    assert relative_error(moved, plain(images)) > 1e-3
    merged = merge_adapters(tower)
    assert relative_error(merged(images), moved) < 1e-12
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert not any(parameter.requires_grad for parameter in merged.parameters())
    assert relative_error(tower(images), moved) == 0  # the tower itself still has its adapters


@torch.no_grad()
def test_a_merged_linear_layer_is_the_weight_plus_the_scaled_product() -> None:
    plain, tower = adapted("vit")
    before, after = plain.state_dict(), merge_adapters(tower).state_dict()
    assert before.keys() == after.keys()
    own = dict(tower.named_parameters())
    for block in (0, 1):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            path = f"model.blocks.{block}.{layer}"
            product = own[f"{path}.lora_B.default.weight"] @ own[f"{path}.lora_A.default.weight"]
            expected = before[f"{path}.weight"] + 3.0 / 2 * product
            torch.testing.assert_close(after[f"{path}.weight"], expected, rtol=1e-12, atol=1e-12)
    untouched = [name for name in before if not name.endswith(("qkv.weight", "attn.proj.weight", "fc1.weight"))]
    untouched = [name for name in untouched if not name.endswith("fc2.weight")]
    assert "model.patch_embed.proj.weight" in untouched
    assert all(torch.equal(before[name], after[name]) for name in untouched)


@pytest.mark.parametrize("kind", ["vit", "standardised"])
def test_the_hypergradient_through_adapters_is_exact(kind: str) -> None:
    _, tower = adapted(kind)
    problem = make_problem(lambda: _Adapted(tower))
    assert {name.split(".lora_")[1].split(".")[0] for name in problem.start["image"]} == {"A", "B"}
    expected = outputs(problem.gradient("unrolled", momentum=0.8, weight_decay=0.01))
    found = outputs(problem.gradient("adjoint", momentum=0.8, weight_decay=0.01))
    for name, tensor in found.items():
        assert expected[name].norm() > 0, name
        assert relative_error(tensor, expected[name]) <= 1e-9, name


class _Adapted(nn.Module):
    """The tower with a frozen projection to the width of the small problem; only adapters are its parameters."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("project", torch.randn(tower.width, 7, dtype=torch.float64) / tower.width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        size = self.tower.size
        x = nn.functional.interpolate(x, size=(size, size), mode="bilinear") if x.shape[-1] != size else x
        return self.tower(x).to(x.dtype) @ self.get_buffer("project").to(x.dtype)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:  # what make_problem takes as trained
        return ((n, p) for n, p in super().named_parameters(*args, **kwargs) if p.requires_grad)


def test_the_gradient_is_that_of_a_network_with_the_product_written_out() -> None:
    """One inner loss, first order: peft's layers against explicit W + (alpha / r) B A."""
    plain, tower = adapted("vit")
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    ours = {name: p.requires_grad_() for name, p in trained(tower).items()}
    value = functional_call(tower, ours, (images,)).square().sum()
    slopes = dict(zip(ours, torch.autograd.grad(value, list(ours.values()))))
    again = {name: p.detach().clone().requires_grad_() for name, p in ours.items()}
    weights = dict(plain.state_dict())
    for name in [name for name in again if ".lora_A." in name]:
        path = name.split(".lora_A.")[0]
        product = again[f"{path}.lora_B.default.weight"] @ again[name]
        weights[f"{path}.weight"] = weights[f"{path}.weight"] + 1.5 * product
    other = functional_call(plain, weights, (images,)).square().sum()
    assert relative_error(other.detach(), value.detach()) < 1e-12
    for name, slope in zip(again, torch.autograd.grad(other, list(again.values()))):
        assert relative_error(slopes[name], slope) < 1e-10, name


def test_one_step_problem_of_adapters_by_finite_differences() -> None:
    _, tower = adapted("vit")
    problem = replace(make_problem(lambda: _Adapted(tower), count=2))
    found = problem.gradient("adjoint").distilled["images"]
    direction = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    step = 1e-5

    def value(sign: float) -> float:
        moved = {**problem.distilled, "images": problem.distilled["images"] + sign * step * direction}
        return float(replace(problem, distilled=moved).gradient("adjoint").value)

    expected = (value(1) - value(-1)) / (2 * step)
    assert abs(float((found * direction).sum()) - expected) < 1e-5 * max(abs(expected), 1e-3)
