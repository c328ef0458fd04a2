"""What every registered selector promises. A new one is enrolled by one line of ``OPTIONS``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ground import Ground

from vldistill.config import SelectConfig
from vldistill.selection.choose import choose_pairs
from vldistill.selection.selector import SELECTORS

OPTIONS: dict[str, dict[str, Any]] = {
    "facility": {"ground_set": 20},
    "forgetting": {},
    "herding": {},
    "kcenter": {},
    "kmeans": {"cluster_sample": 60},
    "random": {},
    "similarity": {},
}
"""By selector: options worth a run of their own."""

grounds = pytest.mark.parametrize("ground", ["heads"], indirect=True)


def test_every_selector_is_enrolled() -> None:
    assert sorted(OPTIONS) == list(SELECTORS)


@grounds
@pytest.mark.parametrize("name", SELECTORS)
def test_it_chooses_captions_of_distinct_images_as_often_as_asked(ground: Ground, name: str) -> None:
    for options in ({}, OPTIONS[name]):
        config = SelectConfig(warmup_epochs=1, **options)
        images, captions = choose_pairs(ground.bench, name, 5, 0, config)
        mapping = torch.tensor(list(ground.bench.pixels("train").pairs.caption_image))
        assert len(set(images.tolist())) == 5 and torch.equal(mapping[captions], images)
        assert torch.equal(choose_pairs(ground.bench, name, 5, 0, config)[1], captions), "the same twice"


@grounds
@pytest.mark.parametrize("name", SELECTORS)
def test_the_seed_matters_where_it_says_so(ground: Ground, name: str) -> None:
    config = SelectConfig(warmup_epochs=1)
    chosen = {tuple(sorted(choose_pairs(ground.bench, name, 6, seed, config)[1].tolist())) for seed in range(4)}
    assert (len(chosen) > 1) == SELECTORS[name].drawn


@pytest.mark.parametrize("name", SELECTORS)
def test_it_is_listed_with_a_line_and_reads_options_that_exist(name: str) -> None:
    entry = SELECTORS[name]
    assert entry.summary.endswith(".") and 20 < len(entry.summary) < 150
    assert entry.options(SelectConfig()).keys() == set(entry.reads)
