"""Attention of a ViT: fused kernels have no second backward, so inner steps take torch's math kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from vldistill.config import ImageTowerConfig
from vldistill.distillation.metagrad import InnerStep, hypergradient
from vldistill.encoders.build import build_image_tower
from vldistill.encoders.tower import ImageTower

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


class Kernels(TorchDispatchMode):
    """The attention kernels that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.called += [name] if "attention" in name else []
        return func(*args, **(kwargs or {}))


@pytest.fixture
def tower() -> ImageTower:
    return build_image_tower(ImageTowerConfig("vit_tiny_patch16_224", "random", 0, VIT)).eval()


def kernels_of(work: Callable[[], object]) -> list[str]:
    kernels = Kernels()
    with kernels:
        work()
    return kernels.called


def gradient(tower: ImageTower, estimator: str) -> Any:
    draw = torch.Generator().manual_seed(0)
    images, target = torch.randn(4, 3, 32, 32, generator=draw), torch.randn(4, 16, generator=draw)
    start = {"image": {name: p.detach() for name, p in tower.named_parameters()}}
    steps = [InnerStep(t, torch.arange(4), t) for t in range(2)]

    def inner(params: Any, distilled: dict[str, Tensor], step: InnerStep) -> Tensor:
        return F.mse_loss(functional_call(tower, params["image"], (distilled["images"],)), target)

    def outer(params: Any) -> Tensor:
        return F.mse_loss(functional_call(tower, params["image"], (images.flip(3),)), target)

    rates = {"image": torch.tensor(0.01)}
    return hypergradient(inner, outer, start, {"images": images}, rates, steps, estimator=estimator)


def test_the_tower_takes_a_fused_kernel_that_cannot_be_differentiated_twice(tower: ImageTower) -> None:
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    assert any("flash" in name for name in kernels_of(lambda: tower(images)))
    first = torch.autograd.grad(tower(images).square().sum(), images, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"not implemented|derivative"):
        first.sum().backward()


@pytest.mark.parametrize("estimator", ["adjoint", "tesla", "unrolled"])
def test_inner_steps_take_the_math_kernel(tower: ImageTower, estimator: str) -> None:
    found: list[Any] = []
    called = kernels_of(lambda: found.append(gradient(tower, estimator)))
    fused = [name for name in called if "flash" in name or "efficient" in name or "cudnn" in name]
    # the outer loss alone is differentiated once, and may be fused: two blocks there, and two back
    assert len(fused) <= 4
    assert torch.isfinite(found[0].distilled["images"]).all() and found[0].distilled["images"].abs().sum() > 0


def test_what_needs_no_second_backward_may_be_fused(tower: ImageTower) -> None:
    called = kernels_of(lambda: gradient(tower, "difference"))
    assert sum("flash" in name for name in called) > 8
