"""Trajectory: named snapshots of the trained parameters of one expert, in one safetensors file.

A snapshot is stored under ``epoch/side/name``. The file is memory-mapped, so that drawing a segment reads
its two snapshots and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vldistill.encoders.dual import SIDES, Groups
from vldistill.errors import ArtefactError, MatchingError
from vldistill.files import write_tensors

FORMAT = 1


def clone_groups(params: Mapping[str, Mapping[str, torch.Tensor]]) -> Groups:
    """Detached copies on the CPU: a live weight that is only detached would change under the snapshot."""
    return {
        group: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
        for group, named in params.items()
    }


def save_trajectory(path: Path, snapshots: Mapping[int, Groups], note: Mapping[str, Any], dtype: str) -> None:
    """Write ``snapshots`` by epoch, with the provenance ``note``, atomically."""
    target = getattr(torch, dtype)
    tensors = {
        f"{epoch}/{group}/{name}": tensor.to(target)
        for epoch, groups in snapshots.items()
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    write_tensors(path, tensors, {"vldistill.trajectory": json.dumps({"format": FORMAT, **note})})


class Trajectory:
    """One expert's file, opened and checked; snapshots are read when asked for.

    Args:
        path: a file written by :func:`save_trajectory`.

    Raises:
        ArtefactError: when the file is missing, damaged or not a trajectory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            self.note: dict[str, Any] = json.loads((self._file.metadata() or {})["vldistill.trajectory"])
            names = list(self._file.keys())
        except FileNotFoundError:
            raise ArtefactError(f"expert {path} does not exist. Run `vldistill experts` first.") from None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ArtefactError(
                f"expert {path} is damaged or not a trajectory ({error}). "
                f"Run `vldistill experts` again: it redoes broken experts and keeps the others."
            ) from None
        self._names: dict[int, list[tuple[str, str]]] = {}
        for full in names:
            epoch, _, rest = full.partition("/")
            group, _, name = rest.partition("/")
            if not epoch.isdigit() or group not in SIDES or not name:
                raise ArtefactError(f"expert {path} holds an unexpected tensor {full!r}. Make it again.")
            self._names.setdefault(int(epoch), []).append((group, name))

    @property
    def epochs(self) -> list[int]:
        """The epochs whose snapshot is kept, ascending."""
        return sorted(self._names)

    def snapshot(self, epoch: int) -> Groups:
        """The trained parameters after ``epoch`` epochs, float32 on the CPU."""
        if epoch not in self._names:
            raise MatchingError(
                f"expert {self.path.name} has no snapshot of epoch {epoch}; it keeps {self.epochs}. "
                f"Lower max_start_epoch or expert_epochs, or train longer experts."
            )
        groups: Groups = {side: {} for side in SIDES}
        for group, name in self._names[epoch]:
            groups[group][name] = self._file.get_tensor(f"{epoch}/{group}/{name}").float()
        return groups

    def segment(self, start: int, length: int) -> tuple[Groups, Groups]:
        """The snapshots at epochs ``start`` and ``start + length``."""
        return self.snapshot(start), self.snapshot(start + length)

    def check_fits(self, params: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Refuse a trajectory whose names or shapes differ from the trained parameters ``params``."""
        epoch = self.epochs[0]
        own = {}
        for group, name in self._names[epoch]:
            own[f"{group}/{name}"] = tuple(self._file.get_slice(f"{epoch}/{group}/{name}").get_shape())
        wanted = {f"{g}/{n}": tuple(t.shape) for g, named in params.items() for n, t in named.items()}
        if own != wanted:
            differing = sorted(set(own.items()) ^ set(wanted.items()))[:3]
            raise ArtefactError(
                f"expert {self.path} was trained with other towers or another setting: {differing} differ. "
                f"Use a run folder of its own for each encoder."
            )
