"""Trainings kept in files: a checkpoint now and then and when the user asks to stop, and going on from there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.errors import ArtefactError, DamagedError, InUseError, Stopped, StorageError
from vldistill.runtime.log import Reporter
from vldistill.runtime.processes import Processes
from vldistill.storage.checkpoints import Checkpoints
from vldistill.storage.locks import held
from vldistill.training.state import Tensors

SAVE_SECONDS = 60.0  # between two checkpoints of a training, where nothing else is asked for


@dataclass
class FileKeeper:
    """A :class:`vldistill.training.state.Keeper`. What else a training collects is added by :meth:`also`.

    Args:
        what: names the training in messages.
        folder: of this training alone; deleted once it is finished.
        note: what it is made of, as plain values; a folder with another note is not gone on from.
        reporter: hears of damage.
        save_seconds: between two checkpoints.
        stop_asked: true once the user wants to stop.
        went_on: hears of the steps that an earlier process had done.
    """

    what: str
    folder: Path
    note: Mapping[str, Any]
    reporter: Reporter
    save_seconds: float
    stop_asked: Callable[[], bool]
    went_on: Callable[[int], None]

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    @property
    def checkpoints(self) -> Checkpoints:
        """The last two."""
        return Checkpoints(self.folder / "checkpoint.safetensors", self.reporter)

    def also(self) -> tuple[Tensors, dict[str, Any]]:
        """What belongs to the checkpoint beside the training's state: tensors, and plain values."""
        return {}, {}

    def restore(self, tensors: Tensors, about: Mapping[str, Any]) -> None:
        """Take back what :meth:`also` gave. Raises ArtefactError, KeyError, TypeError or ValueError."""

    def found(self) -> tuple[Tensors, int] | None:
        """The training's state and its steps; None, and a clean folder, where there is none or none that fits."""
        try:
            read = self.checkpoints.read()
            if read is None:
                return None
            tensors, about = read[0], json.loads(read[1]["about"])
            if about["note"] != json.loads(json.dumps(self.note)):
                raise ValueError("it was made of something else")
            self.restore(tensors, about)
        except (ArtefactError, KeyError, TypeError, ValueError) as error:
            reason = error.reason if isinstance(error, DamagedError) else str(error)
            self.reporter.warn(f"{self.what} cannot go on from {self.folder} ({reason}); it starts anew")
            self.remove()
            return None
        self.reporter.info(f"{self.what}: going on after {about['steps']} steps")
        self.went_on(about["steps"])
        return tensors, about["steps"]

    def due(self) -> bool:
        """After ``save_seconds``, or when the user asked to stop."""
        return self.stop_asked() or time.monotonic() - self._saved >= self.save_seconds

    def keep(self, tensors: Tensors, steps: int) -> None:
        """Write a checkpoint. Raises Stopped when the user asked to stop."""
        more, about = self.also()
        about = {"note": self.note, "steps": steps, **about}
        self.checkpoints.write({**tensors, **more}, {"about": json.dumps(about)})
        self._saved = time.monotonic()
        if self.stop_asked():
            raise Stopped(f"stopped after step {steps} of {self.what}; everything is saved")

    def remove(self) -> None:
        """Delete the folder: the training is finished, or starts anew."""
        shutil.rmtree(self.folder, ignore_errors=True)


def clear_leftovers(folder: Path, lock: Path) -> None:
    """Delete ``folder`` and ``lock``, left by a process that was killed between the end of its work and tidying up.

    Those of a process that is at work stay, and so do those that this one may not delete.
    """
    if folder.exists() or lock.exists():
        with suppress(InUseError, StorageError), held(lock, str(folder)):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class SharedKeeper:
    """The keeper of a training that several processes share: all go on from one place and stop together.

    Args:
        own: of this process; the first one's writes.
        processes: share the training.
    """

    own: FileKeeper
    processes: Processes
    stopping: bool = False

    def __post_init__(self) -> None:
        self._asked, self.own.stop_asked = self.own.stop_asked, lambda: self.stopping

    def found(self) -> tuple[Tensors, int] | None:
        """What all of them found. Raises ArtefactError where they differ."""
        found = self.own.found()
        steps = self.processes.gather(None if found is None else found[1])
        if any(step != steps[0] for step in steps):
            raise ArtefactError(
                f"the processes found {self.own.what} after {steps} steps in {self.own.folder}. They need one file "
                f"system; delete that folder if it is on one."
            )
        return found

    def due(self) -> bool:
        """When the first one's time is over, or when any was asked to stop."""
        told = self.processes.gather([self._asked(), self.own.due()])
        self.stopping = any(asked for asked, _ in told)
        return self.stopping or told[0][1]

    def keep(self, tensors: Tensors, steps: int) -> None:
        """The first one writes. Raises Stopped on all when any was asked to stop."""
        if self.processes.first:
            self.own.keep(tensors, steps)
        elif self.stopping:
            raise Stopped("stopped")
