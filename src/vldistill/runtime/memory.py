"""Memory: this process's peak, what a device has left, what a graph keeps, an allocator that keeps what it has."""

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


def available_memory(device: torch.device) -> int:
    """Bytes that can still be taken on ``device``, those that torch holds in reserve among them.

    On a CPU the limits of a container or of a batch job count too.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return int(min(psutil.virtual_memory().available, cgroup_memory(CGROUPS, OWN_CGROUP)))


def cgroup_memory(root: Path, own: Path) -> float:
    """Bytes that the control groups of this process leave it; infinite where nothing limits them.

    Args:
        root: where control groups are mounted.
        own: the file that names the one of this process, as ``0::/its/path``.
    """
    try:
        named = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        return math.inf
    left = math.inf
    for group in [root.joinpath(*Path(path).parts[1:]) for path in named]:
        for folder in [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]:
            try:
                limit, taken = int((folder / "memory.max").read_text()), int((folder / "memory.current").read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # "max", or a group that does not count memory
                continue
            left = min(left, limit - taken + int(stat.get("inactive_file", 0)))  # pages of files make room
    return max(left, 0)


class GraphBytes(torch.autograd.graph.saved_tensors_hooks):
    """A context in which ``count`` grows by the bytes that graphs keep for the way back, parameters left out."""

    def __init__(self) -> None:
        self.count, self._seen = 0, set[int]()
        super().__init__(self._pack, lambda saved: saved)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        owner = tensor if tensor._base is None else tensor._base  # a linear layer keeps its weight's transpose
        if not isinstance(owner, torch.nn.Parameter) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.count += storage.nbytes()
        # not the tensor itself: where a node keeps its own output (ReLU, softmax), the two would hold each other,
        # and a graph that is let go without a way back would never be freed
        return tensor.detach()


def keep_freed_memory() -> bool:
    """Ask glibc to reuse freed blocks instead of returning them to the system; whether it took the wish.

    Training on the CPU frees and takes the same large activations in every step. Returned to the system they come
    back as pages to be zeroed one by one; benchmarks/allocator.py measures what that costs.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library: nothing to ask
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
