"""Convolutions and frozen batch norms whose double backward costs about as much as their backward.

torch differentiates the backward of a grouped convolution one group at a time; a depthwise layer has hundreds of
groups. The same derivatives are ordinary convolutions:

    y  = x * w                         gx = gy *^T w                 gw = x (*) gy
    <gx, u> + <gw, v>  differentiated:   to gy: u * w + x * v;   to x: gy *^T v;   to w: u (*) gy

where *^T is the transposed convolution and (*) the weight gradient, so each is one call of the library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass
class Wanted:
    """What the next backward through a graph is for.

    An operation that is written in Python learns which of its inputs require gradients, not which of them
    ``torch.autograd.grad`` was asked for, so that somebody has to say where no weights were.

    Args:
        weights: whether gradients to weights are.
    """

    weights: bool = True


Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]
"""Stride, padding, dilation, groups."""


def _gradients(
    gy: Tensor, x: Tensor, w: Tensor, geometry: Geometry, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = geometry
    gx, gw, _ = torch.ops.aten.convolution_backward(
        gy, x, w, None, stride, padding, dilation, False, (0, 0), groups, (*needed, False)
    )
    return gx, gw


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, geometry: Geometry, wanted: Wanted) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.wanted = geometry, wanted
        return F.conv2d(x, w, None, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, w = ctx.saved_tensors
        needed = (ctx.needs_input_grad[0], ctx.needs_input_grad[1] and ctx.wanted.weights)
        gx, gw = _ConvolutionBackward.apply(grads[0], x, w, ctx.geometry, needed, ctx.wanted)
        return gx, gw, None, None


class _ConvolutionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, x: Tensor, w: Tensor, geometry: Geometry, needed: tuple[bool, bool], wanted: Wanted
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(gy, x, w)
        ctx.geometry, ctx.wanted = geometry, wanted
        ctx.set_materialize_grads(False)
        return _gradients(gy, x, w, geometry, needed)

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        gy, x, w = ctx.saved_tensors
        u, v = grads
        need_gy, need_x, need_w = ctx.needs_input_grad[:3]
        need_w = need_w and ctx.wanted.weights
        to_gy = to_x = to_w = None
        if u is not None:
            if need_gy:
                to_gy = _Convolution.apply(u, w, ctx.geometry, ctx.wanted)
            if need_w:
                to_w = _ConvolutionBackward.apply(gy, u, w, ctx.geometry, (False, True), ctx.wanted)[1]
        if v is not None:
            if need_gy:
                part = _Convolution.apply(x, v, ctx.geometry, ctx.wanted)
                to_gy = part if to_gy is None else to_gy + part
            if need_x:
                to_x = _ConvolutionBackward.apply(gy, x, v, ctx.geometry, (True, False), ctx.wanted)[0]
        return to_gy, to_x, to_w, None, None, None


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    wanted: Wanted | None = None,
) -> Tensor:
    """``torch.nn.functional.conv2d`` with a fast double backward; ``padding`` as numbers only.

    Args:
        input: (B, C, H, W).
        weight: (C', C / groups, kh, kw).
        bias: (C',) or None.
        wanted: what later backwards are for.
    """
    assert not isinstance(padding, str)
    geometry = (_pair(stride), _pair(padding), _pair(dilation), groups)
    y = _Convolution.apply(input, weight, geometry, wanted or Wanted())
    assert isinstance(y, Tensor)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


class FastDoubleBackward(TorchFunctionMode):
    """Within this context convolutions and frozen batch norms are differentiated twice at the price of products.

    The values are the same up to rounding. A batch norm with frozen statistics is one scale and one shift per
    channel; as such its double backward is a few products instead of a dozen.

    Args:
        wanted: what later backwards through the graph are for; may be changed before each.
    """

    def __init__(self, wanted: Wanted | None = None) -> None:
        super().__init__()
        self.wanted = wanted or Wanted()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace what is slow, call everything else as it is."""
        kwargs = dict(kwargs or {})
        if func is F.conv2d:
            padding = args[4] if len(args) > 4 else kwargs.get("padding", 0)
            if (args[0] if args else kwargs["input"]).ndim == 4 and not isinstance(padding, str):
                return convolution(*args, **kwargs, wanted=self.wanted)
        if func is F.batch_norm:
            given = BATCH_NORM.bind(*args, **kwargs)
            given.apply_defaults()
            if not given.arguments["training"]:
                return _frozen_batch_norm(*given.args)
        return func(*args, **kwargs)


BATCH_NORM = inspect.signature(F.batch_norm)


def _frozen_batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Batch norm (B, C, ...) with the given statistics: x * scale + shift, both (C,)."""
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return torch.addcmul(shift.view(shape), x, scale.view(shape))
