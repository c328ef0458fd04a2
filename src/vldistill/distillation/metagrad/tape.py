"""Where the parameter copies theta_0 .. theta_T of an inner run live: memory first, then a temporary file."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from vldistill.errors import ConfigError

_ALIGNMENT = 64  # bytes; every tensor in the file starts on a boundary that suits any dtype


@dataclass(frozen=True)
class TapeStorage:
    """Where a tape keeps its parameter copies.

    ``memory_bytes``: copies stay on the parameters' own device up to this many bytes, the rest goes to a
    memory-mapped temporary file. ``folder``: the folder of that file; ``None`` is the system's temporary
    folder, which on some systems is itself kept in memory.
    """

    memory_bytes: int
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.memory_bytes < 0:
            raise ConfigError(f"memory_bytes={self.memory_bytes}: expected 0 (all on disk) or more bytes.")


def tensor_bytes(tensors: Sequence[Tensor]) -> int:
    """The bytes that the values of ``tensors`` take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def tape_bytes(start: Mapping[str, Mapping[str, Tensor]], steps: int, momentum: float = 0.0) -> int:
    """Bytes of the parameter copies of an inner run of ``steps`` steps: theta_0 .. theta_T.

    With momentum also v_1 .. v_T, which the rate gradient needs. theta_0 is the caller's own tensor, so the
    run adds one copy less than this.
    """
    one = sum(tensor_bytes(list(group.values())) for group in start.values())
    return one * (steps + 1) + (one * steps if momentum else 0)


class Tape:
    """A stack of lists of tensors: ``push`` in the forward run, ``pop`` in the backward sweep.

    In memory the tape holds references, not copies: the run never writes into a tensor that it pushed.
    The file, if one is needed, is unlinked as soon as it is mapped, so nothing stays behind however the
    process ends. Use as a context manager.
    """

    def __init__(self, storage: TapeStorage, entry_bytes: int, entries: int) -> None:
        """``entry_bytes``: bytes of one pushed list; ``entries``: how many will be pushed."""
        self._storage = storage
        self._kept = min(entries, storage.memory_bytes // entry_bytes if entry_bytes else entries)
        self._on_disk = entries - self._kept
        self._stack: list[list[Tensor]] = []
        self._devices: list[torch.device] = []
        self._file: Tensor | None = None
        self._path: Path | None = None
        self._used = 0

    def __enter__(self) -> Tape:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.clear()
        self._file = None
        if self._path is not None:  # only where a mapped file cannot be unlinked
            self._path.unlink(missing_ok=True)

    def push(self, tensors: Sequence[Tensor]) -> None:
        """Keep ``tensors``; they must not be written into afterwards."""
        if len(self._stack) < self._kept:
            self._stack.append(list(tensors))
            return
        if self._file is None:
            self._devices = [tensor.device for tensor in tensors]
            padded = sum(_padded(tensor) for tensor in tensors)
            self._file = self._map(padded * self._on_disk)
        views = []
        for tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            view = self._file[self._used : self._used + size].view(tensor.dtype).view(tensor.shape)
            view.copy_(tensor)
            views.append(view)
            self._used += _padded(tensor)
        self._stack.append(views)

    def pop(self) -> list[Tensor]:
        """The list pushed last, on the device it came from; it must not be written into."""
        on_disk = len(self._stack) > self._kept
        tensors = self._stack.pop()
        if on_disk:
            return [tensor.to(device) for tensor, device in zip(tensors, self._devices, strict=True)]
        return tensors

    def _map(self, size: int) -> Tensor:
        """A temporary file of ``size`` bytes as a uint8 tensor; its blocks are reserved before use."""
        folder = Path(self._storage.folder or tempfile.gettempdir())
        remedy = (
            "name a folder with more room in the environment variable TMPDIR, free memory, or take fewer inner steps"
        )
        if not folder.is_dir():
            raise ConfigError(f"the folder {folder} for parameter copies does not exist: create it, or {remedy}.")
        free = shutil.disk_usage(folder).free
        message = f"{size:,} bytes of parameter copies do not fit into {folder} ({free:,} bytes free): {remedy}."
        if free < size:
            raise ConfigError(message)
        handle, name = tempfile.mkstemp(prefix="vldistill-tape-", dir=folder)
        self._path = Path(name)
        try:
            if hasattr(os, "posix_fallocate"):  # a mapped page without a block behind it is a crash, not an error
                os.posix_fallocate(handle, 0, size)
        except OSError as error:
            raise ConfigError(message) from error
        finally:
            os.close(handle)
        mapped = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._path = None
        return mapped


def _padded(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return -(-size // _ALIGNMENT) * _ALIGNMENT
