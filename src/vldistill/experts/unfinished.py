"""The files of an unfinished expert, from which its training resumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vldistill.config.plain import Plain, Record, expect, items, number
from vldistill.encoders.dual import Groups
from vldistill.experts.trajectory import Trajectory, save_trajectory
from vldistill.training.resume import FileKeeper
from vldistill.training.state import Tensors


@dataclass
class Unfinished(FileKeeper):
    """The keeper of one expert: each snapshot is a separate file, written once.

    Args:
        dtype: of the snapshots in their files.
        snapshots: so far, by epoch; filled by the training.
        losses: of the epochs so far; filled by the training.
    """

    dtype: str = "float32"
    snapshots: dict[int, Groups] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._written: set[int] = set()

    def extra(self) -> tuple[Tensors, dict[str, Plain]]:
        """The losses and the epochs of the snapshots; writes new snapshots."""
        for epoch in self.snapshots.keys() - self._written:
            save_trajectory(self._path(epoch), {epoch: self.snapshots[epoch]}, None, self.dtype)
            self._written.add(epoch)
        return {}, {"losses": self.losses, "snapshots": sorted(self.snapshots)}

    def restore(self, tensors: Tensors, about: Record) -> None:
        """Restore snapshots and losses."""
        epochs = [expect(epoch, int) for epoch in items(about["snapshots"])]
        saved = {epoch: Trajectory(self._path(epoch)).snapshot(epoch) for epoch in epochs}
        self.snapshots.clear()
        self.snapshots.update(saved)
        self.losses[:] = map(number, items(about["losses"]))
        self._written = set(saved)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}.safetensors"
