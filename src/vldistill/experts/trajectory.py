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

from vldistill.encoders.dual import SIDES, Groups, shapes_of
from vldistill.errors import ArtefactError, MatchingError
from vldistill.files import write_tensors

FORMAT = 1
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}  # by their names in the file


def clone_groups(params: Mapping[str, Mapping[str, torch.Tensor]], dtype: torch.dtype | None = None) -> Groups:
    """Detached copies on the CPU: a live weight that is only detached would change under the snapshot."""
    return {
        group: {name: t.detach().to("cpu", dtype or t.dtype, copy=True) for name, t in named.items()}
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
            if not isinstance(self.note, dict):
                raise ValueError("its note is no object")
            json.dumps(self.note, ensure_ascii=False, allow_nan=False).encode()  # or it could not be shown
            if self.note["format"] != FORMAT:
                raise ValueError(f"format {self.note['format']!r}; expected {FORMAT}")
            self._shapes = self._read_shapes()
        except FileNotFoundError:
            raise ArtefactError(f"expert {path} does not exist. Run `vldistill experts` first.") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ArtefactError(
                f"expert {path} is damaged or not a trajectory ({error}). "
                f"Run `vldistill experts` again: it redoes broken experts and keeps the others."
            ) from None

    def _read_shapes(self) -> dict[int, dict[str, tuple[int, ...]]]:
        """By epoch the shape of every ``side/name``, from the header alone. Raises ValueError."""
        shapes: dict[int, dict[str, tuple[int, ...]]] = {}
        for full in self._file.keys():  # noqa: SIM118
            epoch, _, name = full.partition("/")
            tensor = self._file.get_slice(full)
            if not epoch.isdigit() or name.partition("/")[0] not in SIDES or tensor.get_dtype() not in DTYPES:
                raise ValueError(f"it holds an unexpected tensor {full!r} of {tensor.get_dtype()}")
            shapes.setdefault(int(epoch), {})[name] = tuple(tensor.get_shape())
        if not shapes or any(named != next(iter(shapes.values())) for named in shapes.values()):
            raise ValueError("its snapshots are missing or do not hold the same tensors")
        return shapes

    @property
    def epochs(self) -> list[int]:
        """The epochs whose snapshot is kept, ascending."""
        return sorted(self._shapes)

    def snapshot(self, epoch: int) -> Groups:
        """The trained parameters after ``epoch`` epochs, float32 on the CPU."""
        if epoch not in self._shapes:
            raise MatchingError(
                f"expert {self.path.name} has no snapshot of epoch {epoch}; it keeps {self.epochs}. "
                f"Lower max_start_epoch or expert_epochs, or train longer experts."
            )
        groups: Groups = {side: {} for side in SIDES}
        for full in self._shapes[epoch]:
            group, _, name = full.partition("/")
            stored = self._file.get_tensor(f"{epoch}/{full}")
            groups[group][name] = stored.to(
                torch.float32, copy=True
            )  # `stored` is the mapped file, shared by all draws
        return groups

    def segment(self, start: int, length: int) -> tuple[Groups, Groups]:
        """The snapshots at epochs ``start`` and ``start + length``."""
        return self.snapshot(start), self.snapshot(start + length)

    def check_fits(self, params: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Refuse a trajectory whose names or shapes differ from the trained parameters ``params``."""
        differing = sorted(self._shapes[self.epochs[0]].items() ^ shapes_of(params).items())
        if differing:
            raise ArtefactError(
                f"expert {self.path} was trained with other towers or another setting: {differing[:3]} differ. "
                f"Use a run folder of its own for each encoder."
            )
