"""Spreads, intervals and ties of a comparison, against values written by hand and repeated sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vldistill.comparison.results import CellResult
from vldistill.comparison.rows import comparison_rows
from vldistill.comparison.statistics import Spread, augmentation_robust_score, label_robust_score
from vldistill.comparison.table import comparison_markdown
from vldistill.evaluation.bootstrap import Bootstrap
from vldistill.evaluation.hits import encoded_counts, encoded_hits
from vldistill.evaluation.measures import MEASURES, Figure
from vldistill.evaluation.results import Scores, Trial
from vldistill.evaluation.retrieval import QueryRanks, metrics_of

IMAGES, CAPTIONS = 200, 5
CAPTION_IMAGE = torch.arange(IMAGES).repeat_interleave(CAPTIONS)


def student(skill: float, seed: int, hard: torch.Tensor) -> tuple[dict[str, float], str]:
    """Recalls and hits of a student that ranks a query first where its skill exceeds the query's difficulty."""
    noise = 0.1 * torch.randn(len(hard), generator=torch.Generator().manual_seed(seed))
    ranks = ((hard + noise - skill).clamp(min=0) * 40).long()
    found = QueryRanks(ranks, ranks.repeat_interleave(CAPTIONS))
    return metrics_of(found).to_json(), encoded_hits(found, CAPTION_IMAGE)


def cell(row: str, skill: float, seed: int, *, kind: str = "method", students: int = 4, **more: Any) -> CellResult:
    hard = torch.rand(IMAGES, generator=torch.Generator().manual_seed(99))
    made = [student(skill + 0.01 * seed, 100 * seed + number + int(1000 * skill), hard) for number in range(students)]
    figures = {name: {"mean": float(np.mean([m[0][name] for m in made])), "std": 1.0} for name in MEASURES}
    generic = {
        **figures,
        "recipe": {},
        "students": [recalls for recalls, _ in made],
        "hits": [hits for _, hits in made],
        "trials": [],
        "chosen_by": "generic-v2",
        "edges": [],
        "steps": 70,
    }
    evaluation = {
        "kind": "distilled" if kind == "method" else "subset",
        "pairs": 6,
        "stored_floats": 4800,
        "seeds": students,
        "generic": generic,
        "chance": dict.fromkeys(MEASURES, 1.0),
        "details": {},
        "test_captions": encoded_counts(CAPTION_IMAGE),
    }
    base = {"row": row, "name": row, "kind": kind, "setting": "heads", "towers": "own", "protocol": "last"}
    return CellResult.from_json({**base, "seed": seed, "evaluation": evaluation, **more})


def test_the_spread_is_split_into_students_and_distillations() -> None:
    spread = Spread.of([[10.0, 12.0], [20.0, 24.0]])
    assert spread.pooled.mean == 16.5 and spread.pooled.std == pytest.approx(np.std([10, 12, 20, 24], ddof=1))
    assert spread.student == pytest.approx(np.sqrt((2 + 8) / 2))
    assert spread.distillation == pytest.approx(np.std([11, 22], ddof=1))
    assert Spread.of([[3.0]]) == Spread(Figure(3.0, 0.0), 0.0, None)


def test_distillations_of_one_row_are_pooled() -> None:
    cells = [cell("a", 0.5, 0), cell("a", 0.5, 1), cell("b", 0.2, 0)]
    first, second = comparison_rows(cells)
    means = [one.evaluation.generic.mean_recall.mean for one in cells if one.evaluation.generic]
    assert first.generic and first.generic.mean == pytest.approx(sum(means[:2]) / 2)
    assert (first.distillations, first.spread_of, first.seed) == (2, "distillation and student", None)
    assert (second.distillations, second.spread_of, second.seed, second.steps) == (1, "student", 0, 70)


def test_a_clearly_worse_row_is_no_tie_and_one_alike_is() -> None:
    good, alike, worse = comparison_rows([cell(name, s, 0) for name, s in (("a", 0.5), ("b", 0.497), ("c", 0.3))])
    best, other = (good, alike) if good.difference is None else (alike, good)
    assert best.difference is None and not best.tied
    assert other.tied and other.difference and other.difference.low < 0 <= other.difference.high
    assert worse.difference and worse.difference.high < 0 and not worse.tied
    text = comparison_markdown([good, alike, worse])
    assert " tie " in text and "95 % interval" in text and "generic-v2" in text
    assert "**heads, own: 6 pictures, one text each**" in text


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Two rows of equal skill, on many test sets: the interval of their difference contains 0 in about 95 %."""
    covered = 0
    for number in range(60):
        draw = torch.Generator().manual_seed(number)
        hard = torch.rand(IMAGES, generator=draw)
        first, second = ([student(0.5, 1000 * number + 10 * side + s, hard)[1] for s in range(3)] for side in range(2))
        bootstrap = Bootstrap(IMAGES, draws=300)
        counts = encoded_counts(CAPTION_IMAGE)
        drawn = [bootstrap.means([_bare(hits, counts).evaluation]) for hits in (first, second)]
        assert drawn[0] is not None and drawn[1] is not None
        low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
        covered += low <= 0 <= high
    assert 51 <= covered <= 60


def _bare(hits: list[str], counts: str) -> CellResult:
    figures = {name: {"mean": 1.0, "std": 0.0} for name in MEASURES}
    generic = {**figures, "hits": hits, "trials": []}
    evaluation = {
        "pairs": 2, "stored_floats": 1, "seeds": 3, "generic": generic, "chance": dict.fromkeys(MEASURES, 1.0),
        "test_captions": counts,
    }  # fmt: skip
    return CellResult.from_json({"row": "a", "evaluation": evaluation})


def test_cells_without_hits_have_no_intervals() -> None:
    rows = comparison_rows([_bare([], ""), _bare([], "")])
    assert all(row.difference is None and not row.tied for row in rows)


def test_the_scores_of_dd_ranking() -> None:
    """Worked by hand: 20 above random and 10 below the full data give alpha = 0.05."""
    assert label_robust_score(30, 10, 40) == pytest.approx(100 * (np.exp(0.05) - np.exp(-1)) / (np.e - np.exp(-1)))
    assert label_robust_score(100, 0, 100) == pytest.approx(100 * (np.exp(0.5) - np.exp(-1)) / (np.e - np.exp(-1)))

    def scores(augmented: float, plain: float) -> Scores:
        recipes = [({"noise": 0.4}, augmented), ({"views": False}, plain), ({"views": True}, 1.0)]
        trials = tuple(Trial({}, 1, value, recipe) for recipe, value in recipes)
        return Scores({}, trials=trials)

    found = augmentation_robust_score(scores(30.0, 20.0), scores(8.0, 6.0))
    assert found == pytest.approx(100 * (np.exp(0.18) - np.exp(-1)) / (np.e - np.exp(-1)))
    assert augmentation_robust_score(Scores({}), scores(8, 6)) is None


def test_a_row_has_both_scores_where_random_and_full_are_there() -> None:
    rows = comparison_rows([
        cell("a", 0.4, 0), cell("random:6", 0.1, 0, kind="target"), cell("full", 0.6, 0, kind="target"),
    ])  # fmt: skip
    assert rows[0].lrs is not None and rows[0].share and rows[0].share_interval
    assert rows[0].share_interval.low < rows[0].share < rows[0].share_interval.high < 1
    assert rows[0].floats_gain == rows[0].gain  # the same numbers are stored
