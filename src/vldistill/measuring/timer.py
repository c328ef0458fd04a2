"""Seconds, peak memory and waits of a work on a device."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MOST_CALLS = 50


def synchronised(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    synchronised(device)
    began = time.perf_counter()
    work()
    synchronised(device)
    return time.perf_counter() - began


def repeated(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of every call that fits in ``seconds``; at least one."""
    found, until = [once(work, device)], time.perf_counter() + seconds
    while len(found) < MOST_CALLS and time.perf_counter() + found[-1] < until:
        found.append(once(work, device))
    return found


def quickly(device: torch.device, seconds: float) -> Callable[[Callable[[], object]], float]:
    """A measurement of works that are short: a call to warm up, and the median of some."""

    def timed(work: Callable[[], object]) -> float:
        once(work, device)
        return statistics.median(repeated(work, device, seconds)[:20])

    return timed


def peak_of(work: Callable[[], object], device: torch.device) -> int | None:
    """The most bytes beside what was there before that one call had alive; None where the system does not tell.

    On a CPU from the pages of the process, freed blocks being handed back before.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        once(work, device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5", encoding="ascii")  # the high-water mark begins again
    except (OSError, AttributeError):
        return None
    before = psutil.Process().memory_info().rss
    work()
    high = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return max(int(high.split()[1]) * 1024 - before, 0)


def waits_of(work: Callable[[], object], device: torch.device) -> int | None:
    """How often one call waits for the device without saying so; None where torch does not count."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)
