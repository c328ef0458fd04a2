"""Convolutions and frozen batch norms whose double backward costs about as much as their backward.

torch differentiates the backward of a grouped convolution one group at a time; a depthwise layer has hundreds of
groups. The same derivatives are ordinary convolutions:

    y  = x * w                         gx = gy *^T w                 gw = x (*) gy
    <gx, u> + <gw, v>  differentiated:   to gy: u * w + x * v;   to x: gy *^T v;   to w: u (*) gy
    a bias:  y + b,  gb = sum of gy,  <gb, c> differentiated:   to gy: c

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
from torch.utils._pytree import tree_map_only


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


Needed = tuple[bool, bool, bool]
"""Whether gradients to input, weight and bias are computed."""


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry, wanted: Wanted) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.wanted = geometry, wanted
        return F.conv2d(x, w, b, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, w = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        needed = (need_x, need_w and ctx.wanted.weights, need_b and ctx.wanted.weights)
        gx, gw, gb = _ConvolutionBackward.apply(grads[0], x, w, ctx.geometry, needed, ctx.wanted)
        return gx, gw, gb, None, None


class _ConvolutionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, x: Tensor, w: Tensor, geometry: Geometry, needed: Needed, wanted: Wanted
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(gy, x, w)
        ctx.geometry, ctx.wanted = geometry, wanted
        ctx.set_materialize_grads(False)
        stride, padding, dilation, groups = geometry
        return torch.ops.aten.convolution_backward(
            gy, x, w, [w.shape[0]], stride, padding, dilation, False, (0, 0), groups, needed
        )

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        gy, x, w = ctx.saved_tensors
        u, v, c = grads
        need_gy, need_x, need_w = ctx.needs_input_grad[:3]
        need_w = need_w and ctx.wanted.weights
        to_gy = to_x = to_w = None
        if need_gy and v is not None:
            to_gy = _Convolution.apply(x, v, c, ctx.geometry, ctx.wanted)
        elif need_gy and c is not None:
            to_gy = c.view(1, -1, 1, 1).expand_as(gy)
        if u is not None:
            if need_gy:
                part = _Convolution.apply(u, w, None, ctx.geometry, ctx.wanted)
                to_gy = part if to_gy is None else to_gy + part
            if need_w:
                to_w = _ConvolutionBackward.apply(gy, u, w, ctx.geometry, (False, True, False), ctx.wanted)[1]
        if need_x and v is not None:
            to_x = _ConvolutionBackward.apply(gy, x, v, ctx.geometry, (True, False, False), ctx.wanted)[0]
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
    y = _Convolution.apply(input, weight, bias, geometry, wanted or Wanted())
    assert isinstance(y, Tensor)
    return y


CONVOLUTION = inspect.signature(convolution)
BATCH_NORM = inspect.signature(F.batch_norm)


class Deferred(Tensor):
    """The output (B, C', H', W') of a convolution without bias that nobody has read yet.

    A batch norm with frozen statistics that comes next becomes part of the convolution; every other function that reads
    it makes it compute its values. It has no memory of its own, so that code which passes torch's functions by fails.
    """

    given: tuple[Tensor, Tensor, Geometry]
    wanted: Wanted
    values: Tensor | None

    @staticmethod
    def of(x: Tensor, w: Tensor, geometry: Geometry, wanted: Wanted) -> Deferred:
        """``x`` (B, C, H, W) convolved with ``w`` (C', C / groups, kh, kw), later."""
        stride, padding, dilation, _ = geometry
        sides = [
            (side + 2 * padded - wide * (kernel - 1) - 1) // step + 1
            for side, padded, wide, kernel, step in zip(x.shape[2:], padding, dilation, w.shape[2:], stride)
        ]
        out = Tensor._make_wrapper_subclass(Deferred, (len(x), len(w), *sides), dtype=x.dtype, device=x.device)
        out.given, out.wanted, out.values = (x, w, geometry), wanted, None
        return out

    def computed(self) -> Tensor:
        """The values, computed once."""
        if self.values is None:
            x, w, (stride, padding, dilation, groups) = self.given
            self.values = convolution(x, w, None, stride, padding, dilation, groups, wanted=self.wanted)
        return self.values

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func`` with the values where it reads more than a shape."""
        if func in SHAPE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = _computed(args, kwargs or {})
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse what got here without :meth:`__torch_function__`: gradients would be lost."""
        raise RuntimeError(f"{func} reads the output of a convolution that was not computed yet.")


def _computed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tree_map_only(Deferred, Deferred.computed, (args, dict(kwargs)))


SHAPE = {Tensor.dim, Tensor.size, *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device"))}
"""What may be asked of a deferred output without its values."""


class FastDoubleBackward(TorchFunctionMode):
    """Within this context convolutions and frozen batch norms are differentiated twice at the price of products.

    The values are the same up to rounding. A batch norm with frozen statistics is one scale and one shift per channel:
    after a convolution they become part of its weight and its bias, so that nothing is computed for the norm at the
    size of an activation, forward or backward; elsewhere its double backward is a few products instead of a dozen.

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
        if func is F.batch_norm:
            given = BATCH_NORM.bind(*args, **kwargs)
            given.apply_defaults()
            if not given.arguments["training"]:
                return self._frozen_batch_norm(*given.args)
        if func is F.conv2d:
            args, kwargs = _computed(args, kwargs)
            given = CONVOLUTION.bind(*args, **kwargs)
            given.apply_defaults()
            x, w, bias, stride, padding, dilation, groups = given.args
            if x.ndim == 4 and not isinstance(padding, str):
                if bias is None:
                    return Deferred.of(x, w, (_pair(stride), _pair(padding), _pair(dilation), groups), self.wanted)
                return convolution(*given.args, wanted=self.wanted)
        return func(*args, **kwargs)

    def _frozen_batch_norm(
        self,
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
        if isinstance(x, Deferred):
            into, w, (stride, padding, dilation, groups) = x.given
            scaled = w * scale.view(-1, 1, 1, 1)
            return convolution(into, scaled, shift, stride, padding, dilation, groups, wanted=self.wanted)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return torch.addcmul(shift.view(shape), x, scale.view(shape))
