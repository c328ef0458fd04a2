"""A second device for tests: it calls itself ``cuda:0`` and computes on the CPU, to the same bits.

Within ``strict_device()``, tensors made on or moved to ``cuda:0`` are wrappers of CPU tensors which refuse to mix with
CPU tensors by CUDA's rules, and every silent wait for the device is noted with the line of source that caused it. So
the branches for CUDA run too. For torch itself a wrapper is on the device ``meta:1``, which it computes nothing on,
keeps no streams for and does not ask a driver about; hence it needs no GPU, in builds of torch with CUDA and without.

What mixes: CPU tensors without dimensions in pointwise operations, as values of ``fill_`` and ``index_put_``, and CPU
indices into a tensor on the device. What waits, by ``Wait.kind``:

- ``read``: ``item``, ``bool``, ``float``, ``tolist``, ``equal``, copies to the CPU, checks of ``linalg``;
- ``shape``: results whose shape depends on values: ``nonzero``, boolean masks, ``unique``, ``bincount``;
- ``upload``: copies from memory that is not pinned, or not ``non_blocking``; CPU indices.

Autograd (twice, and forward mode), ``torch.func``, ``copy.deepcopy``, state dicts and ``pin_memory`` work. The device
has its own random numbers, which ``torch.manual_seed`` seeds like the CPU's.

What it cannot see:

- rounding, speed, memory and kernels of a GPU; which kernels exist there and which are deterministic;
- autocast, which changes nothing here;
- streams and races: all work is done at once. A copy to the CPU with ``non_blocking`` is refused, not simulated;
- fused and multi-tensor optimisers, cuDNN, flash attention, ``torch.compile``, several GPUs, NCCL;
- other threads than the one that entered the context, ``torch.Generator("cuda")``, ``torch.save`` of its tensors,
  CPU-only code in C that reads memory by pointer (numpy refuses), and copies that a kernel of CUDA makes inside.

``VLDISTILL_TEST_DEVICE=cuda`` runs the same tests on a real GPU (see tests/device.py).
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

NAME = torch.device("cuda", 0)
INSIDE = torch.device("meta", 1)  # plain meta tensors have no index
HELPERS = (__file__, str(Path(__file__).with_name("device.py")), str(Path(torch.__file__).parent), warnings.__file__)
PACKAGE = str(Path(__file__).parent.parent / "src")
aten = torch.ops.aten

INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index", "aten::_index_put_impl_"}
SCALARS = {"aten::fill_", "aten::fill", "aten::masked_fill", "aten::masked_fill_", "aten::index_fill_"} | INDEXED
READS = {"aten::_local_scalar_dense", "aten::equal", "aten::allclose", "aten::_linalg_check_errors"}
SHAPES = {
    "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::unique_dim_consecutive", "aten::bincount", "aten::repeat_interleave",
}  # fmt: skip


@dataclass(frozen=True)
class Wait:
    """One wait: its kind, the operation, and the lines ``file:line`` that led there, the innermost first.

    They are those of the package; a wait that it has no part in has the innermost line outside of torch.
    """

    kind: str
    operation: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} ({self.operation}) at {' < '.join(self.lines)}"


@dataclass
class Waits:
    """The waits so far."""

    found: list[Wait] = field(default_factory=list)

    def note(self, kind: str, operation: str) -> None:
        self.found.append(Wait(kind, operation, calling_lines()))

    @contextlib.contextmanager
    def of(self) -> Iterator[list[Wait]]:
        """Those within the context, once it is left."""
        before, own = len(self.found), list[Wait]()
        yield own
        own += self.found[before:]


def calling_lines() -> tuple[str, ...]:
    """Every ``file:line`` of the package that led here; else the innermost outside of torch and of these helpers."""
    frame, lines, other = sys._getframe(1), list[str](), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            lines.append(f"{Path(name).relative_to(PACKAGE).as_posix()}:{frame.f_lineno}")
        elif not other and not name.startswith(HELPERS):
            other = f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return tuple(lines) or (other,)


def is_ours(device: Any) -> bool:
    """Whether a device, or its name, is the test's."""
    device = None if device is None else torch.device(device)
    return device is not None and (device.type == "cuda" or device == INSIDE)


class DeviceTensor(torch.Tensor):
    """A tensor on the device: ``inner`` has its values."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore
    device = property(lambda self: NAME)  # pyright: ignore
    is_cuda = property(lambda self: True)  # pyright: ignore
    is_meta = property(lambda self: False)  # pyright: ignore

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(  # pyright: ignore
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=INSIDE,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the strict device, outside of its context or in another thread.")

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def get_device(self) -> int:
        return 0

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @property
    def data(self) -> torch.Tensor:  # pyright: ignore
        return torch.Tensor.data.__get__(self)  # pyright: ignore

    @data.setter
    def data(self, value: DeviceTensor) -> None:
        torch.Tensor.data.__set__(self, value)  # pyright: ignore
        self.inner = value.inner

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            made = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
            made._is_param = getattr(self, "_is_param", False)  # pyright: ignore
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NotImplementedError("tensors of the strict device cannot be pickled; a real GPU's can.")

    def __repr__(self, **kwargs: Any) -> str:
        return f"DeviceTensor({self.inner})"


class StrictDevice(TorchDispatchMode):
    """Runs every operation: on ``inner`` tensors where the device is concerned."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled: what keeps the compiler away would import it, for seconds

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.pinned = Waits(), set[int]()
        self.random = torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, here = func._schema.name, dict[int, DeviceTensor]()
        if name == "aten::is_pinned":
            return args[0].untyped_storage().data_ptr() in self.pinned
        if name == "aten::_pin_memory":
            return self._pin(args[0].clone())
        wanted = kwargs.get("device")
        pin, cpu = kwargs.pop("pin_memory", None), list[torch.Tensor]()
        if here_wanted := is_ours(wanted):
            kwargs["device"] = torch.device("cpu")
        own_args, own_kwargs = _inner(args, here, cpu), {key: _inner(v, here, cpu) for key, v in kwargs.items()}
        if not here and not here_wanted:
            out = func(*args, **kwargs)
            return self._pin(out) if pin else out
        ours = here_wanted or (bool(here) and wanted is None)
        if name == "aten::copy_":
            self._note_copy(cpu[0] if not _is_here(args[1]) else None, _is_here(args[0]), own_args, kwargs)
            ours = _is_here(args[0])
        elif name == "aten::_to_copy":
            self._note_copy(None if here else args[0], ours, own_args, kwargs)
        else:
            if cpu:
                _refuse_mixing(func, name, args, cpu)
            self._note(func, name, args, own_args)
        if name == "aten::_fused_sdp_choice":
            return 0  # the math kernel, whose operations the device sees
        if name == "aten::_efficientzerotensor":  # of forward mode: zeros without memory
            func = aten.zeros.default
        random = torch.Tag.nondeterministic_seeded in func.tags and ours
        with self._own_random(kwargs) if random else contextlib.nullcontext():
            out = func(*own_args, **own_kwargs)
        if here and torch.Tag.inplace_view in func.tags:  # squeeze_ and its kin change the wrapper too
            with no_dispatch():
                func(*args, **kwargs)
        return _outer(out, here, ours)

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self.pinned.add(tensor.untyped_storage().data_ptr())
        return tensor

    def _note_copy(self, source: torch.Tensor | None, to_device: bool, args: Any, kwargs: Any) -> None:
        """A copy from the CPU tensor ``source`` or from the device (None), to the device or to the CPU."""
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if source is not None and to_device:
            if not (non_blocking and source.untyped_storage().data_ptr() in self.pinned):
                self.waits.note("upload", "copy to the device")
        elif source is None and not to_device:
            if non_blocking:
                raise RuntimeError("a copy to the CPU with non_blocking: its values are not there until one waits.")
            self.waits.note("read", "copy to the CPU")

    def _note(self, func: Any, name: str, args: Any, own: Any) -> None:
        if name in READS:
            self.waits.note("read", name)
        elif name in SHAPES and not (name == "aten::repeat_interleave" and len(args) == 1 and func.overloadname == ""):
            self.waits.note("shape", name)
        elif name in INDEXED:
            indices = [index for index in args[1] if index is not None]
            masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
            filled = "put" in name and len(masks) == len(indices) == 1 and not _is_here(args[2])  # it is a masked_fill
            if masks and not filled:
                self.waits.note("shape", f"{name} with a boolean mask")
            if any(not _is_here(index) for index in indices):
                self.waits.note("upload", f"{name} with CPU indices")

    @contextlib.contextmanager
    def _own_random(self, kwargs: Any) -> Iterator[None]:
        """Draw from the device's random numbers, not from the CPU's."""
        if kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        outside = torch.get_rng_state()
        torch.set_rng_state(self.random)
        yield
        self.random = torch.get_rng_state()
        torch.set_rng_state(outside)

    def set_state(self, state: torch.Tensor, device: Any = None) -> None:
        self.random = state.clone()

    def seed(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed).get_state()

    def patches(self) -> dict[str, Any]:
        """What of ``torch.cuda`` stands for the device."""
        memory = psutil.virtual_memory()
        return {
            "_lazy_init": lambda: None,
            "_initialized": True,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "is_current_stream_capturing": lambda: False,
            "is_bf16_supported": lambda including_emulation=True: True,
            "device": lambda device: contextlib.nullcontext(),
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "synchronize": lambda device=None: self.waits.note("read", "synchronize"),
            "empty_cache": lambda: None,
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "mem_get_info": lambda device=None: (memory.available, memory.total),
            "get_rng_state": lambda device=None: self.random.clone(),
            "set_rng_state": self.set_state,
            "manual_seed": self.seed,
            "manual_seed_all": self.seed,
        }


def _is_here(tensor: Any) -> bool:
    return isinstance(tensor, DeviceTensor)


def _inner(value: Any, here: dict[int, DeviceTensor], cpu: list[torch.Tensor]) -> Any:
    """``value`` with inner tensors in place of those on the device, which go to ``here``; others go to ``cpu``."""
    if isinstance(value, DeviceTensor):
        if value.inner.shape != value.shape:
            raise NotImplementedError("a tensor of the strict device was given another shape in place.")
        here[id(value.inner)] = value
        return value.inner
    if isinstance(value, torch.Tensor):
        cpu.append(value)
    elif type(value) in (list, tuple):
        return type(value)(_inner(one, here, cpu) for one in value)
    return value


def _outer(value: Any, here: dict[int, DeviceTensor], ours: bool) -> Any:
    """``value`` with tensors on the device in place of new ones; arguments that were written into stay the same."""
    if isinstance(value, torch.Tensor):
        return here[id(value)] if id(value) in here else DeviceTensor(value) if ours else value
    if type(value) in (list, tuple):
        return type(value)(_outer(one, here, ours) for one in value)
    return value


def _refuse_mixing(func: Any, name: str, args: Any, cpu: list[torch.Tensor]) -> None:
    """What CUDA's kernels refuse: CPU tensors beside tensors on the device, with the exceptions of the module."""
    scalars = torch.Tag.pointwise in func.tags or name in SCALARS or name.startswith("aten::_foreach_")
    indices = {id(index) for index in args[1]} if name in INDEXED and _is_here(args[0]) else set()
    written = [args[i] for i, one in enumerate(func._schema.arguments[: len(args)]) if _is_written(one)]
    for tensor in cpu:
        allowed = id(tensor) in indices or (scalars and tensor.dim() == 0 and all(tensor is not w for w in written))
        if not allowed and tensor.device.type == "cpu":
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({name}, a CPU tensor of shape {tuple(tensor.shape)}, {calling_lines()[0]})"
            )


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _moving(move: Callable[..., Any]) -> Callable[..., Any]:
    """``Tensor.to`` that knows the device by the name that it has inside torch."""

    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        def known(value: Any) -> Any:
            return INSIDE if isinstance(value, str | torch.device) and is_ours(value) else value

        return move(tensor, *map(known, args), **{key: known(value) for key, value in kwargs.items()})

    return to


@contextlib.contextmanager
def strict_device() -> Iterator[StrictDevice]:
    """The device is there within the context; yields what counts its waits."""
    with contextlib.ExitStack() as stack:
        mode = StrictDevice()
        for name, value in mode.patches().items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch.accelerator, "is_available", lambda: False))  # it would ask the driver
        stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        stack.enter_context(patch.object(torch.Tensor, "to", _moving(torch.Tensor.to), create=True))
        stack.enter_context(patch.object(torch.Tensor, "cuda", lambda self, *args, **kw: self.to(NAME), create=True))
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(..., device=...) moves what it made, in the mode's sight
        stack.enter_context(mode)
        yield mode
