"""mdm against its formulas, entry by entry, in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from double import PAIRS, embed, flat, make_bench, prepared
from torch.func import functional_call

from vldistill.distillation.methods.mdm import MdmOptions, joined, kernel_distance, merge
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory
from vldistill.runtime.randomness import generator
from vldistill.workbench.bench import Workbench

Ground = tuple[Workbench, list[Trajectory]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_bench(tmp_path_factory.mktemp("double"))


def unit(count: int, seed: int) -> torch.Tensor:
    rows = torch.randn(count, 6, generator=generator(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def slow_distance(left: torch.Tensor, right: torch.Tensor, sigma: float) -> float:
    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        total = 0.0
        for x in a.tolist():
            for y in b.tolist():
                cosine = min(1.0, max(-1.0, sum(p * q for p, q in zip(x, y))))
                total += math.exp(-(math.acos(cosine) ** 2) / (2 * sigma**2))
        return total / (len(a) * len(b))

    return math.sqrt(mean(left, left) + mean(right, right) - 2 * mean(left, right))


def test_the_kernel_distance_is_its_formula() -> None:
    left, right = unit(5, 0), unit(7, 1)
    assert float(kernel_distance(left, right, 0.5)) == pytest.approx(slow_distance(left, right, 0.5), rel=1e-5)
    assert float(kernel_distance(left, left, 0.5)) == pytest.approx(0, abs=1e-5)
    leaf = left.clone().requires_grad_(True)  # a row meets itself: the slope stays finite
    assert torch.autograd.grad(kernel_distance(leaf, left.clone(), 0.5), leaf)[0].isfinite().all()
    assert torch.autograd.gradcheck(
        lambda x: kernel_distance(x / x.norm(dim=1, keepdim=True), right, 0.5), (unit(3, 2).requires_grad_(),)
    )


def test_means_without_the_diagonal_may_be_negative_and_count_as_zero() -> None:
    left, right = unit(5, 0), unit(7, 1)
    angle = torch.arccos((left @ left.T).clamp(-1 + 1e-6, 1 - 1e-6))
    apart = torch.exp(-(angle**2) / 0.5)[~torch.eye(5, dtype=torch.bool)].mean()
    whole = torch.exp(-(angle**2) / 0.5).mean()
    squares = [float(kernel_distance(left, right, 0.5, diagonal=diagonal)) ** 2 for diagonal in (True, False)]
    within = torch.exp(-(torch.arccos((right @ right.T).clamp(-1 + 1e-6, 1 - 1e-6)) ** 2) / 0.5)
    gap = float(whole - apart + within.mean() - within[~torch.eye(7, dtype=torch.bool)].mean())
    assert squares[0] - squares[1] == pytest.approx(gap, rel=1e-6)
    assert float(kernel_distance(left, left, 0.5, diagonal=False)) == pytest.approx(0, abs=1e-5)


def test_experts_without_their_start_are_refused_as_an_anchor(ground: Ground) -> None:
    bench, experts = ground
    method, context, _ = prepared(bench, experts, "mdm", MdmOptions())

    class Later(Trajectory):
        @property
        def epochs(self) -> list[int]:
            return [1, 2, 3]

    later: list[Trajectory] = [Later(expert.path) for expert in experts]
    with pytest.raises(ConfigError, match="no snapshot of epoch 0"):
        method.check(replace(context, experts=later))


def test_sums_and_differences_have_length_one() -> None:
    images, texts = unit(4, 0), unit(4, 1)
    for found, raw in zip(joined(images, texts), (images + texts, images - texts)):
        torch.testing.assert_close(found, raw / raw.norm(dim=1, keepdim=True))


def slow_merge(anchor: torch.Tensor, one: torch.Tensor, two: torch.Tensor, share: float) -> torch.Tensor:
    anchor = anchor.detach()
    first, second = (one - anchor).flatten(), (two - anchor).flatten()
    inner = float(first @ second)
    t = 2 * inner / (float(first.norm() * second.norm()) + inner)
    return anchor + share * t * (one + two - 2 * anchor) / 2


def test_merging_is_its_formula_per_tensor(ground: Ground) -> None:
    bench, experts = ground
    anchor = bench.student(5).trained()
    one, two = experts[0].snapshot(1), experts[1].snapshot(3)
    found = flat(merge(anchor, one, two, 0.5))
    for name, start in flat(anchor).items():
        first, second = flat(one)[name], flat(two)[name]
        if float(((first - start) * (second - start)).sum().detach()) > 0:
            expected = slow_merge(start.detach(), first, second, 0.5)
        else:
            expected = start.detach()
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-9, msg=name)
    same = flat(merge(anchor, one, one, 1.0))
    assert all(torch.allclose(same[name], tensor) for name, tensor in flat(one).items())
    opposite = {s: {n: 2 * anchor[s][n].detach() - p for n, p in named.items()} for s, named in one.items()}
    still = flat(merge(anchor, one, opposite, 0.5))
    assert all(torch.allclose(still[name], start) for name, start in flat(anchor).items())


def naive(bench: Workbench, experts: list[Trajectory], context: Any, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss by the paper's formulas, through the tower."""
    options = context.options
    draw = context.generator("experts")
    drawn = torch.randint(2, (2,), generator=draw) if options.replacement else torch.randperm(2, generator=draw)
    order = [int(number) for number in drawn]
    ends = [flat(experts[number].snapshot(1 + int(torch.randint(3, (), generator=draw)))) for number in order]
    fresh = bench.student(context.seed_of("anchor")).trained()
    anchor = flat(experts[order[0]].snapshot(0) if options.anchor == "expert" else fresh)
    params = {}
    for name, start in anchor.items():
        agree = float(((ends[0][name] - start) * (ends[1][name] - start)).sum().detach()) > 0
        params[name] = (
            slow_merge(start.detach(), ends[0][name], ends[1][name], options.merge) if agree else start.detach()
        )
    rows = torch.randperm(PAIRS, generator=context.generator("rows"))[: options.minibatch]
    features = bench.image_standardisation(bench.image_tower(leaves["images"][rows]))
    texts = leaves["texts"][rows]
    logits = embed(bench, params, features, texts)
    loss = -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
    data = bench.split("train").data
    index = torch.randperm(len(data), generator=context.generator("real"))[: options.real_batch]
    real = data.images.rows(data.caption_image[index]), data.texts.rows(index)

    def parts(inputs: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
        out = []
        for side, rows in zip(("image", "text"), inputs):
            own = {n.partition(".")[2]: p for n, p in params.items() if n.startswith(side)}
            z = functional_call(bench.architecture.side(side), own, (rows,))
            out.append(z / z.norm(dim=1, keepdim=True))
        raw = [out[0] + out[1], out[0] - out[1]]
        return [z / z.norm(dim=1, keepdim=True) for z in raw]

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        cosine = (a @ b.T).clamp(-1 + 1e-6, 1 - 1e-6)
        found = torch.exp(-(torch.acos(cosine) ** 2) / (2 * options.sigma**2))
        if a is b and not options.diagonal:
            return found[~torch.eye(len(a), dtype=torch.bool)].mean()
        return found.mean()

    for made, true in zip(parts((features, texts)), parts(real)):
        true = true.detach()
        square = kernel(made, made) + kernel(true, true) - 2 * kernel(made, true)
        loss = loss + options.matching * square.clamp(min=1e-12).sqrt()
    return loss


FORMER = {"diagonal": True, "replacement": False, "anchor": "fresh"}


@pytest.mark.parametrize("changes", [{}, FORMER, {"replacement": False}])
def test_the_update_is_the_gradient_of_the_papers_loss(ground: Ground, changes: dict[str, Any]) -> None:
    options = MdmOptions(minibatch=4, real_batch=8, sigma=0.7, **changes)
    method, context, state = prepared(*ground, "mdm", options)
    update = method.step(state, context)
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.variables.items()}
    loss = naive(*ground, context, leaves)
    assert update.value == pytest.approx(float(loss.detach()), rel=1e-9)
    for name, slope in zip(leaves, torch.autograd.grad(loss, list(leaves.values()))):
        assert float(slope.norm()) > 0
        torch.testing.assert_close(update.gradients[name], slope, rtol=1e-7, atol=1e-12, msg=name)
    total = update.logs["infonce"] + 0.8 * (update.logs["gap_sum"] + update.logs["gap_difference"])
    assert update.value == pytest.approx(total)


def test_the_sets_own_student_is_the_published_one(ground: Ground) -> None:
    method, context, state = prepared(*ground, "mdm", MdmOptions(), student_rate_image=0.2, student_rate_text=0.3)
    recipe = method.export(state, context).recipe
    assert recipe.rates == {"image": (0.2,), "text": (0.3,)}
    assert (recipe.epochs, recipe.batch, recipe.schedule, recipe.loss) == (100, 128, "half", "infonce")
    assert (recipe.momentum, recipe.weight_decay, recipe.dropout) == (0.9, 5e-4, 0.1)


def test_descending_the_update_brings_the_distributions_together(ground: Ground) -> None:
    method, context, state = prepared(*ground, "mdm", MdmOptions(real_batch=16))
    values = []
    for _ in range(20):
        update = method.step(state, context)
        values.append(update.value)
        for name, gradient in update.gradients.items():
            state.variables[name] -= 0.3 * gradient / gradient.norm()
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sigma": 0.0}, "mdm.sigma is 0.0"),
        ({"real_batch": 1}, "mdm.real_batch is 1"),
        ({"minibatch": 1}, "mdm.minibatch is 1"),
        ({"first_epoch": 4, "last_epoch": 3}, "0 <= first <= last"),
        ({"matching": -1.0}, "expected 0 or more"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MdmOptions(**values)


def test_fewer_than_two_experts_to_merge_are_refused(ground: Ground) -> None:
    with pytest.raises(ConfigError, match=r"epochs 7 to 10, but 0 of 2 experts .* keep epochs \[0, 1, 2, 3\]"):
        prepared(*ground, "mdm", MdmOptions(first_epoch=7))
    bench, experts = ground
    with pytest.raises(ConfigError, match=r"merges two experts .*, but 1 of 1 experts have such a snapshot"):
        prepared(bench, experts[:1], "mdm", MdmOptions())
