"""Learning curves: mean recall, of class sets zero-shot top-1, against pairs, and how many reach a share of the full.

A curve is fitted by isotonic regression, because more pairs of one kind cannot teach less, and interpolated on a
logarithmic scale of pairs. Nothing is extrapolated: a share that the largest budget does not reach has no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vldistill.config.plain import Plain
from vldistill.evaluation.bootstrap import LEVEL, Bootstrap, Interval, images_tested
from vldistill.evaluation.results import Evaluation

SHARES = (0.90, 0.95, 0.99)
"""Of the full data's mean recall."""


@dataclass(frozen=True)
class Point:
    """Mean recall at a number of pairs: mean and deviation over students, and the interval of the mean."""

    pairs: int
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class PairsNeeded:
    """How many pairs reach a share of the full data; None is more than the largest budget.

    Args:
        share: of the full data's mean recall.
        pairs: by the fit of the means.
        low: end of the interval with fewer pairs.
        high: end with more.
    """

    share: float
    pairs: int | None
    low: int | None
    high: int | None

    def __str__(self) -> str:
        def shown(pairs: int | None) -> str:
            return "more" if pairs is None else f"{pairs:,}"

        return f"{shown(self.pairs)} [{shown(self.low)}, {shown(self.high)}]"


@dataclass(frozen=True)
class Curve:
    """The curve of one kind of pairs."""

    name: str
    points: tuple[Point, ...]
    needed: tuple[PairsNeeded, ...]

    def to_json(self) -> dict[str, Plain]:
        """A JSON object."""
        return {
            "name": self.name,
            "points": [asdict(point) for point in self.points],
            "needed": [asdict(one) for one in self.needed],
        }


def learning_curves(by_kind: Mapping[str, Mapping[int, Sequence[Evaluation]]], full: Evaluation) -> list[Curve]:
    """The curve of every kind of pairs.

    Args:
        by_kind: by name and number of pairs, the evaluations of one or several sets or draws.
        full: of the full data.
    """
    bootstrap = Bootstrap(images_tested([full]))
    whole = bootstrap.means([full])
    assert whole is not None and full.generic is not None
    curves = []
    for name, budgets in by_kind.items():
        pairs = sorted(budgets)
        draws = [bootstrap.means(budgets[count]) for count in pairs]
        means = [np.mean([_mean(one) for one in budgets[count]]) for count in pairs]
        kept = np.stack([draw for draw in draws if draw is not None])  # (P, B)
        points = [_point(count, budgets[count], draw) for count, draw in zip(pairs, kept)]
        needed = []
        for share in SHARES:
            found = pairs_needed(pairs, np.array(means), share * full.generic.headline.mean)
            spread = [pairs_needed(pairs, kept[:, draw], share * whole[draw]) for draw in range(kept.shape[1])]
            low, high = _ends(spread)
            needed.append(PairsNeeded(share, _whole(found), low, high))
        curves.append(Curve(name, tuple(points), tuple(needed)))
    return curves


def _mean(evaluation: Evaluation) -> float:
    assert evaluation.generic is not None
    return evaluation.generic.headline.mean


def _point(pairs: int, evaluations: Sequence[Evaluation], draws: np.ndarray) -> Point:
    students = [s for one in evaluations if one.generic for s in one.generic.of_students(one.generic.measure)]
    mean = float(np.mean([_mean(one) for one in evaluations]))
    interval = Interval.of(mean, draws)
    std = float(np.std(students, ddof=1)) if len(students) > 1 else 0.0
    return Point(pairs, mean, std, interval.low, interval.high)


def pairs_needed(pairs: Sequence[float], recalls: np.ndarray, target: float) -> float:
    """The number of pairs at which a monotone fit reaches ``target``; infinity where the largest budget does not.

    Args:
        pairs: (P,) ascending.
        recalls: (P,) mean recalls.
        target: mean recall.
    """
    from sklearn.isotonic import isotonic_regression

    fitted = np.asarray(isotonic_regression(recalls))
    reached = np.flatnonzero(fitted >= target)
    if not len(reached):
        return math.inf
    last = int(reached[0])
    if last == 0:
        return float(pairs[0])
    left, right = math.log(pairs[last - 1]), math.log(pairs[last])
    part = (target - fitted[last - 1]) / (fitted[last] - fitted[last - 1])
    return math.exp(left + part * (right - left))


def _ends(found: Sequence[float]) -> tuple[int | None, int | None]:
    """The ends of the interval, by rank: draws that never reach the share count as the most pairs."""
    ordered = sorted(found)
    outside = (100 - LEVEL) / 200
    low, high = (ordered[round(part * (len(ordered) - 1))] for part in (outside, 1 - outside))
    return _whole(low), _whole(high)


def _whole(pairs: float) -> int | None:
    return None if math.isinf(pairs) else math.ceil(pairs - 1e-9)
