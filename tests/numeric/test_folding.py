"""Folded normalisations: the same features, gradients and identity, and nothing folded that must not be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vldistill.config import ImageTowerConfig
from vldistill.encoders.build import build_image_tower
from vldistill.encoders.folding import folded
from vldistill.encoders.tower import ImageTower


def tower_of(name: str, **options) -> ImageTower:
    """A small tower in float64 with running statistics that are not the identity."""
    config = ImageTowerConfig(name=name, weights="random", size=32, options=options)
    tower = build_image_tower(config).double().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draw))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=draw) + 0.5)
    return tower


def norms(tower: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet18", "efficientnet_lite0", "resnetv2_18", "regnetx_002"])
def test_the_same_features_and_gradients(name: str) -> None:
    options = {"pad_type": "same"} if "mobilenet" in name else {}
    tower = tower_of(name, **options)
    fold = folded(tower)
    assert norms(fold) < norms(tower)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = []
    for each in (tower, fold):
        leaf = images.clone().requires_grad_(True)
        features = each(leaf)
        found.append((features.detach(), torch.autograd.grad(features.square().sum(), leaf)[0]))
    assert float(found[0][1].abs().max()) > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)


def test_a_plain_network_loses_all_its_norms_and_keeps_its_name() -> None:
    tower = tower_of("mobilenetv2_035")
    fold = folded(tower)
    assert norms(fold) == 0
    assert fold.fingerprint() == tower.fingerprint()
    assert (fold.name, fold.width, fold.size, fold.mean, fold.std) == (
        tower.name, tower.width, tower.size, tower.mean, tower.std,
    )  # fmt: skip
    assert not any(part.requires_grad for part in fold.parameters())
    assert norms(tower) > 0, "the tower itself stays as it was: students of other settings train it"


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnet", "nf_regnet_b0"])
def test_towers_without_batch_normalisation_are_given_back(name: str) -> None:
    tower = tower_of(name, **({"img_size": 32} if name.startswith("vit") else {}))
    assert folded(tower) is tower


class Forked(nn.Module):
    """A convolution whose output goes to a normalisation and past it: folding would change the second way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = self.conv(images)
        return (self.norm(out) + out).mean((2, 3))


class Twice(nn.Module):
    """A convolution used for two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.first(self.conv(images)) + self.second(self.conv(images.flip(-1)))).mean((2, 3))


@pytest.mark.parametrize("model", [Forked(), Twice()], ids=["forked", "twice"])
def test_what_cannot_be_folded_stays(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.fill_(3.0)
    tower = ImageTower(model, "made", 4, 16, (0.5,) * 3, (0.5,) * 3)
    assert folded(tower) is tower
