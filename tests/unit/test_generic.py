"""Protocol generic-v2: one space for every row, the same first trials, limits of passes, and what is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import ENCODER, Recorder, make_bench, make_set

from vldistill.config import DataConfig, EvaluateConfig
from vldistill.evaluation import generic
from vldistill.evaluation.generic import GenericSpace, search_generic
from vldistill.evaluation.protocol import evaluate_set
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.subjects import subject
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench

CONFIG = EvaluateConfig(seeds=2, trials=3, max_steps=8, recipes=("generic",))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return make_bench(tmp_path_factory.mktemp("cache"))


def space_of(bench: Workbench, target: str, config: EvaluateConfig | None = None) -> GenericSpace:
    candidate = subject(bench, target)
    return GenericSpace(bench, candidate, config or EvaluateConfig(), candidate.draw(-1))


def test_rows_of_one_bench_have_one_space_and_one_beginning(bench: Workbench) -> None:
    few, more, full = (space_of(bench, target) for target in ("random:6", "random:30", "full"))
    assert few.ladders == more.ladders == full.ladders
    assert few.first == more.first == full.first
    assert {"image", "text", "batch", "steps", "noise", "decay", "dropout", "temperature"} == set(few.ladders)


def test_a_recipe_is_what_its_point_says(bench: Workbench) -> None:
    space = space_of(bench, "random:30")
    point = dict.fromkeys(space.ladders, 1)
    found = space.recipe(point)
    assert (found.rates, found.noise, found.weight_decay) == ({"image": (0.01,), "text": (0.01,)}, 0.2, 5e-4)
    assert (found.momentum, found.schedule, found.dropout, found.negatives) == (0.9, "cosine", 0.1, "distinct")
    assert found.batch == 30 and found.epochs == 100  # 100 steps of all 30 pairs
    warm = space.recipe({**point, "temperature": 2})
    assert found.temperature == 0 and warm.temperature == pytest.approx(2 * bench.encoder_config.temperature)


def test_no_training_is_longer_than_its_limit_of_passes(bench: Workbench) -> None:
    """The full data are 200 captions: 25 passes of four batches of 64 are 100 steps."""
    space = space_of(bench, "full")
    longest = space.recipe({**space.first[0], "batch": 0, "steps": 5})
    assert longest.epochs == generic.HEAD_PASSES == space.most_epochs
    _, _, edges = search_generic(bench, subject(bench, "full"), EvaluateConfig(trials=1))
    assert edges == ("passes",)


def test_trained_towers_take_one_drawn_caption_of_each_image(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, setting="full")
    space = space_of(bench, "full")
    recipe = space.recipe({**space.first[0], "steps": 8})
    assert recipe.one_caption and recipe.epochs <= generic.TOWER_PASSES
    assert set(space.ladders) >= {"image", "text", "views"}
    assert not space_of(bench, "random:6").recipe(space.first[0]).one_caption


def test_views_are_a_choice_where_there_are_some(tmp_path: Path) -> None:
    data = DataConfig(source="scenes:train=40,val=20,test=20", cache=str(tmp_path), views=1)
    bench = Workbench(data, ENCODER, torch.device("cpu"), Recorder())
    assert "views" in space_of(bench, "random:6").ladders
    made = subject(bench, make_set(bench))
    assert made.has_views
    inputs = made.draw(0).images
    plain, viewed = (inputs.rows(torch.arange(6), seed) for seed in (None, 5))
    assert torch.equal(plain, inputs.rows(torch.arange(6))) and not torch.equal(plain, viewed)


def test_a_similarity_may_be_trained_by_its_own_loss(bench: Workbench) -> None:
    soft = replace(make_set(bench, similarity=torch.eye(6)), recipe=Recipe(loss="wbce"))
    candidate = subject(bench, soft)
    space = GenericSpace(bench, candidate, EvaluateConfig(), candidate.draw(-1))
    assert space.recipe({**space.first[0], "soft": 1}).loss == "wbce"
    assert space.recipe({**space.first[0], "soft": 0}).loss == "infonce"


def test_the_result_says_how_its_recipe_was_chosen(bench: Workbench) -> None:
    result = evaluate_set(bench, "random:30", CONFIG)
    found = result.scores()["generic"]
    assert found.chosen_by == "generic-v2" and len(found.trials or ()) == 3
    best = max(found.trials or (), key=lambda trial: trial.val_mean_recall)
    assert found.recipe == best.recipe and found.steps == Recipe.from_dict(found.recipe).epochs
    assert len(found.hits) == 2 and all(found.hits) and result.test_captions
    assert Evaluation.from_json(result.to_json()) == result
    former = evaluate_set(bench, "random:30", replace(CONFIG, generic="generic-v1", head_rates=(0.1,)))
    assert former.scores()["generic"].chosen_by == "generic-v1"


def test_five_captions_of_each_image_are_blocks(bench: Workbench) -> None:
    candidate = subject(bench, "random:6x5")
    data, one = candidate.draw(3), subject(bench, "random:6").draw(3)
    assert (len(data), data.blocks, candidate.pairs) == (30, 5, 6)
    assert torch.equal(data.images.rows(torch.arange(6)), one.images.rows(torch.arange(6)))
    assert torch.equal(data.texts.rows(torch.arange(6)), one.texts.rows(torch.arange(6)))
    texts = data.texts.rows(torch.arange(30)).view(5, 6, -1)
    assert len(torch.unique(texts[:, 0], dim=0)) == 5
    assert candidate.stored_floats == 6 * (3 * 16 * 16 + 5 * 32)
    assert candidate.details["features_floats"] == 6 * (bench.image_tower.width + 5 * 32)
