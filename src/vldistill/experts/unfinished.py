"""What an expert that is not finished is kept in, so that it goes on where its training was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.encoders.dual import Groups
from vldistill.experts.trajectory import Trajectory, save_trajectory
from vldistill.training.resume import FileKeeper
from vldistill.training.state import Tensors


@dataclass
class Unfinished(FileKeeper):
    """The keeper of one expert: snapshots that were passed are files of their own, each written once.

    Args:
        snapshots: by epoch, those passed so far; filled by the training.
        losses: of the epochs so far, likewise.
    """

    snapshots: dict[int, Groups] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._kept: set[int] = set()

    def also(self) -> tuple[Tensors, dict[str, Any]]:
        """The losses and the epochs of the snapshots; those that are new are written now."""
        for epoch in self.snapshots.keys() - self._kept:
            save_trajectory(self._path(epoch), {epoch: self.snapshots[epoch]}, {}, self.note["dtype"])
            self._kept.add(epoch)
        return {}, {"losses": self.losses, "snapshots": sorted(self.snapshots)}

    def restore(self, tensors: Tensors, about: Mapping[str, Any]) -> None:
        """Snapshots and losses."""
        passed = {epoch: Trajectory(self._path(epoch)).snapshot(epoch) for epoch in about["snapshots"]}
        self.snapshots.clear()
        self.snapshots.update(passed)
        self.losses[:] = about["losses"]
        self._kept = set(passed)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}.safetensors"
