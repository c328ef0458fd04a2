"""Learning curves: the monotone fit, how many pairs reach a share of the full data, and what is beyond."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vldistill.evaluation.hits import encoded_counts, encoded_hits
from vldistill.evaluation.learning_curve import PairsNeeded, learning_curves, pairs_needed
from vldistill.evaluation.measures import MEASURES
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.retrieval import QueryRanks, metrics_of

IMAGES = 300
CAPTION_IMAGE = torch.arange(IMAGES)
HARD = torch.rand(IMAGES, generator=torch.Generator().manual_seed(0))


def evaluated(skill: float, pairs: int, seed: int = 0, students: int = 4) -> Evaluation:
    tested = []
    for number in range(students):
        draw = torch.Generator().manual_seed(1000 * seed + number + int(1e4 * skill))
        ranks = ((HARD + 0.05 * torch.randn(IMAGES, generator=draw) - skill).clamp(min=0) * 50).long()
        found = QueryRanks(ranks, ranks)
        tested.append((metrics_of(found).to_json(), encoded_hits(found, CAPTION_IMAGE)))
    figures = {name: {"mean": float(np.mean([r[name] for r, _ in tested])), "std": 1.0} for name in MEASURES}
    generic = {**figures, "students": [r for r, _ in tested], "hits": [h for _, h in tested], "trials": []}
    return Evaluation.from_json({
        "pairs": pairs, "stored_floats": 1, "seeds": students, "generic": generic,
        "chance": dict.fromkeys(MEASURES, 0.3), "test_captions": encoded_counts(CAPTION_IMAGE),
    })  # fmt: skip


def test_the_number_of_pairs_is_interpolated_on_a_logarithmic_scale() -> None:
    """From 10 at 10 pairs to 30 at 1,000: 20 is half way, at 100."""
    assert pairs_needed([10, 1000], np.array([10.0, 30.0]), 20.0) == pytest.approx(100)
    assert pairs_needed([10, 1000], np.array([10.0, 30.0]), 30.0) == pytest.approx(1000)
    assert pairs_needed([10, 1000], np.array([10.0, 30.0]), 5.0) == 10
    assert math.isinf(pairs_needed([10, 1000], np.array([10.0, 30.0]), 30.1))


def test_the_fit_is_monotone() -> None:
    """A dip is averaged with what comes before it: 20 and 10 become 15 and 15."""
    assert pairs_needed([10, 20, 40, 80], np.array([0.0, 20.0, 10.0, 30.0]), 14.9) < 20
    assert pairs_needed([10, 20, 40, 80], np.array([0.0, 20.0, 10.0, 30.0]), 15.1) > 40


def test_curves_have_intervals_and_say_how_many_pairs_are_needed() -> None:
    full = evaluated(0.8, 1000)
    budgets = {20: 0.2, 50: 0.4, 100: 0.6, 200: 0.76, 500: 0.82}
    good = {pairs: [evaluated(skill, pairs)] for pairs, skill in budgets.items()}
    poor = {pairs: [evaluated(skill / 2, pairs)] for pairs, skill in budgets.items()}
    first, second = learning_curves({"good": good, "poor": poor}, full)
    assert [point.pairs for point in first.points] == [20, 50, 100, 200, 500]
    for point in first.points:
        assert point.low < point.mean < point.high
    by_share = {one.share: one for one in first.needed}
    low, needed, high = by_share[0.9].low, by_share[0.9].pairs, by_share[0.9].high
    assert low and needed and 100 < needed < 500
    assert low <= needed <= (high or 10**9)
    assert (by_share[0.9].pairs or 0) < (by_share[0.99].pairs or 10**9)
    assert all(one.pairs is None and one.high is None for one in second.needed)
    assert str(second.needed[0]) == "more [more, more]"


def test_several_sets_of_one_budget_are_pooled() -> None:
    full = evaluated(0.8, 1000)
    two = {20: [evaluated(0.3, 20), evaluated(0.34, 20, seed=1)], 50: [evaluated(0.5, 50)]}
    (curve,) = learning_curves({"sets": two}, full)
    means = [one.generic.mean_recall.mean for one in two[20] if one.generic]
    assert curve.points[0].mean == pytest.approx(sum(means) / 2)
    assert str(PairsNeeded(0.9, 1234, 1000, None)) == "1,234 [1,000, more]"
