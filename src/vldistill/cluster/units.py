"""Units of work, and the loop that gives them out: needs first, lost ones again, failures listed at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from vldistill.errors import Stopped
from vldistill.runtime.interrupts import deferred_stop
from vldistill.runtime.log import Reporter

POLL_SECONDS = 0.2
PAUSE_SECONDS = 0.5  # before the first retry twice that, then twice as long each time: a file system may need a moment
Launch = Callable[[Sequence[str], Path], None]
"""Runs ``vldistill WORDS``, its output appended to a file; raises :class:`UnitFailed` or Stopped."""

Kind = Literal["failed", "refused", "lost"]


class UnitFailed(Exception):
    """A unit, or a command of it, failed.

    Args:
        message: for the list of failures.
        kind: ``refused`` is never tried again, because the same input is refused again; ``failed`` and ``lost`` (its
            process or its node died) are.
    """

    def __init__(self, message: str, kind: Kind = "failed") -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True)
class Unit:
    """A piece of work that another process or another node can do.

    Args:
        name: unique.
        work: a module-level function, called as ``work(launch, **arguments)`` with a :data:`Launch`. It leaves files,
            each written atomically, and keeps what is there already. Raises UnitFailed, Stopped or VldistillError.
        arguments: plain values and frozen dataclasses.
        after: names of units that have to have ended before, well or not.
        needs: names of units that have to have succeeded; where one failed, this one fails without being started.
    """

    name: str
    work: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


class Backend(Protocol):
    """What runs units: processes here, or a cluster."""

    slots: int
    """Units given out at a time."""

    def submit(self, unit: Unit) -> Future[None]:
        """Start a unit; the future raises UnitFailed, Stopped, or whatever else is a bug."""
        ...

    def stop(self) -> None:
        """Ask every running unit to stop."""
        ...

    def kill(self) -> None:
        """End what does not want to stop."""
        ...


def command(launch: Launch, words: Sequence[str], log: str) -> None:
    """The work of a unit that is one command."""
    launch(words, Path(log))


Heard = Callable[[Unit, UnitFailed | None], None]


@dataclass
class _Course:
    """One run of :func:`run_units`."""

    backend: Backend
    heard: Heard
    reporter: Reporter
    retries: int
    waiting: list[Unit]
    running: dict[Future[None], Unit] = field(default_factory=dict)
    failed: dict[str, UnitFailed] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)  # until when, by name
    stopping: bool = False

    @property
    def open_names(self) -> set[str]:
        return {unit.name for unit in (*self.waiting, *self.running.values())}

    def start(self) -> None:
        """Give out what can start, in order."""
        for unit in list(self.waiting):
            if self.stopping or len(self.running) >= self.backend.slots:
                return
            if time.monotonic() < self.resting.get(unit.name, 0.0):
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
        """A unit has ended for good."""
        if error is not None:
            self.failed[unit.name] = error
        self.heard(unit, error)

    def collect(self) -> None:
        """Hear of what ended in the last moment, and put what is worth it in line again."""
        if not self.running:
            time.sleep(POLL_SECONDS if self.waiting else 0)
        ended, _ = wait(self.running, POLL_SECONDS, FIRST_COMPLETED)
        for future in ended:
            unit, error = self.running.pop(future), future.exception()
            if isinstance(error, Stopped):
                self.stop()
            elif error is not None and not isinstance(error, UnitFailed):
                raise error
            elif error is not None and error.kind != "refused" and not self.stopping and self._again(unit.name):
                count = f"try {self.tried[unit.name] + 1} of {self.retries + 1}"
                self.reporter.warn(f"{unit.name}: {error}; {count}")
                self.waiting.insert(0, unit)
            else:
                self.end(unit, error)

    def _again(self, name: str) -> bool:
        self.tried[name] = self.tried.get(name, 0) + 1
        self.resting[name] = time.monotonic() + PAUSE_SECONDS * 2 ** self.tried[name]
        return self.tried[name] <= self.retries

    def stop(self) -> None:
        """Ask what runs to stop, and start nothing more."""
        self.stopping = True
        self.backend.stop()


def run_units(
    units: Sequence[Unit], backend: Backend, heard: Heard, reporter: Reporter, retries: int = 2
) -> dict[str, UnitFailed]:
    """Run ``units`` in order as far as needs and free slots allow; returns the failures by name.

    Args:
        heard: called in this thread when a unit has ended for good, with its failure or None.
        retries: how often a unit that failed or was lost is tried again.

    Raises:
        Stopped: after a Ctrl-C or SIGTERM, or when a unit was stopped, once all running ones have ended.
    """
    course, pressed = _Course(backend, heard, reporter, retries, list(units)), 0
    with deferred_stop() as stop_asked:
        while course.waiting or course.running:
            try:
                if stop_asked() and not course.stopping:
                    course.stop()
                course.start()
                course.collect()
                if course.stopping and not course.running:
                    break
            except KeyboardInterrupt:  # the second time, and any after it
                pressed += 1
                if pressed == 1:
                    course.stop()  # told twice, a process stops in the middle of its step
                else:
                    backend.kill()
            except BaseException:  # a bug: nobody would hear of what still runs
                course.stop()
                raise
    if course.stopping:
        raise Stopped("stopped; what is finished is kept and what was begun goes on from where it is.")
    return course.failed
