"""The quick double backward of convolutions and frozen batch norms against torch's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from towers import relative_error

from vldistill.distillation.metagrad.double_backward import FastDoubleBackward, Wanted

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": (1, 0), "bias": False},
    {"dilation": 2, "padding": 2},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2, "padding": 1, "bias": False},  # depthwise
    {"groups": 4, "padding": 1, "out_channels": 8},
    {"kernel_size": 1},
    {"kernel_size": (1, 3), "stride": (2, 1), "padding": (0, 1)},
    {"padding": "same"},  # left to torch
    {"padding": 1, "padding_mode": "reflect"},
]


def derivatives(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Value, first derivatives, and second derivatives along a fixed direction."""
    leaves = [x.clone().requires_grad_(), *module.parameters()]
    value = module(leaves[0]).square().sum()  # not linear, so every part of the second derivative counts
    first = torch.autograd.grad(value, leaves, create_graph=True)
    ways = [torch.linspace(-1, 1, g.numel(), dtype=g.dtype).reshape(g.shape) for g in first]
    second = torch.autograd.grad(first, leaves, ways)
    return [value.detach(), *(g.detach() for g in first), *second]


def assert_same(module: nn.Module, x: Tensor) -> None:
    expected = derivatives(module, x)
    with FastDoubleBackward():
        found = derivatives(module, x)
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) <= 1e-12


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions(geometry: dict[str, Any]) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "kernel_size": 3} | geometry
    assert_same(nn.Conv2d(**options).double(), torch.randn(3, 4, 7, 8, dtype=torch.float64))


def test_an_image_without_a_batch_is_left_to_torch() -> None:
    torch.manual_seed(0)
    assert_same(nn.Conv2d(4, 4, 3).double(), torch.randn(4, 7, 8, dtype=torch.float64))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [nn.BatchNorm2d, nn.BatchNorm1d])
def test_batch_norms(make: Callable[..., nn.Module], training: bool, affine: bool) -> None:
    torch.manual_seed(0)
    norm = make(4, affine=affine).double().train(training)
    norm.running_mean, norm.running_var = torch.randn(4).double(), torch.rand(4).double() + 0.1
    shape = (6, 4, 3, 2) if make is nn.BatchNorm2d else (6, 4)
    assert_same(norm, torch.randn(shape, dtype=torch.float64))


def test_second_derivatives_by_gradgradcheck() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((2, 4, 4, 4), (4, 2, 3, 3), (4,))]

    def convolve(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with FastDoubleBackward():
            return F.conv2d(x, w, b, padding=1, groups=2)

    assert torch.autograd.gradcheck(convolve, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(convolve, inputs, fast_mode=True)


class NormThenMore(nn.Module):
    """A convolution whose output is read by a norm and, where asked, by something else too."""

    def __init__(self, both: bool, **options: Any) -> None:
        super().__init__()
        self.conv, self.norm, self.both = nn.Conv2d(4, 4, bias=False, **options), nn.BatchNorm2d(4), both
        self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.1

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        assert y.shape == (3, *y.shape[1:]) and y.ndim == y.dim() == 4 and y.size(1) == 4 and y.dtype == x.dtype
        z = self.norm(y)
        return z * y.sigmoid() if self.both else z


class Sized(TorchDispatchMode):
    """Counts what is computed at the size of an activation, convolutions apart."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = isinstance(found, Tensor) and found.numel() >= 300 and found.untyped_storage().size() > 8
        self.count += made and "conv" not in str(func) and not func.is_view
        return found


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("options", [{"kernel_size": 1}, {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1,
                                     "dilation": (1, 2)}, {"kernel_size": 3, "groups": 4}], ids=str)  # fmt: skip
def test_a_norm_becomes_part_of_the_convolution_before_it(options: dict[str, Any], both: bool) -> None:
    torch.manual_seed(0)
    module = NormThenMore(both, **options).double().eval()
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    assert_same(module, x)
    with torch.no_grad(), FastDoubleBackward(), Sized() as sized:
        module(x)
    assert (sized.count == 0) == (not both)
    module.train()  # statistics of the batch
    assert_same(module, x)


def test_what_leaves_the_context_has_its_values_and_what_passes_torch_by_fails() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 4, 3, bias=False), torch.randn(3, 4, 8, 8)
    with FastDoubleBackward():
        left = conv(x)
    assert type(left + 0) is Tensor and torch.equal(left + 0, conv(x)) and torch.equal(F.relu(left), F.relu(conv(x)))
    assert torch.equal(torch.cat([left, left]), torch.cat([conv(x), conv(x)]))
    with FastDoubleBackward():
        assert torch.equal(conv(conv(x)), conv(conv(x).clone()))
    with torch._C.DisableTorchFunctionSubclass(), pytest.raises(RuntimeError, match="not computed yet"):
        left.isnan()


class WeightGradients(TorchDispatchMode):
    """Counts convolutions that compute a gradient to weights."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and args[-1][1]:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("asked", [True, False])
def test_gradients_to_weights_that_nobody_asked_for_are_not_computed(asked: bool) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3, groups=4), nn.GELU(), nn.Conv2d(4, 2, 3))
    tower, x = layers.double(), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    weights = list(tower.parameters())
    found, wanted = [], Wanted()
    for mode in (FastDoubleBackward(wanted), contextlib.nullcontext()):
        leaf = x.clone().requires_grad_()
        with mode:
            value = tower(leaf).square().sum()
        first = torch.autograd.grad(value, weights, create_graph=True)
        wanted.weights = asked
        with WeightGradients() as counted:
            found.append((torch.autograd.grad(first, [leaf], [torch.ones_like(g) for g in first])[0], counted.count))
        wanted.weights = True
    (ours, count), (torchs, _) = found
    assert relative_error(ours, torchs) <= 1e-12
    assert (count > 0) == asked
