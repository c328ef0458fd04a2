"""Checkpoints: the last two, so that a damaged one costs the work since the one before, and never a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from vldistill.errors import DamagedError
from vldistill.runtime.log import Reporter
from vldistill.storage.files import read_tensors, storage_errors, sync_folder, write_tensors


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one piece of work.

    Args:
        path: of the last one; the one before has ``-before`` in its name.
        reporter: receives reports of damage.
    """

    path: Path
    reporter: Reporter

    @property
    def fresh(self) -> Path:
        """Where the next one is written; it stays there if the process dies before it is renamed."""
        return self.path.with_name(f"{self.path.stem}-new{self.path.suffix}")

    @property
    def before(self) -> Path:
        """Where the one before the last is."""
        return self.path.with_name(f"{self.path.stem}-before{self.path.suffix}")

    @property
    def there(self) -> bool:
        """Whether there are any, whole or not."""
        return any(path.exists() for path in (self.path, self.fresh, self.before))

    def write(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
        """Keep a new one; the last becomes the one before. A full disk leaves both as they were.

        Raises:
            StorageError: the disk is full, read-only or failing.
        """
        write_tensors(self.fresh, tensors, metadata)
        with storage_errors(self.path):
            if self.path.exists():
                self.path.replace(self.before)
            self.fresh.replace(self.path)
            sync_folder(self.path.parent)

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
        """The last one that is whole; None where there is none.

        Raises:
            DamagedError: there are some, and all of them are damaged.
        """
        damage: DamagedError | None = None
        for path in (self.path, self.fresh, self.before):
            if not path.exists():
                continue
            try:
                found = read_tensors(path, "checkpoint")
            except DamagedError as error:
                self.reporter.warn(str(error))
                damage = damage or error
                continue
            if damage is not None:
                self.reporter.warn(f"resuming from the checkpoint before it, {path}")
                self.path.unlink(missing_ok=True)  # or the next one would take the place of the good one
            return found
        if damage is not None:
            raise damage
        return None

    def remove(self) -> None:
        """Delete them: the work is done."""
        for path in (self.path, self.fresh, self.before):
            path.unlink(missing_ok=True)
