"""Memory of this process: its peak, and an allocator that keeps what it has."""

from __future__ import annotations

import ctypes
import sys

import psutil

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory() -> bool:
    """Ask glibc to reuse freed blocks instead of returning them to the system; whether it took the wish.

    Training on the CPU frees and takes the same large activations in every step. Returned to the system they come
    back as pages to be zeroed one by one, which cost a third of a step's CPU time (see benchmarks/allocator.py).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library: nothing to ask
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
