"""Validation during a distillation: when it is due, which set is the best on val, and what its record holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vldistill.config.plain import Plain
from vldistill.distillation.resume import Progress
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.workbench.headline import MEAN_RECALL, val_key


@dataclass
class Validation:
    """Keeps the best set on val.

    Args:
        score: of a set on val, higher is better.
        every: iterations between validations; 0 is never.
        best: learned tensors of the best set so far.
    """

    score: Callable[[DistilledSet], float]
    every: int
    best: dict[str, torch.Tensor]

    def due(self, iteration: int, last: int) -> bool:
        """Whether to validate before ``iteration``; always before the end, never where nothing is trained."""
        return bool(self.every) and last > 0 and (iteration % self.every == 0 or iteration == last)

    def validate(
        self, distilled: DistilledSet, variables: dict[str, torch.Tensor], iteration: int, progress: Progress
    ) -> float:
        """The score of ``distilled`` on val; its ``variables`` are copied where it is the best so far."""
        score = self.score(distilled)
        progress.looks += 1
        if score > progress.best_score:
            progress.best_score, progress.best_iteration = score, iteration
            self.best = {name: value.detach().clone() for name, value in variables.items()}
        return score


def selection(progress: Progress, seconds: float, measure: str = MEAN_RECALL) -> dict[str, Plain]:
    """How a set was chosen, for its ``info``."""
    return {
        "rule": "best on val" if progress.looks else "last iteration",
        "looks": progress.looks,
        val_key(measure): progress.best_score if progress.looks else None,
        "undone_steps": progress.undone,
        "iterations": progress.iteration,
        "seconds": round(seconds, 1),
    }
