"""What every registered selector promises. A new one is enrolled by one line of ``OPTIONS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ground import Ground

from vldistill.config import SelectConfig
from vldistill.selection.choose import choose_nested, choose_pairs
from vldistill.selection.coreset import choose_coreset
from vldistill.selection.pipeline import prepare
from vldistill.selection.selector import SELECTORS

OPTIONS: dict[str, dict[str, Any]] = {
    "facility": {"ground_set": 20},
    "forgetting": {},
    "herding": {},
    "kcenter": {},
    "kmeans": {"cluster_sample": 60},
    "learned": {"learn_steps": 1, "learn_pool": 2.0},
    "match": {},
    "random": {},
    "similarity": {},
}
"""By selector: options worth a run of their own."""


@pytest.fixture
def asked(ground: Ground, name: str, tmp_path: Path) -> Callable[..., SelectConfig]:
    """``asked(count, **options)``: a configuration; for ``match`` with a set of as many pairs."""

    def make(count: int, **options: Any) -> SelectConfig:
        if name == "match":
            folder = tmp_path / f"set-{count}"
            if not folder.exists():
                choose_coreset(ground.bench, SelectConfig(method="random", pairs=count)).save(folder)
            options["match"] = str(folder)
        return SelectConfig(warmup_epochs=1, **options)

    return make


grounds = pytest.mark.parametrize("ground", ["heads"], indirect=True)


def test_every_selector_is_enrolled() -> None:
    assert sorted(OPTIONS) == list(SELECTORS)


@grounds
@pytest.mark.parametrize("name", SELECTORS)
def test_it_chooses_captions_of_distinct_images_as_often_as_asked(
    ground: Ground, name: str, asked: Callable[..., SelectConfig]
) -> None:
    for options in ({}, OPTIONS[name]):
        config = asked(5, **options)
        images, captions = choose_pairs(ground.bench, name, 5, 0, config)
        mapping = torch.tensor(list(ground.bench.pixels("train").pairs.caption_image))
        assert len(set(images.tolist())) == 5 and torch.equal(mapping[captions], images)
        assert torch.equal(choose_pairs(ground.bench, name, 5, 0, config)[1], captions), "the same twice"


@grounds
@pytest.mark.parametrize("name", SELECTORS)
def test_the_seed_matters_where_it_says_so(ground: Ground, name: str, asked: Callable[..., SelectConfig]) -> None:
    config = asked(6)
    chosen = {tuple(sorted(choose_pairs(ground.bench, name, 6, seed, config)[1].tolist())) for seed in range(4)}
    assert (len(chosen) > 1) == SELECTORS[name].drawn


@grounds
@pytest.mark.parametrize("name", SELECTORS)
def test_after_filters_it_chooses_among_what_is_left(
    ground: Ground, name: str, asked: Callable[..., SelectConfig]
) -> None:
    config = asked(5, filters=("characters=top60%",))
    left = {int(row) for row in prepare(ground.bench, config).rows}
    _, captions = choose_pairs(ground.bench, name, 5, 0, config)
    assert {*captions.tolist()} <= left and len(left) < ground.bench.pixels("train").pairs.count_captions


@grounds
@pytest.mark.parametrize("name", SELECTORS)
def test_the_first_of_nested_budgets_are_a_set(ground: Ground, name: str, asked: Callable[..., SelectConfig]) -> None:
    if name == "match":
        return  # one pair for each of a set
    images, captions = choose_nested(ground.bench, name, (3, 6), 0, asked(6))
    assert len(set(images.tolist())) == 6
    if SELECTORS[name].nested:
        assert torch.equal(captions[:3], choose_pairs(ground.bench, name, 3, 0, asked(3))[1])


@pytest.mark.parametrize("name", SELECTORS)
def test_it_is_listed_with_a_line_and_reads_options_that_exist(name: str) -> None:
    entry = SELECTORS[name]
    assert entry.summary.endswith(".") and 20 < len(entry.summary) < 150
    assert entry.options(SelectConfig()).keys() == set(entry.reads)
