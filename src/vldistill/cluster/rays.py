"""Units on a Ray cluster. Nodes share the file system of the run folder, the cache and the data."""

from __future__ import annotations

import os
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vldistill.cluster.commands import Commands
from vldistill.cluster.units import Unit, UnitFailed
from vldistill.errors import ConfigError, MissingExtraError, Stopped, VldistillError
from vldistill.runtime.log import Reporter

CARRIED = ("VLDISTILL_", "HF_", "PYTHONPATH")  # how the names of variables begin that commands on nodes need


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("--cluster needs Ray: pip install 'vldistill[ray]'.") from None
    return ray


def perform(unit: Unit, folder: str, environment: dict[str, str], threads: int) -> tuple[str, str]:
    """Do ``unit`` in a process of a node; what became of it, and why: plain values travel safely.

    A unit that raises anything else raises it here: Ray brings it back with its traceback.
    """
    commands = Commands(threads, environment=environment)
    try:
        os.chdir(folder)  # relative paths mean what they mean to the user
        unit.work(commands.launch, **unit.arguments)
    except UnitFailed as error:
        return error.kind, str(error)
    except VldistillError as error:
        return "refused", str(error)
    except Stopped as stop:
        return "stopped", str(stop)
    except OSError as error:  # of a node's disk or network
        return "failed", f"{type(error).__name__}: {error}"
    return "done", ""


class RayCluster(AbstractContextManager["RayCluster"]):
    """A Ray cluster that is running already.

    Args:
        address: ``auto`` (the cluster of this machine, or of ``RAY_ADDRESS``), ``HOST:PORT`` or ``ray://HOST:PORT``.
        cpus: CPU cores of a unit, and the threads it uses.
        gpus: GPUs of a unit, also a part of one; negative is one where the cluster has any.
        reporter: hears of what the cluster lacks.

    Raises:
        ConfigError: no such cluster.
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, address: str, cpus: int, gpus: float, reporter: Reporter) -> None:
        self.ray = _ray()
        self._ours = not self.ray.is_initialized()
        if self._ours:
            try:
                self.ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError, TimeoutError, AssertionError) as error:
                reason = str(error).strip().splitlines()[0]
                raise ConfigError(
                    f"--cluster {address}: no Ray cluster there ({reason}). Start one with `ray start --head`, and on "
                    f"every other node `ray start --address HOST:6379`, or use --cluster local."
                ) from None
        total = self.ray.cluster_resources()
        self.cpus, self.gpus = cpus, gpus if gpus >= 0 else float(total.get("GPU", 0) >= 1)
        self.slots = max(1, int(total.get("CPU", 0)) // cpus)
        if self.gpus:
            self.slots = max(1, min(self.slots, int(total.get("GPU", 0) / self.gpus)))
        if not any(_fits(node, cpus, self.gpus) for node in self.ray.nodes()):
            reporter.warn(
                f"no node of the cluster has {cpus} CPU cores and {self.gpus:g} GPUs; waiting for one. "
                f"Ask for less with --cpus and --gpus."
            )
        self.slots += 1  # one in line, so that a free core never waits for this process
        self._task = self.ray.remote(perform)
        self._live: dict[Future[None], Any] = {}

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self.ray.shutdown()

    def submit(self, unit: Unit) -> Future[None]:
        """Hand a unit to the cluster."""
        carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        reference = self._task.options(name=unit.name, num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0).remote(
            unit, str(Path.cwd()), carried, self.cpus
        )
        ours: Future[None] = Future()
        self._live[ours] = reference
        reference.future().add_done_callback(lambda theirs: self._ended(ours, theirs))
        return ours

    def _ended(self, ours: Future[None], theirs: Future[tuple[str, str]]) -> None:
        self._live.pop(ours, None)
        failure = theirs.exception()
        if failure is None:
            kind, why = theirs.result()
            error = {"done": None, "stopped": Stopped(why)}.get(kind, UnitFailed(why, kind))  # pyright: ignore
        else:
            error = self._meaning(failure)
        if error is None:
            ours.set_result(None)
        else:
            ours.set_exception(error)

    def _meaning(self, failure: BaseException) -> BaseException:
        """What an error of Ray means here."""
        errors = self.ray.exceptions
        if isinstance(failure, errors.TaskCancelledError):
            return Stopped("stopped")
        if isinstance(failure, errors.RayTaskError):
            last = (str(failure).strip().splitlines() or [repr(failure)])[-1]
            if "ModuleNotFoundError" in last:
                return UnitFailed(
                    f"a node lacks a package ({last}). Install the same vldistill on every node.", "refused"
                )
            return UnitFailed(f"met a bug: {last}")
        said = str(failure).strip().splitlines()
        return UnitFailed(f"its worker was lost ({said[0] if said else type(failure).__name__})", "lost")

    def stop(self) -> None:
        """Take every unit back: what runs is interrupted and stops politely."""
        for reference in list(self._live.values()):
            self.ray.cancel(reference, force=False)

    def kill(self) -> None:
        """End what does not want to stop."""
        for reference in list(self._live.values()):
            self.ray.cancel(reference, force=True)


def _fits(node: dict[str, Any], cpus: int, gpus: float) -> bool:
    has = node.get("Resources", {})
    return bool(node.get("Alive")) and has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus
