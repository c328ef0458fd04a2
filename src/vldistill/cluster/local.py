"""Units on this machine: several at a time, their commands in separate processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from queue import SimpleQueue

from vldistill.cluster.commands import Commands
from vldistill.cluster.units import Unit, UnitFailed
from vldistill.errors import VldistillError


class LocalProcesses(AbstractContextManager["LocalProcesses"]):
    """Runs units in processes of this machine.

    Args:
        slots: units at a time.
        threads: CPU threads of each.
        lock: a file descriptor that every process inherits.
        devices: the only GPU visible to each slot, assigned in turn; empty leaves all GPUs visible to all.
    """

    def __init__(self, slots: int, threads: int, lock: int | None = None, devices: Sequence[str] = ()) -> None:
        self.slots, self.commands = slots, Commands(threads, lock)
        self._pool = ThreadPoolExecutor(max_workers=slots)
        self._free: SimpleQueue[str | None] = SimpleQueue()
        for slot in range(slots):
            self._free.put(devices[slot % len(devices)] if devices else None)

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def submit(self, unit: Unit) -> Future[None]:
        """Start a unit in a thread."""
        return self._pool.submit(self._perform, unit)

    def _perform(self, unit: Unit) -> None:
        device = self._free.get()
        launch = self.commands.launch
        if device is not None:
            launch = partial(launch, environment={"CUDA_VISIBLE_DEVICES": device})
        try:
            unit.work(launch)
        except VldistillError as error:
            raise UnitFailed(str(error), "refused") from None
        finally:
            self._free.put(device)

    def stop(self) -> None:
        """Ask every process to stop."""
        self.commands.stop()

    def kill(self) -> None:
        """Kill the processes that do not stop."""
        self.commands.kill()


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_devices() -> tuple[str, ...]:
    """The CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip())
    import torch

    return tuple(str(number) for number in range(torch.cuda.device_count()))
