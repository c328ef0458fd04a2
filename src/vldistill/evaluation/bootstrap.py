"""Intervals of mean recalls, or of class sets' top-1, and of their differences, by a paired bootstrap.

Test images are drawn with replacement, the same ones for every row; so are, for each row, its distillations and their
students. The gallery stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vldistill.evaluation.hits import decoded, decoded_class_hits
from vldistill.evaluation.results import Evaluation

DRAWS = 2000
LEVEL = 95  # percent of the draws that an interval holds


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds :data:`LEVEL` percent of its bootstrap draws."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> Interval:
        """The interval of ``draws`` (B,)."""
        low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
        return cls(value, float(low), float(high))


class Bootstrap:
    """Draws of test images, distillations and students, the same images for every row.

    Args:
        images: number of test images.
        draws: number of draws.
    """

    def __init__(self, images: int, draws: int = DRAWS) -> None:
        self.draws = draws
        self.weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=draws)

    def means(self, evaluations: Sequence[Evaluation]) -> np.ndarray | None:
        """Draws (B,) of the headline by the generic recipe; None where a student's hits were not kept.

        Args:
            evaluations: one of each distillation.
        """
        by_distillation: list[np.ndarray] = []
        for evaluation in evaluations:
            scores, counts = evaluation.generic, evaluation.test_captions
            if scores is None or counts is None or not scores.hits or not all(scores.hits):
                return None
            if scores.class_hits:
                images = self.weights.shape[1]
                levels = [decoded_class_hits(hits, images)[:, 0] for hits in scores.class_hits]
                students = [100.0 * self.weights @ found / images for found in levels]
            else:
                students = [decoded(hits, counts).recalls(self.weights).mean(1) for hits in scores.hits]
            by_distillation.append(np.stack(students))  # (S, B)
        return self._resampled(by_distillation)

    def _resampled(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """One draw of distillations, and of their students, for each column: the mean, (B,)."""
        draw = np.random.default_rng(1)
        every = np.arange(self.draws)
        total = np.zeros(self.draws)
        for _ in values:
            chosen = draw.integers(len(values), size=self.draws)
            for number, students in enumerate(values):
                here = every[chosen == number]
                picks = draw.integers(len(students), size=(len(students), len(here)))
                total[here] += students[picks, here].mean(0)
        return total / len(values)


def images_tested(evaluations: Iterable[Evaluation]) -> int:
    """The number of test images of evaluations of one data set; 0 where none kept its hits."""
    for evaluation in evaluations:
        scores, counts = evaluation.generic, evaluation.test_captions
        if counts and scores and scores.hits and scores.hits[0]:
            return len(decoded(scores.hits[0], counts).counts)
    return 0
