"""Checkpoints of a training: written at intervals and when the user stops it, and read to resume it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vldistill.config.plain import Plain, Record
from vldistill.errors import ArtefactError, DamagedError, InUseError, Stopped, StorageError
from vldistill.runtime.log import Reporter
from vldistill.runtime.processes import Processes
from vldistill.storage.checkpoints import Checkpoints
from vldistill.storage.locks import held
from vldistill.training.state import Tensors

SAVE_SECONDS = 60.0  # between two checkpoints of a training, by default


@dataclass
class FileKeeper:
    """A :class:`vldistill.training.state.Keeper` with files. Subclasses add their own values in :meth:`extra`.

    Args:
        what: the training's name in messages.
        folder: of this training alone; deleted when the training is finished.
        note: what the training depends on; a folder whose note differs is not resumed.
        reporter: where damage is reported.
        save_seconds: between two checkpoints.
        stop_asked: returns true once the user wants to stop.
        on_resume: called with the number of steps already done, when a training is resumed.
    """

    what: str
    folder: Path
    note: Record
    reporter: Reporter
    save_seconds: float
    stop_asked: Callable[[], bool]
    on_resume: Callable[[int], None]

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    @property
    def checkpoints(self) -> Checkpoints:
        """The last two checkpoints."""
        return Checkpoints(self.folder / "checkpoint.safetensors", self.reporter)

    def extra(self) -> tuple[Tensors, dict[str, Plain]]:
        """What a checkpoint holds besides the training's state: tensors, and plain values."""
        return {}, {}

    def restore(self, tensors: Tensors, about: Record) -> None:
        """Restore what :meth:`extra` returned. Raises ArtefactError, KeyError, TypeError or ValueError."""

    def found(self) -> tuple[Tensors, int] | None:
        """The saved state and its number of steps; None, and an empty folder, when no checkpoint fits."""
        try:
            read = self.checkpoints.read()
            if read is None:
                return None
            tensors, about = read[0], json.loads(read[1]["about"])
            if about["note"] != json.loads(json.dumps(self.note)):
                raise ValueError("its configuration or data differ")
            self.restore(tensors, about)
        except (ArtefactError, KeyError, TypeError, ValueError) as error:
            reason = error.reason if isinstance(error, DamagedError) else str(error)
            self.reporter.warn(f"{self.what} cannot resume from {self.folder} ({reason}); it starts from the beginning")
            self.remove()
            return None
        self.reporter.info(f"{self.what}: resuming after {about['steps']} steps")
        self.on_resume(about["steps"])
        return tensors, about["steps"]

    def due(self) -> bool:
        """True after ``save_seconds``, or when the user asked to stop."""
        return self.stop_asked() or time.monotonic() - self._saved >= self.save_seconds

    def keep(self, tensors: Tensors, steps: int) -> None:
        """Write a checkpoint. Raises Stopped when the user asked to stop."""
        more, about = self.extra()
        about = {"note": self.note, "steps": steps, **about}
        self.checkpoints.write({**tensors, **more}, {"about": json.dumps(about)})
        self._saved = time.monotonic()
        if self.stop_asked():
            raise Stopped(f"stopped after step {steps} of {self.what}; everything is saved")

    def remove(self) -> None:
        """Delete the folder: the training is finished, or starts from the beginning."""
        shutil.rmtree(self.folder, ignore_errors=True)


def clear_leftovers(folder: Path, lock: Path) -> None:
    """Delete ``folder`` and ``lock`` of a process that was killed after its work and before it deleted them.

    They stay if another process is using them, or if this process may not delete them.
    """
    if folder.exists() or lock.exists():
        with suppress(InUseError, StorageError), held(lock, str(folder)):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class SharedKeeper:
    """The keeper of a training that several processes share: all resume from the same step and stop together.

    Args:
        own: the keeper of this process; only the first process writes.
        processes: share the training.
    """

    own: FileKeeper
    processes: Processes
    stopping: bool = False

    def __post_init__(self) -> None:
        self._asked, self.own.stop_asked = self.own.stop_asked, lambda: self.stopping

    def found(self) -> tuple[Tensors, int] | None:
        """The state that all processes found. Raises ArtefactError if they found different steps."""
        found = self.own.found()
        steps = self.processes.gather(None if found is None else found[1])
        if any(step != steps[0] for step in steps):
            raise ArtefactError(
                f"the processes found {self.own.what} after {steps} steps in {self.own.folder}. They need one file "
                f"system; delete that folder if it is on one."
            )
        return found

    def due(self) -> bool:
        """True when the first process is due to save, or when any process was asked to stop."""
        asked_and_due = self.processes.gather([self._asked(), self.own.due()])
        self.stopping = any(asked for asked, _ in asked_and_due)
        return self.stopping or asked_and_due[0][1]

    def keep(self, tensors: Tensors, steps: int) -> None:
        """Write in the first process. Raises Stopped in all when any was asked to stop."""
        if self.processes.first:
            self.own.keep(tensors, steps)
        elif self.stopping:
            raise Stopped("stopped")
