"""What an expert that is not finished is kept in, so that it goes on where its training was.

A folder beside the expert's file holds the last two checkpoints of the training and, each written once, the snapshots
that were passed. It is deleted when the expert is finished.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.checkpoints import Checkpoints
from vldistill.encoders.dual import Groups
from vldistill.errors import ArtefactError, DamagedError, Stopped
from vldistill.experts.trajectory import Trajectory, save_trajectory
from vldistill.log import Reporter
from vldistill.ranks import Ranks
from vldistill.training_state import Tensors


@dataclass
class Unfinished:
    """The keeper of one expert's training; see :class:`vldistill.training_state.Keeper`.

    Args:
        folder: of this expert alone.
        note: what it is made of; a folder with another note is not gone on from.
        reporter: hears of damage.
        save_seconds: between two checkpoints.
        stop_asked: true once the user wants to stop.
        snapshots: by epoch, those passed so far; filled by the training.
        losses: of the epochs so far, likewise.
    """

    folder: Path
    note: Mapping[str, Any]
    reporter: Reporter
    save_seconds: float
    stop_asked: Callable[[], bool]
    snapshots: dict[int, Groups] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._kept: set[int] = set()
        self._saved = time.monotonic()

    @property
    def checkpoints(self) -> Checkpoints:
        """The last two."""
        return Checkpoints(self.folder / "checkpoint.safetensors", self.reporter)

    def found(self) -> tuple[Tensors, int] | None:
        """The training's state and its steps; the snapshots and losses so far are put in place."""
        try:
            read = self.checkpoints.read()
            if read is None:
                return None
            tensors, metadata = read
            about = json.loads(metadata["about"])
            if about["note"] != json.loads(json.dumps(self.note)):
                raise ValueError("it was made of something else")
            passed = {epoch: self._snapshot(epoch) for epoch in about["snapshots"]}
        except (ArtefactError, KeyError, TypeError, ValueError) as error:
            reason = error.reason if isinstance(error, DamagedError) else str(error)
            self.reporter.warn(
                f"{self.folder}: the unfinished expert cannot be gone on with ({reason}); it starts anew"
            )
            self.remove()
            return None
        self.snapshots.clear()
        self.snapshots.update(passed)
        self.losses[:] = about["losses"]
        self._kept = set(passed)
        self.reporter.info(f"expert {self.note['index']}: going on after {about['steps']} steps")
        return tensors, about["steps"]

    def due(self) -> bool:
        """After ``save_seconds``, or when the user asked to stop."""
        return self.stop_asked() or time.monotonic() - self._saved >= self.save_seconds

    def keep(self, tensors: Tensors, steps: int) -> None:
        """Write the snapshots that are new, then a checkpoint. Raises Stopped when the user asked to stop."""
        for epoch in self.snapshots.keys() - self._kept:
            save_trajectory(self._path(epoch), {epoch: self.snapshots[epoch]}, {}, self.note["dtype"])
            self._kept.add(epoch)
        about = {"note": self.note, "steps": steps, "losses": self.losses, "snapshots": sorted(self.snapshots)}
        self.checkpoints.write(tensors, {"about": json.dumps(about)})
        self._saved = time.monotonic()
        if self.stop_asked():
            raise Stopped(f"stopped after step {steps} of expert {self.note['index']}; everything is saved")

    def remove(self) -> None:
        """Delete the folder: the expert is finished, or starts anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}.safetensors"

    def _snapshot(self, epoch: int) -> Groups:
        return Trajectory(self._path(epoch)).snapshot(epoch)


@dataclass
class SharedKeeper:
    """The keeper of a training that several processes share: all go on from one place and stop together.

    Args:
        own: of this process; the first one's writes.
        ranks: the processes.
    """

    own: Unfinished
    ranks: Ranks
    stopping: bool = False

    def __post_init__(self) -> None:
        self._asked, self.own.stop_asked = self.own.stop_asked, lambda: self.stopping

    def found(self) -> tuple[Tensors, int] | None:
        """What all of them found; None where they differ, which makes the training start anew."""
        found = self.own.found()
        steps = self.ranks.gather(None if found is None else found[1])
        return found if all(step == steps[0] for step in steps) else None

    def due(self) -> bool:
        """When the first one's time is over, or when any was asked to stop."""
        told = self.ranks.gather([self._asked(), self.own.due()])
        self.stopping = any(asked for asked, _ in told)
        return self.stopping or told[0][1]

    def keep(self, tensors: Tensors, steps: int) -> None:
        """The first one writes. Raises Stopped on all when any was asked to stop."""
        if self.ranks.first:
            self.own.keep(tensors, steps)
        elif self.stopping:
            raise Stopped("stopped")
