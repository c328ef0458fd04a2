"""The options of where units run, shared by all stages that have units."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vldistill.cluster.local import LocalProcesses, cores, visible_devices
from vldistill.cluster.shards import WHOLE, Shard
from vldistill.errors import ConfigError

if TYPE_CHECKING:
    from vldistill.cluster.rays import RayCluster
    from vldistill.runtime.log import Reporter


@dataclass(frozen=True)
class Place:
    """Where units run.

    Args:
        cluster: ``local``, ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        workers: processes at a time, if local.
        cpus: CPU cores of a unit on a cluster.
        gpus: GPUs of a unit; negative means automatic.
        retries: number of retries of a failed or lost unit.
        shard: the part of the work that this job does.
    """

    cluster: str = "local"
    workers: int = 1
    cpus: int = 1
    gpus: float = -1.0
    retries: int = 2
    shard: Shard = WHOLE

    def __post_init__(self) -> None:
        if self.workers < 1 or self.workers > cores():
            raise ConfigError(
                f"--workers is {self.workers}; expected 1 to {cores()}, the CPU cores that this process may use."
            )
        if self.cluster != "local" and self.workers > 1:
            raise ConfigError(
                f"--workers {self.workers} is for this machine; --cluster {self.cluster} uses the cluster's size. "
                f"Leave one of them out."
            )
        if self.cpus < 1 or self.retries < 0:
            raise ConfigError(f"--cpus is {self.cpus} and --retries {self.retries}; expected 1 or more, and 0 or more.")
        if self.cluster == "local" and self.gpus not in (-1, 0, 1):
            raise ConfigError(
                f"--gpus is {self.gpus:g}; processes of this machine take one GPU each (-1 or 1), or none (0). Other "
                f"shares are for --cluster."
            )
        if self.spread and self.shard != WHOLE:
            raise ConfigError(
                f"--shard {self.shard} is for independent jobs; with --workers or --cluster one command runs all. "
                f"Leave one of them out."
            )

    @property
    def spread(self) -> bool:
        """Whether units run outside of this process."""
        return self.cluster != "local" or self.workers > 1

    @property
    def threads(self) -> int:
        """CPU threads of a unit: its share of the cores, at most ``OMP_NUM_THREADS`` if that is set."""
        if self.cluster != "local":
            return self.cpus
        asked = os.environ.get("OMP_NUM_THREADS", "")
        return min(cores() // self.workers, int(asked) if asked.isdecimal() and int(asked) else cores())

    def describe(self, slots: int) -> str:
        """Where units run, for messages."""
        if self.cluster != "local":
            return f"{slots} at a time on cluster {self.cluster}, {self.threads} threads each"
        part = "" if self.shard == WHOLE else f", shard {self.shard} of the remaining work"
        return f"{slots} at a time, {self.threads} threads each{part}"

    def backend(self, reporter: Reporter, lock: int | None = None) -> LocalProcesses | RayCluster:
        """The backend that runs the units; use it as a context."""
        if self.cluster != "local":
            from vldistill.cluster.rays import RayCluster

            return RayCluster(self.cluster, self.cpus, self.gpus, reporter)
        devices = visible_devices() if self.workers > 1 else ()
        devices = devices if self.gpus else ("",)  # no GPU for any unit
        return LocalProcesses(self.workers, self.threads, lock, devices)


def add_place(parser: ArgumentParser) -> None:
    """Add the options of :class:`Place` to an argument parser."""
    parser.add_argument("--workers", type=int, default=1, help="processes at a time; CPU cores are divided among them")
    parser.add_argument(
        "--cluster", type=str, default="local", help="local, or a Ray cluster: auto, HOST:PORT or ray://HOST:PORT"
    )
    parser.add_argument("--cpus", type=int, default=1, help="CPU cores, and threads, of a unit on a cluster")
    parser.add_argument(
        "--gpus", type=float, default=-1.0, help="GPUs of a unit, also a part of one; -1: one if there are any"
    )
    parser.add_argument("--retries", type=int, default=2, help="number of retries of a failed or lost unit")
    parser.add_argument("--shard", type=str, default="1/1", help="I/N: do the I-th of N parts, e.g. in a job array")


def place_of(given: Namespace) -> Place:
    """The :class:`Place` of parsed arguments. Raises ConfigError."""
    return Place(given.cluster, given.workers, given.cpus, given.gpus, given.retries, Shard.parse(given.shard))
