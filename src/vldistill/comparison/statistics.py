"""What the rows of a comparison are worth beyond their means: spread by source, intervals of differences, ties.

A row whose interval of the difference to the best row of its group contains zero cannot be distinguished from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vldistill.evaluation.bootstrap import Interval
from vldistill.evaluation.measures import Figure
from vldistill.evaluation.results import Scores


@dataclass(frozen=True)
class Spread:
    """Mean and deviations of a measure over the students of one or several distillations.

    Args:
        pooled: over all students of all distillations.
        student: over the students of one distillation, the root mean square of all.
        distillation: over the means of distillations; None of a single one.
    """

    pooled: Figure
    student: float
    distillation: float | None

    @classmethod
    def of(cls, values: Sequence[Sequence[float]]) -> Spread:
        """Of the students' values, by distillation."""
        every = np.concatenate([np.asarray(part, float) for part in values])
        within = [np.var(part, ddof=1) for part in values if len(part) > 1]
        means = [float(np.mean(part)) for part in values]
        return cls(
            Figure(float(np.mean(means)), float(np.std(every, ddof=1)) if len(every) > 1 else 0.0),
            float(np.sqrt(np.mean(within))) if within else 0.0,
            float(np.std(means, ddof=1)) if len(means) > 1 else None,
        )


def differences(draws: Mapping[str, np.ndarray], means: Mapping[str, float]) -> dict[str, Interval]:
    """By row the difference of its mean recall to the best row's."""
    best = max(means, key=lambda name: means[name])
    if best not in draws:
        return {}
    found = {name: Interval.of(means[name] - means[best], draw - draws[best]) for name, draw in draws.items()}
    return {name: interval for name, interval in found.items() if name != best}


def label_robust_score(generic: float, random: float, full: float) -> float:
    """LRS of DD-Ranking (arXiv 2505.13300) with w = 1/2, in percent, of mean recalls in percent.

    The improvement over random and the distance to the full data, all by the generic recipe, whose targets are hard.
    """
    return _normalised(((generic - random) - (full - generic)) / 200)


def augmentation_robust_score(scores: Scores, random: Scores) -> float | None:
    """ARS of DD-Ranking (arXiv 2505.13300) with gamma = 1/2, in percent: the improvement over random with augmentation
    and without, each by the best trial on val of that kind; None where a search tried only one kind."""
    best = [{kind: _best_trial(found, kind) for kind in (True, False)} for found in (scores, random)]
    gains = []
    for kind in (True, False):
        made, drawn = best[0][kind], best[1][kind]
        if made is None or drawn is None:
            return None
        gains.append(made - drawn)
    return _normalised(sum(gains) / 200)


def _best_trial(scores: Scores, augmented: bool) -> float | None:
    """The best mean recall on val among the trials with noise or views, or among those without."""
    found = [
        trial.val_mean_recall
        for trial in scores.trials or ()
        if trial.recipe and augmented == bool(trial.recipe.get("noise") or trial.recipe.get("views"))
    ]
    return max(found, default=None)


def _normalised(alpha: float) -> float:
    return 100 * float((np.exp(alpha) - np.exp(-1)) / (np.e - np.exp(-1)))
