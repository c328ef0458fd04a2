"""The files of an unfinished expert, from which its training resumes."""

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
    """The keeper of one expert: each snapshot is a separate file, written once.

    Args:
        snapshots: so far, by epoch; filled by the training.
        losses: of the epochs so far; filled by the training.
    """

    snapshots: dict[int, Groups] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._written: set[int] = set()

    def extra(self) -> tuple[Tensors, dict[str, Any]]:
        """The losses and the epochs of the snapshots; writes new snapshots."""
        for epoch in self.snapshots.keys() - self._written:
            save_trajectory(self._path(epoch), {epoch: self.snapshots[epoch]}, {}, self.note["dtype"])
            self._written.add(epoch)
        return {}, {"losses": self.losses, "snapshots": sorted(self.snapshots)}

    def restore(self, tensors: Tensors, about: Mapping[str, Any]) -> None:
        """Restore snapshots and losses."""
        saved = {epoch: Trajectory(self._path(epoch)).snapshot(epoch) for epoch in about["snapshots"]}
        self.snapshots.clear()
        self.snapshots.update(saved)
        self.losses[:] = about["losses"]
        self._written = set(saved)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}.safetensors"
