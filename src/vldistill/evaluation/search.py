"""The search for the generic recipe, protocol ``generic-v2``: one space for every row, real or distilled.

Every dimension is a ladder of values. The first trials are fixed points of the space; each later one is the best so far
with some dimensions moved a rung or two, by random numbers that depend on the number of the trial alone: the same
number of trials from the same seed for every row. Where the best one ends at an end of a ladder that is no natural
limit, the ladder is extended and searched on; what still ends there is recorded as an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from vldistill.runtime.randomness import generator

Point = Mapping[str, int]
"""A rung of every ladder, by name; rungs outside of a ladder's values extend it."""
MOVED = 0.35  # probability that a dimension moves in a trial
FAR = 0.3  # probability that a move is of two rungs
TRIES = 100  # to find a point that was not tried
SPARE = 3  # times as many points are drawn as are tried, where some train the same student


@dataclass(frozen=True)
class Ladder:
    """One dimension of the space.

    Args:
        values: the rungs, ascending.
        factor: between rungs beyond the ends; 0 where the ends are natural limits.
        lower_limit: whether the lowest value is a natural limit, such as no noise.
    """

    values: tuple[float, ...]
    factor: float = 0.0
    lower_limit: bool = False

    def __getitem__(self, rung: int) -> float:
        """The value of a rung, also beyond the ends."""
        last = len(self.values) - 1
        if rung < 0:
            return self.values[0] / self.factor**-rung
        return self.values[rung] if rung <= last else self.values[last] * self.factor ** (rung - last)

    def beyond(self, rung: int) -> int | None:
        """The next rung beyond an end that ``rung`` has reached; None inside, and at a natural limit."""
        if rung <= 0 and self.factor and not self.lower_limit:
            return rung - 1
        return rung + 1 if rung >= len(self.values) - 1 and self.factor else None

    def inside(self, rung: int) -> int:
        """The nearest rung of the declared values."""
        return min(max(rung, 0), len(self.values) - 1)


@dataclass(frozen=True)
class Found:
    """The outcome of a search: the best point, its score, how many were tried, the dimensions that end at an edge."""

    best: Point
    score: float
    trials: int
    edges: tuple[str, ...]


class Search:
    """A search in progress.

    Args:
        ladders: of every dimension.
        score: of a point on val, higher is better.
        same: what of a point its training depends on; points that agree in it are tried once.
    """

    def __init__(
        self,
        ladders: Mapping[str, Ladder],
        score: Callable[[Point], float],
        same: Callable[[Point], object] = lambda point: tuple(sorted(point.items())),
    ) -> None:
        self.ladders, self.score, self.same = ladders, score, same
        self.tried: dict[object, tuple[Point, float]] = {}

    def run(self, first: Sequence[Point], trials: int, more: int, *, spend: bool = False) -> Found:
        """Try ``trials`` points, the ``first`` ones before all others, and up to ``more`` beyond the ends.

        Args:
            spend: try all ``more`` points: near the best one where it is not at an end.
        """
        for point in first[:trials]:
            self._try(point)
        for number in range(SPARE * trials):
            if len(self.tried) < trials:
                self._try(self._moved(number))
        for number in range(more):
            if further := self._further():
                self._try(next(iter(further.values())))
            elif spend:
                self._try(self._moved(trials + number))
        best, score = self._best()
        return Found(best, score, len(self.tried), tuple(self._further()))

    def _try(self, point: Point) -> None:
        key = self.same(point)
        if key not in self.tried:
            self.tried[key] = point, self.score(point)

    def _best(self) -> tuple[Point, float]:
        return max(self.tried.values(), key=lambda found: found[1])

    def _moved(self, number: int) -> Point:
        """The best point so far with some dimensions moved; a new one where there is any."""
        draw = generator("search", number)
        best, _ = self._best()
        point = dict(best)
        for _ in range(TRIES):
            point = dict(best)
            for name, ladder in self.ladders.items():
                moves, up, far = torch.rand(3, generator=draw).tolist()
                rungs = (2 if far < FAR else 1) * (1 if up < 0.5 else -1)
                if moves < MOVED:
                    point[name] = ladder.inside(best[name] + rungs)
            if self.same(point) not in self.tried:
                break
        return point

    def _further(self) -> dict[str, Point]:
        """The best point moved beyond each end that it has reached, by dimension, without those that were tried."""
        best, _ = self._best()
        ends = {name: ladder.beyond(best[name]) for name, ladder in self.ladders.items()}
        points = {name: {**best, name: rung} for name, rung in ends.items() if rung is not None}
        return {name: point for name, point in points.items() if self.same(point) not in self.tried}
