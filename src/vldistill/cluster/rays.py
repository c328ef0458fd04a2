"""Units on a Ray cluster. Its nodes must share the file system of the run folder, the cache and the data."""

from __future__ import annotations

import os
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

from vldistill.cluster.commands import Commands
from vldistill.cluster.units import Unit, UnitFailed
from vldistill.errors import ConfigError, MissingExtraError, Stopped, VldistillError
from vldistill.runtime.log import Reporter

if TYPE_CHECKING:
    import ray

CARRIED = ("VLDISTILL_", "HF_", "PYTHONPATH")  # prefixes of environment variables that are sent to the nodes


class _Node(TypedDict, total=False):
    """What is used of a node's description by Ray."""

    Alive: bool
    Resources: dict[str, float]


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("--cluster needs Ray: pip install 'vldistill[ray]'.") from None
    return ray


def perform(unit: Unit, folder: str, environment: dict[str, str], threads: int) -> tuple[str, str]:
    """Run ``unit`` in a process of a node; returns its outcome and the reason as plain values, which pickle safely.

    Unexpected exceptions are raised: Ray returns them with their traceback.
    """
    commands = Commands(threads, environment=environment)
    try:
        os.chdir(folder)  # relative paths must mean the same as for the user
        unit.work(commands.launch)
    except UnitFailed as error:
        return error.kind, str(error)
    except VldistillError as error:
        return "refused", str(error)
    except Stopped as stop:
        return "stopped", str(stop)
    except OSError as error:  # the node's disk or network failed
        return "failed", f"{type(error).__name__}: {error}"
    return "done", ""


class RayCluster(AbstractContextManager["RayCluster"]):
    """A running Ray cluster.

    Args:
        address: ``auto`` (the cluster of this machine, or of ``RAY_ADDRESS``), ``HOST:PORT`` or ``ray://HOST:PORT``.
        cpus: CPU cores, and threads, of a unit.
        gpus: GPUs of a unit, may be a fraction; negative is one if the cluster has any.
        reporter: where missing resources are reported.

    Raises:
        ConfigError: there is no such cluster.
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
        self.slots += 1  # one is queued, so that a free core never waits for this process
        self._task = self.ray.remote(perform)
        self._live: dict[Future[None], ray.ObjectRef[tuple[str, str]]] = {}

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self.ray.shutdown()

    def submit(self, unit: Unit) -> Future[None]:
        """Submit a unit to the cluster."""
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
            error = self._unit_error(failure)
        if error is None:
            ours.set_result(None)
        else:
            ours.set_exception(error)

    def _unit_error(self, failure: BaseException) -> BaseException:
        """The error of a unit for an error of Ray."""
        errors = self.ray.exceptions
        if isinstance(failure, errors.TaskCancelledError):
            return Stopped("stopped")
        if isinstance(failure, errors.RayTaskError):
            last = (str(failure).strip().splitlines() or [repr(failure)])[-1]
            if "ModuleNotFoundError" in last:
                return UnitFailed(
                    f"a node lacks a package ({last}). Install the same vldistill on every node.", "refused"
                )
            return UnitFailed(f"hit a bug: {last}")
        lines = str(failure).strip().splitlines()
        return UnitFailed(f"its worker was lost ({lines[0] if lines else type(failure).__name__})", "lost")

    def stop(self) -> None:
        """Cancel every unit; running ones are interrupted and stop cleanly."""
        for reference in list(self._live.values()):
            self.ray.cancel(reference, force=False)

    def kill(self) -> None:
        """Kill the units that do not stop."""
        for reference in list(self._live.values()):
            self.ray.cancel(reference, force=True)


def _fits(node: _Node, cpus: int, gpus: float) -> bool:
    has = node.get("Resources", {})
    return node.get("Alive", False) and has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus
