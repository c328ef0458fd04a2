"""Memory: the peak of this process, free bytes of a device, bytes saved by graphs, and allocator settings."""

from __future__ import annotations

import ctypes
import math
import sys
from pathlib import Path

import psutil
import torch

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # version 2, on Linux
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


_limits: dict[str, int] = {}  # bytes by kind of device, of this process


def limit_memory(device: torch.device, most: int) -> None:
    """Let :func:`available_memory` of ``device`` keep this process within ``most`` bytes; 0 is no limit.

    On a GPU torch's allocator refuses more, so that what is done in parts is halved.
    """
    before, _limits[device.type] = memory_limit(device), most
    if device.type == "cuda" and (most or before):
        whole = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction(min(most / whole, 1.0) if most else 1.0, device)


def memory_limit(device: torch.device) -> int:
    """Bytes that :func:`limit_memory` allows; 0 without a limit."""
    return _limits.get(device.type, 0)


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``, including those cached by torch.

    On a CPU the limits of containers and batch jobs count too.
    """
    limit = memory_limit(device)
    if device.type == "cuda":
        taken = torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - taken
        return max(min(free, limit - taken), 0) if limit else free
    free = int(min(psutil.virtual_memory().available, cgroup_memory(CGROUPS, OWN_CGROUP)))
    return max(min(free, limit - _taken()), 0) if limit else free


class _Arenas(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple((f"n{number}", ctypes.c_size_t) for number in range(10))
    FREE = "n8"  # fordblks, bytes of freed blocks


def _taken() -> int:
    """Bytes that this process uses, without freed ones that it keeps."""
    resident, kept = psutil.Process().memory_info().rss, 0
    if sys.platform.startswith("linux"):
        try:
            mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
        except (OSError, AttributeError):  # another C library, or an old one
            return resident
        mallinfo.restype = _Arenas
        kept = getattr(mallinfo(), _Arenas.FREE)
    return max(resident - kept, 0)


def cgroup_memory(root: Path, own: Path) -> float:
    """Bytes that the control groups still allow this process; infinite without a limit.

    Args:
        root: where control groups are mounted.
        own: file that names the control group of this process, as ``0::/its/path``.
    """
    left = math.inf
    for folder in own_groups(root, own):
        try:
            limit, taken = int((folder / "memory.max").read_text()), int((folder / "memory.current").read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # "max", or a group that does not count memory
            continue
        left = min(left, limit - taken + int(stat.get("inactive_file", 0)))  # file pages can be freed
    return max(left, 0)


def own_groups(root: Path, own: Path) -> list[Path]:
    """The folders of the control groups that this process is in, and of those above them."""
    try:
        named = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        return []
    groups = [root.joinpath(*Path(path).parts[1:]) for path in named]
    return [folder for group in groups for folder in (group, *group.parents) if folder.is_relative_to(root)]


class GraphBytes(torch.autograd.graph.saved_tensors_hooks):
    """A context that adds to ``count`` the bytes that graphs save for backward, without parameters."""

    def __init__(self) -> None:
        self.count, self._seen = 0, set[int]()
        super().__init__(self._pack, lambda saved: saved)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        owner = tensor if tensor._base is None else tensor._base  # a linear layer keeps its weight's transpose
        if not isinstance(owner, torch.nn.Parameter) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.count += storage.nbytes()
        # not the tensor itself: a node that saves its own output (ReLU, softmax) would form a reference cycle, and a
        # graph that is dropped without backward would never be freed
        return tensor.detach()


def keep_freed_memory() -> bool:
    """Ask glibc to reuse freed blocks instead of returning them to the system; returns whether it accepted.

    Training on the CPU allocates and frees the same large activations in every step. If they are returned to the
    system, every page is zeroed again; benchmarks/allocator.py measures the cost.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library: no mallopt
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
