"""Trajectory: snapshots of the trained parameters of one expert, in one safetensors file.

Tensors are stored as ``epoch/side/name``. The file is memory-mapped, so that drawing a segment reads only its two
snapshots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from vldistill.config.plain import expect
from vldistill.encoders.dual import SIDES, Groups, packed, unpacked
from vldistill.errors import ArtefactError, DamagedError, MatchingError
from vldistill.experts.note import ExpertNote
from vldistill.storage.files import TensorFile, write_tensors

FORMAT = 1
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}  # by the dtype's name in the file


def clone_groups(params: Mapping[str, Mapping[str, torch.Tensor]], dtype: torch.dtype | None = None) -> Groups:
    """Detached copies on the CPU: without the copy, training would change the snapshot."""
    return {
        group: {name: t.detach().to("cpu", dtype or t.dtype, copy=True) for name, t in named.items()}
        for group, named in params.items()
    }


def save_trajectory(path: Path, snapshots: Mapping[int, Groups], note: ExpertNote | None, dtype: str) -> None:
    """Write ``snapshots`` by epoch atomically, with a ``note`` if the expert is finished."""
    target = getattr(torch, dtype)
    tensors: dict[str, torch.Tensor] = {}
    for epoch, groups in snapshots.items():
        tensors |= {name: tensor.to(target) for name, tensor in packed(groups, f"{epoch}/").items()}
    write_tensors(
        path, tensors, {"vldistill.trajectory": json.dumps({"format": FORMAT, **(note.to_record() if note else {})})}
    )


class Trajectory:
    """One expert's file, opened and checked; snapshots are read on demand.

    Args:
        path: a file written by :func:`save_trajectory`.

    Raises:
        ArtefactError: the file is missing, damaged or not a trajectory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ArtefactError(f"expert {path} does not exist. Run `vldistill experts` first.")
        try:
            self._file = TensorFile(path, "expert")
            self._record = expect(json.loads(self._file.metadata["vldistill.trajectory"]), dict)
            json.dumps(self._record, ensure_ascii=False, allow_nan=False).encode()  # else it could not be shown
            if self._record["format"] != FORMAT:
                raise ValueError(f"format {self._record['format']!r}; expected {FORMAT}")
            self._shapes = self._read_shapes()
        except (DamagedError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DamagedError:
        reason = error.reason if isinstance(error, DamagedError) else error
        return DamagedError(
            f"expert {self.path} is damaged or not a trajectory ({reason}). "
            f"Run `vldistill experts` again: it records damaged experts again and keeps the others."
        )

    @property
    def note(self) -> ExpertNote:
        """What the expert was trained on and how. Raises DamagedError."""
        try:
            return ExpertNote.from_record(self._record)
        except KeyError as error:
            raise self._damaged(ValueError(f"its note has no {error}")) from None
        except TypeError as error:
            raise self._damaged(ValueError(f"its note: {error}")) from None

    def check_whole(self) -> None:
        """Read the note and every snapshot, and verify their checksums. Raises DamagedError."""
        _ = self.note
        for epoch in self.epochs:
            self.snapshot(epoch)

    def _read_shapes(self) -> dict[int, dict[str, tuple[int, ...]]]:
        """The shape of every ``side/name`` by epoch, from the header. Raises ValueError."""
        shapes: dict[int, dict[str, tuple[int, ...]]] = {}
        for full in self._file.names:
            epoch, _, name = full.partition("/")
            dtype = self._file.dtype(full)
            if not epoch.isdigit() or name.partition("/")[0] not in SIDES or dtype not in DTYPES:
                raise ValueError(f"it holds an unexpected tensor {full!r} of {dtype}")
            shapes.setdefault(int(epoch), {})[name] = self._file.shape(full)
        if not shapes or any(named != next(iter(shapes.values())) for named in shapes.values()):
            raise ValueError("its snapshots are missing or do not hold the same tensors")
        return shapes

    @property
    def epochs(self) -> list[int]:
        """The epochs of the snapshots, ascending."""
        return sorted(self._shapes)

    def snapshot(self, epoch: int) -> Groups:
        """The trained parameters after ``epoch`` epochs, float32 on the CPU; verified at the first read.

        Raises:
            MatchingError: there is no such snapshot.
            DamagedError: its checksum differs.
        """
        if epoch not in self._shapes:
            raise MatchingError(
                f"expert {self.path.name} has no snapshot of epoch {epoch}; it has {self.epochs}. "
                f"Lower max_start_epoch or expert_epochs, or train longer experts."
            )
        try:
            stored = {name: self._file.read(f"{epoch}/{name}") for name in self._shapes[epoch]}
        except DamagedError as error:
            raise self._damaged(error) from None
        # copies: `stored` is the mapped file, shared by all draws
        return unpacked({name: tensor.to(torch.float32, copy=True) for name, tensor in stored.items()})

    def segment(self, start: int, length: int) -> tuple[Groups, Groups]:
        """The snapshots at epochs ``start`` and ``start + length``."""
        return self.snapshot(start), self.snapshot(start + length)

    def check_fits(self, params: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Refuse a trajectory whose names or shapes differ from the trained parameters ``params``."""
        wanted = {name: tuple(tensor.shape) for name, tensor in packed(params).items()}
        differing = sorted(self._shapes[self.epochs[0]].items() ^ wanted.items())
        if differing:
            raise ArtefactError(
                f"expert {self.path} was trained with other towers or another setting: {differing[:3]} differ. "
                f"Use a separate run folder for each encoder."
            )
