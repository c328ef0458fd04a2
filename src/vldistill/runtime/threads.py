"""CPU threads of torch: how many, how they wait for each other, and what else runs on the machine.

OpenMP's threads spin while they wait for each other. Beside another busy process each of them waits for one that is not
running, and two threads on two cores take several times the CPU time of one. The command line (``cli.py``)
lets them sleep instead; ``benchmarks/busy.py`` measures both.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import psutil
import torch

from vldistill.runtime.memory import CGROUPS, OWN_CGROUP, own_groups


def set_threads(threads: int) -> None:
    """Use ``threads`` CPU threads; with 0 as many as torch chooses, but no more than the container may use."""
    if not threads and not os.environ.get("OMP_NUM_THREADS"):
        allowed = allowed_cores(CGROUPS, OWN_CGROUP)
        threads = math.ceil(allowed) if allowed < torch.get_num_threads() else 0
    if threads:
        torch.set_num_threads(threads)


def allowed_cores(root: Path, own: Path) -> float:
    """CPU seconds a second that the control groups (version 2) allow this process; infinite without a limit.

    Args:
        root: where control groups are mounted.
        own: file that names the control group of this process, as ``0::/its/path``.
    """
    least = math.inf
    for folder in own_groups(root, own):
        try:
            quota, period = map(int, (folder / "cpu.max").read_text().split())
        except (OSError, ValueError):  # "max", or a group that does not count time
            continue
        least = min(least, quota / period)
    return least


def describe_threads(device: torch.device) -> str:
    """The device and the CPU threads in words, and what to do if other work keeps the cores busy."""
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    text = f"on {device}, {threads} CPU thread{'s' * (threads > 1)}"
    waiting = psutil.getloadavg()[0]
    if sys.platform != "win32" and threads > 1 and waiting > cores:
        text += (
            f"; the machine is busy: {waiting:.1f} threads want its {cores} cores, so expect more time than planned, "
            f"or give --runtime.threads {max(1, threads // 2)}"
        )
    return text
