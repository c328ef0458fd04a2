"""Units of work, and the loop that runs them: dependencies first, retries, and a list of failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from vldistill.errors import Stopped
from vldistill.runtime.interrupts import deferred_stop
from vldistill.runtime.log import Reporter

POLL_SECONDS = 0.2
PAUSE_SECONDS = 0.5  # doubled before each retry, also the first: a file system may need a moment
Launch = Callable[[Sequence[str], Path], None]
"""Runs ``vldistill WORDS`` and appends its output to a file; raises :class:`UnitFailed` or Stopped."""

Kind = Literal["failed", "refused", "lost"]


class UnitFailed(Exception):
    """A unit, or one of its commands, failed.

    Args:
        message: for the list of failures.
        kind: ``refused`` (wrong input) is never retried; ``failed`` and ``lost`` (its process or node died) are.
    """

    def __init__(self, message: str, kind: Kind = "failed") -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True)
class Unit:
    """A piece of work for another process or another node.

    Args:
        name: unique.
        work: called with a :data:`Launch`. A module-level function, or a partial of one with plain values and frozen
            dataclasses, so that it can be pickled. It writes files atomically and keeps existing ones. Raises
            UnitFailed, Stopped or VldistillError.
        after: names of units that must have ended before, with or without success.
        needs: names of units that must have succeeded; if one failed, this one fails without being started.
    """

    name: str
    work: Callable[[Launch], None]
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


class Backend(Protocol):
    """Runs units: in processes of this machine, or on a cluster."""

    slots: int
    """Units submitted at a time."""

    def submit(self, unit: Unit) -> Future[None]:
        """Start a unit; its future raises UnitFailed, Stopped, or any other exception, which is a bug."""
        ...

    def stop(self) -> None:
        """Ask every running unit to stop."""
        ...

    def kill(self) -> None:
        """Kill the units that do not stop."""
        ...


def command(launch: Launch, words: Sequence[str], log: str) -> None:
    """The work of a unit that consists of one command."""
    launch(words, Path(log))


OnEnd = Callable[[Unit, UnitFailed | None], None]


@dataclass
class _Schedule:
    """The state of one call of :func:`run_units`."""

    backend: Backend
    on_end: OnEnd
    reporter: Reporter
    retries: int
    waiting: list[Unit]
    running: dict[Future[None], Unit] = field(default_factory=dict)
    failed: dict[str, UnitFailed] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    paused_until: dict[str, float] = field(default_factory=dict)  # by name
    stopping: bool = False

    @property
    def open_names(self) -> set[str]:
        return {unit.name for unit in (*self.waiting, *self.running.values())}

    def start(self) -> None:
        """Submit the units that can start, in order."""
        for unit in list(self.waiting):
            if self.stopping or len(self.running) >= self.backend.slots:
                return
            if time.monotonic() < self.paused_until.get(unit.name, 0.0):
                continue
            if self.open_names.intersection({*unit.after, *unit.needs} - {unit.name}):
                continue
            self.waiting.remove(unit)
            broken = next((name for name in unit.needs if name in self.failed), None)
            if broken is None:
                self.running[self.backend.submit(unit)] = unit
            else:
                self.end(unit, UnitFailed(f"{broken} failed: {self.failed[broken]}"))

    def end(self, unit: Unit, error: UnitFailed | None) -> None:
        """Record the final result of a unit."""
        if error is not None:
            self.failed[unit.name] = error
        self.on_end(unit, error)

    def collect(self) -> None:
        """Wait briefly, record the units that ended, and queue retries."""
        if not self.running:
            time.sleep(POLL_SECONDS if self.waiting else 0)
        ended, _ = wait(self.running, POLL_SECONDS, FIRST_COMPLETED)
        for future in ended:
            unit, error = self.running.pop(future), future.exception()
            if isinstance(error, Stopped):
                self.stop()
            elif error is not None and not isinstance(error, UnitFailed):
                raise error
            elif error is not None and error.kind != "refused" and not self.stopping and self._retries(unit.name):
                count = f"try {self.tried[unit.name] + 1} of {self.retries + 1}"
                self.reporter.warn(f"{unit.name}: {error}; {count}")
                self.waiting.insert(0, unit)
            else:
                self.end(unit, error)

    def _retries(self, name: str) -> bool:
        self.tried[name] = self.tried.get(name, 0) + 1
        self.paused_until[name] = time.monotonic() + PAUSE_SECONDS * 2 ** self.tried[name]
        return self.tried[name] <= self.retries

    def stop(self) -> None:
        """Ask running units to stop, and start no more."""
        self.stopping = True
        self.backend.stop()


def run_units(
    units: Sequence[Unit], backend: Backend, on_end: OnEnd, reporter: Reporter, retries: int = 2
) -> dict[str, UnitFailed]:
    """Run ``units`` in order as dependencies and free slots allow; returns the failures by name.

    Args:
        on_end: called in this thread with the final result of a unit: its failure or None.
        retries: number of retries of a unit that failed or was lost.

    Raises:
        Stopped: after a Ctrl-C or SIGTERM, or when a unit was stopped, once all running ones have ended.
    """
    schedule, interrupts = _Schedule(backend, on_end, reporter, retries, list(units)), 0
    with deferred_stop() as stop_asked:
        while schedule.waiting or schedule.running:
            try:
                if stop_asked() and not schedule.stopping:
                    schedule.stop()
                schedule.start()
                schedule.collect()
                if schedule.stopping and not schedule.running:
                    break
            except KeyboardInterrupt:  # the second one, and later ones
                interrupts += 1
                if interrupts == 1:
                    schedule.stop()  # asked twice, a process stops in the middle of its step
                else:
                    backend.kill()
            except BaseException:  # a bug: units that still run would be lost
                schedule.stop()
                raise
    if schedule.stopping:
        raise Stopped("Stopped. Run the same command to resume; finished units are kept, unfinished ones resume.")
    return schedule.failed
