"""lors and repblend against the published two-pass algorithm, written out slowly in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from double import PAIRS, assert_update, embed, flat, make_bench, prepared, tesla, walk

from vldistill.distillation.inner_steps import permuted_steps
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.distillation.methods.lors import LorsOptions
from vldistill.distillation.methods.repblend import RepblendOptions
from vldistill.distillation.similarity import similarity_gradients, similarity_matrix, start_similarity
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory
from vldistill.runtime.randomness import generator
from vldistill.training.recipe import SCHEDULES
from vldistill.workbench.bench import Workbench

Ground = tuple[Workbench, list[Trajectory]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_bench(tmp_path_factory.mktemp("double"))


def published_loss(logits: torch.Tensor, s: torch.Tensor, name: str) -> torch.Tensor:
    """eNCE, BCE and wBCE entry by entry."""
    count, total, kinds = len(logits), [], {True: [], False: []}
    for i in range(count):
        for j in range(count):
            if name == "soft_infonce":
                row, column = logits[i].log_softmax(0)[j], logits[:, j].log_softmax(0)[i]
                total.append(-s[i, j] * (row + column) / 2 * count)
                continue
            probability = logits[i, j].sigmoid()
            cross = -s[i, j] * probability.log() - (1 - s[i, j]) * (1 - probability).log()
            total.append(cross)
            kinds[bool(s[i, j] > 0.5)].append(cross)
    if name == "wbce":
        return torch.stack([torch.stack(part).mean() for part in kinds.values()]).mean()
    return torch.stack(total).mean()


def expected_update(ground: Ground, context: Any, state: Any, options: Any) -> dict[str, torch.Tensor]:
    """The update by the published formulas: draws as the method's, everything else anew."""
    bench, experts = ground
    draw = context.generator("segment")
    expert = experts[int(torch.randint(len(experts), (), generator=draw))]
    start = int(torch.randint(options.max_start_epoch, (), generator=draw))
    begin, target = (flat(groups) for groups in expert.segment(start, options.expert_epochs))
    leaves = {n: v.clone().requires_grad_(True) for n, v in state.variables.items() if not n.startswith("log_rate")}
    rates = {side: state.variables[f"log_rate_{side}"].exp() for side in ("image", "text")}

    def soft(rows: torch.Tensor) -> torch.Tensor:
        if "similarity_full" in leaves:
            return leaves["similarity_full"][rows][:, rows]
        w, left, right = (leaves[f"similarity_{part}"][rows] for part in ("diagonal", "left", "right"))
        return torch.diag(w) + options.alpha / options.rank * left @ right.T

    losses = []
    for t, rows in enumerate(walk(context, options.syn_steps, options.minibatch)):

        def loss(params: dict[str, torch.Tensor], rows: torch.Tensor = rows, t: int = t) -> torch.Tensor:
            features = bench.image_standardisation(bench.image_tower(leaves["images"][rows]))
            texts = leaves["texts"][rows]
            if isinstance(options, RepblendOptions):
                numbers = np.random.default_rng(context.seed_of("inner", t))
                weight = numbers.beta(options.beta, options.beta)
                other = torch.from_numpy(numbers.permutation(len(rows)))
                features = torch.stack([weight * features[i] + (1 - weight) * features[o] for i, o in enumerate(other)])
                texts = torch.stack([weight * texts[i] + (1 - weight) * texts[o] for i, o in enumerate(other)])
            return published_loss(embed(bench, params, features, texts), soft(rows), options.loss)

        losses.append(loss)
    return tesla(bench, begin, target, leaves, rates, losses, merged=options.reduce == "ratio_of_sums")


CASES = {
    "lowrank-wbce": ("lors", LorsOptions(syn_steps=4, minibatch=3, rank=2)),
    "lowrank-bce": ("lors", LorsOptions(syn_steps=3, minibatch=2, rank=2, loss="bce", max_start_epoch=3)),
    "full-ence-merged": (
        "lors",
        LorsOptions(syn_steps=3, minibatch=3, similarity="full", loss="soft_infonce", reduce="ratio_of_sums"),
    ),
    "blended": ("repblend", RepblendOptions(syn_steps=3, minibatch=4, rank=2)),
    "blended-beta": ("repblend", RepblendOptions(syn_steps=2, minibatch=3, rank=2, beta=0.4)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_update_is_the_published_two_pass_gradient(ground: Ground, case: tuple[str, Any]) -> None:
    name, options = case
    method, context, state = prepared(*ground, name, options)
    assert_update(method.step(state, context), expected_update(ground, context, state, options))


def test_the_exact_gradient_is_that_of_the_value(ground: Ground) -> None:
    """Finite differences of the value itself, which the published estimator only approximates."""
    options = LorsOptions(syn_steps=3, minibatch=3, rank=2, estimator="adjoint")
    method, context, state = prepared(*ground, "lors", options)
    update = method.step(state, context)
    for name in ("texts", "similarity_left", "similarity_diagonal", "log_rate_text"):
        variable = state.variables[name]
        direction = torch.randn(variable.shape, generator=generator(name), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            state.variables[name] = variable + sign * 1e-5 * direction
            values.append(method.step(state, context).value)
        state.variables[name] = variable
        slope = float((update.gradients[name] * direction).sum())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-4), name


def test_tesla_is_a_choice_of_bitraj_too(ground: Ground) -> None:
    """One step has no path through earlier ones: there the published estimator is exact; with more it differs."""
    found = {}
    for steps in (1, 3):
        for estimator in ("tesla", "adjoint"):
            options = BitrajOptions(syn_steps=steps, minibatch=3, estimator=estimator)
            method, context, state = prepared(*ground, "bitraj", options)
            found[steps, estimator] = method.step(state, context).gradients["images"]
    torch.testing.assert_close(found[1, "tesla"], found[1, "adjoint"], rtol=1e-9, atol=1e-14)
    assert not torch.allclose(found[3, "tesla"], found[3, "adjoint"], rtol=1e-3)


@pytest.mark.parametrize("kind", ["lowrank", "full"])
def test_the_similarity_starts_as_the_identity_and_pulls_back(kind: str) -> None:
    variables = start_similarity(kind, 5, 2, generator("s"), torch.zeros((), dtype=torch.float64))
    start = similarity_matrix(variables, 3.0)
    assert start is not None and torch.equal(start, torch.eye(5, dtype=torch.float64))
    leaves = {n: (v + torch.randn(v.shape, generator=generator(n))).requires_grad_(True) for n, v in variables.items()}
    matrix = similarity_matrix(leaves, 3.0)
    assert matrix is not None
    slope = torch.randn(5, 5, generator=generator("slope"), dtype=torch.float64)
    expected = torch.autograd.grad(matrix, list(leaves.values()), slope)
    plain = {name: leaf.detach() for name, leaf in leaves.items()}
    found = similarity_gradients(plain, 3.0, slope)
    assert list(found) == list(plain)
    for slopes, name in zip(expected, plain):
        torch.testing.assert_close(found[name], slopes)


def test_steps_walk_through_a_permutation(ground: Ground) -> None:
    _, context, _ = prepared(*ground, "lors", LorsOptions())
    steps = [step.index.tolist() for step in permuted_steps(context, 4, 3, 10)]
    assert all(len(set(step)) == 3 for step in steps)
    assert len({row for step in steps[:3] for row in step}) == 9  # the tenth is left over: the next permutation begins
    assert [s.index.tolist() for s in permuted_steps(context, 2, 20, PAIRS)] == [list(range(PAIRS))] * 2
    assert [s.index.tolist() for s in permuted_steps(context, 1, 0, PAIRS)] == [list(range(PAIRS))]


def test_the_sets_recipe_is_the_published_student(ground: Ground) -> None:
    method, context, state = prepared(*ground, "lors", LorsOptions(rank=2))
    distilled = method.export(state, context)
    recipe = distilled.recipe
    assert (recipe.loss, recipe.epochs, recipe.batch, recipe.momentum) == ("wbce", 100, 128, 0.9)
    assert [SCHEDULES[recipe.schedule](part) for part in (0.0, 0.49, 0.5, 1.0)] == [1.0, 1.0, 0.1, 0.1]
    assert recipe.rates["image"][0] == pytest.approx(float(state.variables["log_rate_image"].exp()))
    matrix = similarity_matrix(state.variables, 3.0)
    assert matrix is not None and distilled.similarity is not None
    torch.testing.assert_close(distilled.similarity, matrix)
    assert distilled.stored_floats == PAIRS * (3 * 16 * 16 + 16) + PAIRS * (1 + 2 + 2) + 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"similarity": "low"}, "unknown similarity 'low'. Did you mean lowrank"),
        ({"loss": "wbc"}, "unknown loss 'wbc'. Did you mean"),
        ({"estimator": "tesl"}, "Did you mean tesla"),
        ({"reduce": "sum"}, "unknown reduce"),
        ({"rank": 0}, "lors.rank is 0; expected 1 or more"),
        ({"minibatch": 1}, "lors.minibatch is 1"),
        ({"student_batch": 1}, "lors.student_batch is 1"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LorsOptions(**values)


def test_segments_no_expert_holds_are_refused(ground: Ground) -> None:
    for name, options in (("lors", LorsOptions(max_start_epoch=4)), ("repblend", RepblendOptions(expert_epochs=5))):
        with pytest.raises(ConfigError, match=f"{name}: segments of"):
            prepared(*ground, name, options)
