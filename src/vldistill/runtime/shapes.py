"""Memory from shapes alone: what work on tensors of the device ``meta`` would keep alive, computed without numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vldistill.runtime.memory import available_memory, memory_limit

META = torch.device("meta")


class LiveBytes(TorchDispatchMode):
    """A context that counts the bytes of all storages made in it, while they are alive.

    Attributes:
        now: bytes alive.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet[Any]()

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in [out] if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
                if all(leaf.untyped_storage() is not storage for leaf in given):  # else a view of what was there before
                    self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def peak_of_shapes(work: Callable[[], object]) -> int:
    """The most bytes that ``work``, on tensors of ``meta``, has alive beside what was there before it."""
    with LiveBytes() as live:
        kept = work()
    del kept
    return live.peak


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape and number format without numbers."""
    return torch.empty_like(tensor, device=META)


def functional_bytes(module: nn.Module, row: Sequence[int], rows: int, back: bool) -> int:
    """The most bytes that a pass of ``rows`` inputs of shape ``row`` has alive, inputs and outputs too.

    Args:
        module: from a tensor to a tensor; its own weights are not counted, nor used.
        back: with the graph and the way back to the inputs, and to the weights that are trained.

    Raises:
        Exception: whatever a module raises that reads numbers.
    """
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    bare = {name: on_meta(tensor).requires_grad_(tensor.requires_grad and back) for name, tensor in named.items()}
    weight = next((tensor for tensor in named.values() if tensor.is_floating_point()), None)
    dtype = torch.float32 if weight is None else weight.dtype
    trained = [tensor for tensor in bare.values() if tensor.requires_grad]

    def work() -> object:
        inputs = torch.empty(rows, *row, dtype=dtype, device=META, requires_grad=back and not trained)
        with torch.set_grad_enabled(back):
            out = functional_call(module, bare, (inputs,))
        wanted = trained or [inputs]
        return torch.autograd.grad(out.sum(), wanted, allow_unused=True) if back else out

    return peak_of_shapes(work)


_each = weakref.WeakKeyDictionary[nn.Module, dict[tuple[object, ...], int]]()


def bytes_per_row(module: nn.Module, row: Sequence[int], back: bool) -> int:
    """Bytes that one more input of shape ``row`` adds to a pass; 0 where the module cannot be asked.

    Args:
        module, back: as in :func:`functional_bytes`.
    """
    known = _each.setdefault(module, {})
    if (key := (*row, back)) not in known:
        try:
            one, three = (functional_bytes(module, row, rows, back) for rows in (1, 3))
            known[key] = (three - one) // 2
        except Exception:  # a module that reads numbers: it is halved where memory is short
            known[key] = 0
    return known[key]


def rows_that_fit(module: nn.Module, inputs: torch.Tensor, share: float, *, back: bool) -> int:
    """How many of ``inputs`` pass ``module`` at a time within a share of what ``runtime.max_memory`` has left.

    Without that option all of them: devices say by themselves that their memory is short.
    """
    place = next((weight.device for weight in module.parameters()), inputs.device)
    if not memory_limit(place) or not len(inputs):
        return len(inputs)
    each = bytes_per_row(module, inputs.shape[1:], back)
    return min(max(int(share * available_memory(place)) // each, 1), len(inputs)) if each else len(inputs)
