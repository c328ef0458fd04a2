"""The bare products of a work: the same matrix products and convolutions, and nothing between them.

Their time on the same device is what the work could take at best with these kernels; its share is what the rest leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "bmm", "addmm", "addmm_", "baddbmm", "convolution", "convolution_backward", "linear")
PRODUCTS_OF_ATTENTION = "_scaled_dot_product"

Shape = tuple[str, tuple[int, ...], tuple[int, ...], torch.dtype, torch.device]
"""A tensor without its numbers: a mark, sizes, strides, number format, device."""


class Products(TorchDispatchMode):
    """A context that counts the products that are computed in it, there and back.

    Attributes:
        found: how often each was computed, by operation and arguments without numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[Any, tuple[Any, ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if (name in PRODUCTS or name.startswith(PRODUCTS_OF_ATTENTION)) and not kwargs:
            self.found[func, tuple(_plain(arg) for arg in args)] += 1
        return func(*args, **(kwargs or {}))

    def seconds(self, timed: Callable[[Callable[[], object]], float]) -> float:
        """Seconds that all of them take alone, each kind measured by ``timed`` on random numbers."""
        total = 0.0
        for (func, plain), count in self.found.items():
            args = [_filled(arg) for arg in plain]
            with torch.no_grad():
                total += count * timed(lambda func=func, args=args: func(*args))
        return total


def _plain(arg: Any) -> Any:
    if isinstance(arg, torch.Tensor):
        return "tensor", tuple(arg.shape), tuple(arg.stride()), arg.dtype, arg.device
    return tuple(arg) if isinstance(arg, list) else arg


def _filled(arg: Any) -> Any:
    if isinstance(arg, tuple) and arg[:1] == ("tensor",):
        _, shape, stride, dtype, device = arg
        last = sum((size - 1) * step for size, step in zip(shape, stride)) if all(shape) else -1
        return torch.randn(last + 1, device=device).to(dtype).as_strided(shape, stride)  # may be an expanded one
    return list(arg) if isinstance(arg, tuple) else arg
