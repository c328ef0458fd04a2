"""bitraj against the founding paper's iteration, unrolled naively in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from double import PAIRS, add, assert_update, embed, flat, make_bench, prepared

from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory
from vldistill.workbench.bench import Workbench

Ground = tuple[Workbench, list[Trajectory]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_bench(tmp_path_factory.mktemp("double"))


def drawn(ground: Ground, context: Any, options: BitrajOptions) -> tuple[dict[str, torch.Tensor], ...]:
    """Start and target of the segment of an iteration."""
    draw = context.generator("segment")
    expert = ground[1][int(torch.randint(len(ground[1]), (), generator=draw))]
    start = int(torch.randint(options.max_start_epoch, (), generator=draw))
    begin, target = (flat(groups) for groups in expert.segment(start, options.expert_epochs))
    return begin, target


def unrolled(
    ground: Ground,
    context: Any,
    state: Any,
    options: BitrajOptions,
    walk: tuple[Any, Any, int] | None = None,
) -> dict[str, torch.Tensor]:
    """The update by the published formulas: draws as the method's, everything else anew.

    Args:
        walk: of a student that walks: its segment, where it stands, and the steps it has walked; it is moved on.
    """
    bench, _ = ground
    (begin, target), place, walked = walk or (drawn(ground, context, options), None, 0)
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.variables.items()}
    rows_of, size = context.generator("rows"), options.minibatch
    params = {name: p.detach().clone().requires_grad_(True) for name, p in (place or begin).items()}
    for t in range(walked, walked + options.syn_steps):
        rows = torch.randperm(PAIRS, generator=rows_of)[:size] if size else torch.arange(PAIRS)
        features = bench.image_standardisation(bench.image_tower(leaves["images"][rows]))
        texts = leaves["texts"][rows]
        if texts.ndim == 3:  # the texts of an image in turn
            texts = texts[:, t % texts.shape[1]]
        logits = embed(bench, params, features, texts)
        way = [-(logits.log_softmax(axis)[i, i]) for axis in (0, 1) for i in range(len(rows))]
        slopes = torch.autograd.grad(add(way) / (2 * len(rows)), list(params.values()), create_graph=True)
        params = {
            name: p - leaves[f"log_rate_{name.partition('.')[0]}"].exp() * slope
            for (name, p), slope in zip(params.items(), slopes)
        }
    gaps = {
        side: [
            add((ends[n] - target[n]).square().sum() for n in begin if n.startswith(side)) for ends in (params, begin)
        ]
        for side in ("image", "text")
    }
    (image, image_way), (text, text_way) = gaps.values()
    merged = options.reduce == "ratio_of_sums"
    value = (image + text) / (image_way + text_way) if merged else image / image_way + text / text_way
    if place is not None:
        place.update({name: p.detach() for name, p in params.items()})
    slopes = torch.autograd.grad(value, list(leaves.values()))
    return dict(zip(leaves, slopes)) | {"value": value.detach()}


CASES = {
    "drawn rows": (BitrajOptions(syn_steps=4, minibatch=3), 1),
    "all rows": (BitrajOptions(syn_steps=3, max_start_epoch=1, expert_epochs=2), 1),
    "ratio of sums": (BitrajOptions(syn_steps=3, minibatch=4, reduce="ratio_of_sums", estimator="unrolled"), 1),
    "several texts": (BitrajOptions(syn_steps=3, minibatch=3), 2),
}


@pytest.mark.parametrize(("options", "captions"), CASES.values(), ids=CASES)
def test_the_update_is_the_gradient_of_the_matching_loss(ground: Ground, options: BitrajOptions, captions: int) -> None:
    method, context, state = prepared(*ground, "bitraj", options, captions=captions)
    if captions > 1:
        texts = state.variables["texts"]
        turns = torch.randn(PAIRS, captions, texts.shape[1], generator=torch.Generator().manual_seed(1))
        state.variables["texts"] = texts[:, None] + turns.double()
    assert_update(method.step(state, context), unrolled(ground, context, state, options))


@pytest.mark.parametrize("captions", [1, 2])
def test_walking_students_are_matched_from_where_the_set_led_them(ground: Ground, captions: int) -> None:
    options = BitrajOptions(syn_steps=2, persistent_steps=4, persistent_students=2, minibatch=4, max_start_epoch=1)
    method, context, state = prepared(*ground, "bitraj", options, captions=captions)
    walks: dict[int, tuple[Any, dict[str, torch.Tensor], int]] = {}
    restarts: list[int] = []
    for iteration in range(9):
        now, walker = context.at(iteration), iteration % 2
        if walker not in walks or walks[walker][2] >= 4:
            segment = drawn(ground, now, options)
            # the second walker's first walk is half as long
            walks[walker] = segment, dict(segment[0]), 2 if iteration == 1 else 0
            restarts.append(iteration)
        segment, place, walked = walks[walker]
        update = method.step(state, now)
        assert_update(update, unrolled(ground, now, state, options, walks[walker]))
        walks[walker] = segment, place, walked + 2
        for name, value in update.carried.items():
            state.carried[name].copy_(value)
        for name in ("images", "texts"):  # the set moves on, and a walk with it
            state.variables[name] -= 0.05 * update.gradients[name].sign()
    assert restarts == [0, 1, 3, 4, 7, 8]


def test_walking_students_are_one_to_an_iteration(ground: Ground) -> None:
    method, context, _ = prepared(*ground, "bitraj", BitrajOptions(persistent_steps=4))
    with pytest.raises(ConfigError, match=r"persistent_steps is 4 and distill\.draws 2"):
        method.check(replace(context, config=replace(context.config, draws=2)))
    with pytest.raises(ConfigError, match=r"bitraj\.persistent_steps is -1"):
        BitrajOptions(persistent_steps=-1)
    with pytest.raises(ConfigError, match=r"bitraj\.persistent_students is 0"):
        BitrajOptions(persistent_students=0)


def test_the_sets_own_student_is_the_published_one_at_the_learned_rates(ground: Ground) -> None:
    published = BitrajOptions(student_epochs=50, student_batch=64)
    method, context, state = prepared(*ground, "bitraj", published)
    recipe = method.export(state, context).recipe
    assert recipe.rates == {s: (pytest.approx(float(state.variables[f"log_rate_{s}"].exp())),) for s in recipe.rates}
    assert (recipe.epochs, recipe.batch, recipe.schedule, recipe.loss) == (50, 64, "constant", "infonce")
    assert (recipe.momentum, recipe.weight_decay, recipe.dropout) == (0.9, 5e-4, 0.1)
    assert recipe.temperature == context.bench.encoder_config.temperature
    method, context, state = prepared(*ground, "bitraj", replace(published, persistent_steps=4))
    assert method.export(state, context).recipe == replace(recipe, schedule="cosine")
