"""The state of a distillation: what its checkpoint holds, and how it is resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vldistill.errors import ArtefactError
from vldistill.experts.trajectory import Trajectory
from vldistill.storage.checkpoints import Checkpoints
from vldistill.storage.files import write_text

CHECKPOINT = "checkpoint.safetensors"
METRICS_FILE = "metrics.jsonl"


@dataclass
class Progress:
    """Where the loop is; everything here is in the checkpoint."""

    iteration: int = 0
    scale: float = 1.0
    bad_in_a_row: int = 0
    undone: int = 0
    recent: list[float] = field(default_factory=list)
    phase: str = ""
    best_score: float = -math.inf
    best_iteration: int = -1
    looks: int = 0
    seconds: float = 0.0
    experts: list[str] = field(default_factory=list)


def write_checkpoint(checkpoints: Checkpoints, tensors: dict[str, torch.Tensor], progress: Progress) -> None:
    """Write one; a score that is not there yet is null, which JSON has and infinity it has not."""
    note = vars(progress) | ({"best_score": None} if progress.best_score == -math.inf else {})
    checkpoints.write(tensors, {"progress": json.dumps(note)})


def read_checkpoint(checkpoints: Checkpoints) -> tuple[dict[str, torch.Tensor], Progress] | None:
    """The last checkpoint; None where there is none. Raises ArtefactError for one of something else."""
    found = checkpoints.read()
    if found is None:
        return None
    tensors, metadata = found
    with foreign_checkpoint(checkpoints.path):
        note = json.loads(metadata["progress"])
        score = -math.inf if note["best_score"] is None else note["best_score"]
        return tensors, Progress(**{**note, "best_score": score})


@contextmanager
def foreign_checkpoint(path: Path) -> Iterator[None]:
    """Turn what fails where a checkpoint is of another distillation into an ArtefactError with the remedy."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtefactError(
            f"{path} is not a checkpoint of this distillation ({error}). Delete it to start again."
        ) from None


def same_experts(experts: Sequence[Trajectory], names: Sequence[str], path: Path) -> list[Trajectory]:
    """The experts that a distillation began with, though more are recorded by now. Raises ArtefactError."""
    there = {expert.path.name: expert for expert in experts}
    if missing := [name for name in names if name not in there]:
        raise ArtefactError(
            f"{path} was begun with {len(names)} experts, and {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} not among the {len(there)} that are there now. Record them "
            f"again with `vldistill experts`, or delete this file to start again."
        )
    return [there[name] for name in names]


def cut_metrics(path: Path, iteration: int) -> None:
    """Forget lines that were written after the checkpoint: they are about to be written again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_text(path, "".join(f"{line}\n" for line in lines if _iteration(line) < iteration))


def _iteration(line: str) -> float:
    """The iteration of a line of metrics; infinite for half a line, left by a crash."""
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
