"""bitraj against the founding paper's iteration, unrolled naively in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from double import PAIRS, add, assert_update, embed, flat, make_bench, prepared

from vldistill.distill.methods.bitraj import BitrajOptions
from vldistill.experts.trajectory import Trajectory
from vldistill.workbench import Workbench

Ground = tuple[Workbench, list[Trajectory]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_bench(tmp_path_factory.mktemp("double"))


def unrolled(ground: Ground, context: Any, state: Any, options: BitrajOptions) -> dict[str, torch.Tensor]:
    """The update by the published formulas: draws as the method's, everything else anew."""
    bench, experts = ground
    draw = context.generator("segment")
    expert = experts[int(torch.randint(len(experts), (), generator=draw))]
    start = int(torch.randint(options.max_start_epoch, (), generator=draw))
    begin, target = (flat(groups) for groups in expert.segment(start, options.expert_epochs))
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.variables.items()}
    rows_of, size = context.generator("rows"), options.minibatch
    params = {name: p.clone().requires_grad_(True) for name, p in begin.items()}
    own = int(torch.randint(options.own_steps + 1, (), generator=context.generator("own steps")))
    for t in range(own + options.syn_steps):
        if t == own:  # what it did by itself is given
            params = {name: p.detach().requires_grad_(True) for name, p in params.items()}
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
    slopes = torch.autograd.grad(value, list(leaves.values()))
    return dict(zip(leaves, slopes)) | {"value": value.detach()}


CASES = {
    "drawn rows": (BitrajOptions(syn_steps=4, minibatch=3), 1),
    "all rows": (BitrajOptions(syn_steps=3, max_start_epoch=1, expert_epochs=2), 1),
    "ratio of sums": (BitrajOptions(syn_steps=3, minibatch=4, reduce="ratio_of_sums", estimator="unrolled"), 1),
    "own steps": (BitrajOptions(syn_steps=2, own_steps=30, expert_epochs=2), 1),
    "own steps, drawn rows, several texts": (BitrajOptions(syn_steps=2, minibatch=3, own_steps=30), 2),
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


def test_the_sets_own_student_is_the_published_one_at_the_learned_rates(ground: Ground) -> None:
    published = BitrajOptions(student_epochs=50, student_batch=64)
    method, context, state = prepared(*ground, "bitraj", published)
    recipe = method.export(state, context).recipe
    assert recipe.rates == {s: (pytest.approx(float(state.variables[f"log_rate_{s}"].exp())),) for s in recipe.rates}
    assert (recipe.epochs, recipe.batch, recipe.schedule, recipe.loss) == (50, 64, "constant", "infonce")
    assert (recipe.momentum, recipe.weight_decay, recipe.dropout) == (0.9, 5e-4, 0.1)
    assert recipe.temperature == context.bench.encoder_config.temperature
