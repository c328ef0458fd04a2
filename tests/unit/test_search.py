"""The search for the generic recipe: the same trials for every row, ladders that extend, edges that are named."""

from __future__ import annotations

import pytest

from vldistill.evaluation.search import Ladder, Point, Search

LADDERS = {"rate": Ladder((0.01, 0.02, 0.04, 0.08), 2), "noise": Ladder((0.0, 0.4, 0.8), 2, lower_limit=True)}
START: list[Point] = [{"rate": 1, "noise": 1}, {"rate": 2, "noise": 0}]


def hill(top_rate: int, top_noise: int) -> tuple[Search, list[Point]]:
    """A search whose score falls with the distance from a point."""
    tried: list[Point] = []

    def score(point: Point) -> float:
        tried.append(point)
        return -abs(point["rate"] - top_rate) - abs(point["noise"] - top_noise)

    return Search(LADDERS, score), tried


def test_a_ladder_goes_on_beyond_its_ends_by_its_factor() -> None:
    ladder = LADDERS["rate"]
    assert [ladder[rung] for rung in (-2, -1, 0, 3, 4, 5)] == pytest.approx([0.0025, 0.005, 0.01, 0.08, 0.16, 0.32])
    assert (ladder.beyond(0), ladder.beyond(1), ladder.beyond(3), ladder.beyond(4)) == (-1, None, 4, 5)
    assert LADDERS["noise"].beyond(0) is None and Ladder((0, 1)).beyond(1) is None


def test_the_search_finds_the_best_inside_and_names_no_edge() -> None:
    search, tried = hill(1, 1)
    found = search.run(START, 8, 4)
    assert found.best == {"rate": 1, "noise": 1} and found.edges == ()
    assert found.trials == len(tried) == 8 and tried[:2] == START


def test_no_point_is_tried_twice_and_the_trials_are_the_same_again() -> None:
    (search, first), (other, again) = hill(3, 2), hill(3, 2)
    for one in (search, other):
        one.run(START, 10, 3)
    assert first == again and len({tuple(point.items()) for point in first}) == len(first)


def test_the_random_moves_do_not_depend_on_the_row() -> None:
    """Two rows for which the same points are best try the same points, whatever their scores are."""
    tried: list[list[Point]] = []
    for scale in (1.0, 5.0):
        seen: list[Point] = []
        Search(LADDERS, lambda point: seen.append(point) or -scale * point["rate"]).run(START, 7, 0)  # noqa: B023
        tried.append(seen)
    assert tried[0] == tried[1]


def test_an_end_that_is_best_is_searched_beyond() -> None:
    search, tried = hill(6, 1)
    found = search.run(START, 8, 6)
    assert found.best["rate"] == 6 and found.trials > 8 and found.edges == ()
    assert max(point["rate"] for point in tried) == 7  # one rung beyond the best was tried, too


def test_what_still_ends_at_an_edge_is_named() -> None:
    search, _ = hill(30, 1)
    found = search.run(START, 8, 3)
    assert found.edges == ("rate",)
    assert found.best["rate"] >= 5


def test_a_natural_limit_is_no_edge() -> None:
    search, _ = hill(2, -5)
    found = search.run(START, 12, 3)
    assert found.best["noise"] == 0 and found.edges == ()


def test_points_that_train_the_same_student_are_tried_once() -> None:
    seen: list[Point] = []
    search = Search(LADDERS, lambda point: seen.append(point) or 0.0, lambda point: point["rate"])
    found = search.run(START, 20, 0)
    assert len(seen) == found.trials == 4
