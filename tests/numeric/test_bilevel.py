"""bilevel and its way through the tower, against a naive unroll in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from vldistill.config import DataConfig, DistillConfig, EncoderConfig, ImageTowerConfig, TextTowerConfig
from vldistill.distillation import encode, real_batches
from vldistill.distillation.augment import make_view
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.method import Context, State
from vldistill.distillation.methods.bilevel import Bilevel, BilevelOptions, inner_step_count
from vldistill.distillation.real_batches import real_batch
from vldistill.distillation.start import starting_pairs
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES, DualEncoder, Groups, packed, unpacked
from vldistill.errors import ConfigError, MemoryShortError
from vldistill.evaluation.subjects import subject
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Reporter
from vldistill.runtime.randomness import generator
from vldistill.stages.distill_checks import check_captions
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.losses import infonce, soft_infonce
from vldistill.training.side_inputs import TensorInputs
from vldistill.training.steps import steps_in
from vldistill.workbench.bench import Workbench

PAIRS = 5


class DoubleBench(Workbench):
    """A workbench in float64, so that two ways to the same gradient can be told from rounding."""

    def student(self, seed: int, dropout: float = 0.0) -> DualEncoder:
        return super().student(seed, dropout).double()


ENCODER = EncoderConfig(
    image=ImageTowerConfig(name="convnet", weights="random", size=16, options={"width": 4}),
    text=TextTowerConfig(name="hashing", width=16),
    dim=8,
)


def data_config(cache: Path) -> DataConfig:
    return DataConfig(source="scenes:train=40,val=20,test=20", cache=str(cache))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    data = data_config(tmp_path_factory.mktemp("cache"))
    made = DoubleBench(data, ENCODER, torch.device("cpu"), Reporter(quiet=True))
    split = made.split("train")
    everything = [
        TensorInputs(side.rows(torch.arange(len(side))).double()) for side in (split.data.images, split.data.texts)
    ]
    made._splits["train"] = replace(split, data=replace(split.data, images=everything[0], texts=everything[1]))
    made.image_tower.double()
    return made


def context_of(bench: Workbench, options: BilevelOptions, **config: Any) -> Context[Any]:
    settings = DistillConfig(method="bilevel", pairs=PAIRS, iterations=10, validate_every=0, **config)
    return Context(bench, resolve_distill(settings, bench.setting), options, iteration=3)


def prepared(bench: Workbench, options: BilevelOptions, **config: Any) -> tuple[Bilevel, Context, State]:
    method, context = Bilevel(), context_of(bench, options, **config)
    method.check(context)
    start = starting_pairs(method, context)
    state = method.setup(replace(start, images=start.images.double()), context)
    state.variables = {name: value.double() for name, value in state.variables.items()}
    return method, context, state


def share(options: BilevelOptions, t: int) -> float:
    """The part of the rate that step ``t`` takes: half a cosine that ends at a fiftieth, or all of it."""
    return max(0.02, (1 + math.cos(math.pi * t / options.steps)) / 2) if options.schedule == "cosine" else 1.0


def naive(
    bench: Workbench, context: Context, state: State, similarity: bool = False, begin: Groups | None = None
) -> dict[str, torch.Tensor]:
    """The same gradient the slow way: the tower in every inner step, and autograd through everything.

    Args:
        begin: parameters of the student; None are those of a new one.
    """
    options = context.options
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.variables.items()}
    student = bench.student(context.seed_of("student"))
    params = {
        f"{s}.{n}": p.detach().requires_grad_(True)
        for s, named in (begin or student.trained()).items()
        for n, p in named.items()
    }
    velocity = {name: torch.zeros_like(p) for name, p in params.items()}
    soft = None
    if similarity:
        low = leaves["similarity_left"] @ leaves["similarity_right"].T
        soft = torch.diag(leaves["similarity_diagonal"]) + options.alpha / options.rank * low
    draw = context.generator("rows")
    rates = {side: leaves[f"log_rate_{side}"].exp() for side in SIDES}
    for t in range(options.steps):
        rows = torch.randperm(PAIRS, generator=draw)[: options.minibatch] if options.minibatch else torch.arange(PAIRS)
        features = bench.image_standardisation(bench.image_tower(leaves["images"][rows]))
        logits = functional_call(student, params, (features, leaves["texts"][rows]))
        loss = infonce(logits) if soft is None else soft_infonce(logits, soft[rows][:, rows])
        slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        for (name, p), slope in zip(list(params.items()), slopes):
            velocity[name] = options.momentum * velocity[name] + slope + options.weight_decay * p
            rate = rates[name.split(".")[0]]
            params[name] = p - (rate[t] if rate.ndim else rate * share(options, t)) * velocity[name]
    images, captions = real_batch(context, options.real_batch, options.captions_per_image)
    data = bench.split("train").data
    shown = [data.images.rows(images), *(data.texts.rows(c) for c in captions)]
    if options.outer_dropout:
        draw = context.generator("outer dropout")
        keeps = [torch.rand(rows.shape, generator=draw) >= options.outer_dropout for rows in shown]
        shown = [torch.where(keep, rows / (1 - options.outer_dropout), 0) for keep, rows in zip(keeps, shown)]
    losses = [infonce(functional_call(student, params, (shown[0], texts))) for texts in shown[1:]]
    value = torch.stack(losses).mean()
    out = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), allow_unused=True)))
    return {name: slope for name, slope in out.items() if slope is not None} | {"value": value.detach()}


def test_images_pass_the_tower_in_halves_where_memory_is_short(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, context, state = prepared(bench, BilevelOptions())
    images, real, seen = state.variables["images"], bench.image_inputs, []
    whole = encode_learned(context, images)

    def short(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(part)

    monkeypatch.setattr(bench, "image_inputs", short)
    parts = encode_learned(context, images)
    assert seen[:3] == [PAIRS, 3, 2] and max(seen[2:]) == 2
    torch.testing.assert_close(parts.inputs, whole.inputs)
    slope = torch.randn(whole.inputs.shape, generator=generator(0, "slope"), dtype=whole.inputs.dtype)
    torch.testing.assert_close(parts.pull(slope), whole.pull(slope))
    monkeypatch.setattr(bench, "image_inputs", lambda part: short(part.repeat(3, 1, 1, 1)))
    with pytest.raises(MemoryShortError, match="one learned image"):
        encode_learned(context, images)


@pytest.mark.parametrize(
    "options",
    [
        BilevelOptions(steps=6, real_batch=8, schedule="constant"),
        BilevelOptions(steps=5, real_batch=8, schedule="constant", minibatch=3, momentum=0.0, captions_per_image=3),
        BilevelOptions(steps=5, real_batch=8, schedule="constant", rank=2, alpha=3.0),
        BilevelOptions(steps=5, real_batch=8, schedule="constant", captions_per_image=2, outer_dropout=0.3),
        BilevelOptions(steps=20, real_batch=8),
        BilevelOptions(steps=6, real_batch=8, rate_per_step=True),
    ],
    ids=["momentum", "minibatches", "similarity", "dropout", "cosine", "rate per step"],
)
def test_the_inner_loop_on_features_is_the_naive_gradient(bench: Workbench, options: BilevelOptions) -> None:
    method, context, state = prepared(bench, options)
    if options.rank:
        state.variables["similarity_right"] = torch.randn(PAIRS, 2, generator=generator(1)).double() / 5
    update = method.step(state, context)
    expected = naive(bench, context, state, similarity=bool(options.rank))
    assert update.value == pytest.approx(float(expected.pop("value")), rel=1e-12)
    assert set(update.gradients) == set(expected)
    for name, slope in expected.items():
        assert float(slope.norm()) > 0, name
        torch.testing.assert_close(update.gradients[name], slope, rtol=1e-8, atol=1e-12, msg=name)


def test_a_pool_of_students_is_trained_in_turn_and_renewed(bench: Workbench) -> None:
    options = BilevelOptions(steps=3, momentum=0.0, students=2, online_steps=2, real_batch=7, weight_decay=0.0)
    method, context, state = prepared(bench, options)
    assert len({name.partition("/")[0] for name in state.carried}) == 2
    renewed = []
    for iteration in range(8):
        now, name = context.at(iteration), f"student{iteration % 2}/"
        fresh = {s: dict(named) for s, named in bench.student(now.seed_of("pool")).trained().items()}
        kept = unpacked(state.carried, name)
        update = method.step(state, now)
        values = [naive(bench, now, state, begin=begin) for begin in (kept, fresh)]
        found = [update.value == pytest.approx(float(one["value"]), rel=1e-9) for one in values]
        assert sum(found) == 1
        renewed.append(found[1])
        for variable, slope in values[found.index(True)].items():
            if variable != "value":
                torch.testing.assert_close(update.gradients[variable], slope, rtol=1e-6, atol=1e-10)
        begin = (kept, fresh)[found.index(True)]
        student = bench.student(0)
        for side, named in student.trained().items():
            for part, p in named.items():
                p.data.copy_(begin[side][part])
        features = bench.image_inputs(state.variables["images"])
        infonce(student(features, state.variables["texts"])).backward()
        for side, named in student.trained().items():  # one step of SGD at the first of the inner rates
            rate = float(state.variables[f"log_rate_{side}"].exp()) * share(options, 0)
            for part, p in named.items():
                assert p.grad is not None
                torch.testing.assert_close(update.carried[f"{name}{side}/{part}"], p.detach() - rate * p.grad)
        state.carried.update(update.carried)
    assert renewed == [iteration in (3, 4, 7) for iteration in range(8)]
    assert packed(fresh, name).keys() == update.carried.keys()


def test_a_rate_for_each_step_starts_as_the_schedule(bench: Workbench) -> None:
    options = BilevelOptions(steps=20, real_batch=8, rate_per_step=True)
    *_, state = prepared(bench, options, student_rate_image=0.3, student_rate_text=0.7)
    for side, rate in (("image", 0.3), ("text", 0.7)):
        expected = torch.tensor([rate * share(options, t) for t in range(20)], dtype=torch.float64)
        torch.testing.assert_close(state.variables[f"log_rate_{side}"].exp(), expected, rtol=1e-5, atol=0)


def test_images_encoded_in_parts_give_the_same_gradient(bench: Workbench) -> None:
    _, context, state = prepared(bench, BilevelOptions(real_batch=8), augment=("flip", "shift", "colour"))
    whole, parts = (encode_learned(context, state.variables["images"], part=part) for part in (PAIRS, 2))
    slope = torch.randn(whole.inputs.shape, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(parts.inputs, whole.inputs)
    torch.testing.assert_close(parts.pull(slope), whole.pull(slope), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("room", [0, 100_000])
def test_graphs_made_again_give_the_same_bits(bench: Workbench, room: int) -> None:
    """What is kept depends on the memory of the machine; what comes out must not."""
    _, context, state = prepared(bench, BilevelOptions(real_batch=8))
    images = state.variables["images"]
    kept, again = (encode_learned(context, images, part=2, keep_bytes=size) for size in (1 << 40, room))
    slope = torch.randn(kept.inputs.shape, generator=generator(2), dtype=torch.float64)
    assert torch.equal(kept.inputs, again.inputs)
    assert torch.equal(kept.pull(slope), again.pull(slope))


def test_images_that_stay_as_they_are_have_no_way_back(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, context, state = prepared(bench, BilevelOptions(real_batch=8))
    learned = encode_learned(context, state.variables["images"])
    monkeypatch.setattr(encode._Pass, "pull", lambda *given: pytest.fail("went back through the tower"))
    fixed = encode_learned(replace(context, config=replace(context.config, learn="text")), state.variables["images"])
    assert torch.equal(fixed.inputs, learned.inputs)
    assert not fixed.pull(torch.ones_like(fixed.inputs)).any()


def test_images_that_are_not_used_do_not_pass_the_tower(bench: Workbench) -> None:
    """The features and gradients of the others are as if all had passed."""
    _, context, state = prepared(bench, BilevelOptions(real_batch=8), augment=("flip", "shift"))
    images, rows = state.variables["images"], torch.tensor([4, 1, 1, 4])
    whole, some = (encode_learned(context, images, rows=used, part=2) for used in (None, rows))
    others = [row for row in range(PAIRS) if row not in rows]
    torch.testing.assert_close(some.inputs[rows], whole.inputs[rows])
    assert not some.inputs[others].any() and whole.inputs[others].any()
    slope = torch.zeros(whole.inputs.shape, dtype=torch.float64)
    slope[rows] = torch.randn(len(rows), slope.shape[1], generator=generator(3), dtype=torch.float64)
    torch.testing.assert_close(some.pull(slope), whole.pull(slope), rtol=1e-10, atol=1e-12)


def test_the_sets_own_recipe_is_the_inner_training(bench: Workbench) -> None:
    """A student trained by the exported recipe from the same start ends where the inner loop ended."""
    options = BilevelOptions(steps=7, real_batch=8, student_decay=5e-4)
    method, context, state = prepared(bench, options)
    exported = method.export(state, context)
    student = bench.student(context.seed_of("student"))
    images = bench.encode_in_batches(state.variables["images"])
    data = TrainingData(TensorInputs(images), TensorInputs(state.variables["texts"]), torch.arange(PAIRS))
    fit(student, data, exported.recipe, seed=0, device=bench.device)
    real, captions = real_batch(context, options.real_batch, 1)
    split = bench.split("train").data
    value = infonce(student(split.images.rows(real), split.texts.rows(captions[0])))
    assert float(value.detach()) == pytest.approx(method.step(state, context).value, rel=1e-9)


@pytest.mark.parametrize(("setting", "decay"), [("heads", 0.02), ("full", 0.003)])
def test_the_sets_own_student_decays_more_where_only_heads_do(setting: str, decay: float, tmp_path: Path) -> None:
    options = BilevelOptions(steps=4, weight_decay=0.003, student_decay=0.02)
    encoder = replace(ENCODER, setting=setting)
    bench = Workbench(data_config(tmp_path), encoder, torch.device("cpu"), Reporter(quiet=True))
    method, context = Bilevel(), context_of(bench, options)
    state = method.setup(starting_pairs(method, context), context)
    plain = method.export(state, replace(context, options=replace(options, student_decay=0.003))).recipe
    assert method.export(state, context).recipe == replace(plain, weight_decay=decay)


def test_a_window_differentiates_its_steps_only(bench: Workbench) -> None:
    plain = BilevelOptions(steps=6, real_batch=8, momentum=0.0, weight_decay=0.0, rate_per_step=True)
    method, context, state = prepared(bench, plain)
    full = method.step(state, context)
    method, context, state = prepared(bench, replace(plain, window=6))
    torch.testing.assert_close(method.step(state, context).gradients, full.gradients)
    method, context, state = prepared(bench, replace(plain, window=2))
    begun = set()
    for iteration in range(4, 9):
        now = context.at(iteration)
        first, last = method._window(now.options, now, 6)
        windowed = method.step(state, now).gradients["log_rate_image"]
        assert last - first == 2
        assert [t for t in range(6) if windowed[t] != 0] == [first, first + 1]
        begun.add(first)
    assert len(begun) > 1  # not only at the start of the training


def test_the_steps_before_a_window_are_those_of_the_whole_training(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BilevelOptions(steps=6, real_batch=8, momentum=0.0, weight_decay=0.05)
    method, context, state = prepared(bench, options, captions=2)
    full = method.step(state, context)
    method, context, state = prepared(bench, replace(options, window=3), captions=2)
    monkeypatch.setattr(Bilevel, "_window", lambda *given: (3, 6))
    windowed = method.step(state, context)
    assert windowed.value == pytest.approx(full.value, rel=1e-12)


@pytest.mark.parametrize(("minibatch", "steps"), [(0, 7), (2, 8), (3, 8)])  # of 5 pairs: 1, 2 and 2 steps an epoch
def test_the_sets_own_student_takes_as_many_steps_as_the_inner_one(
    bench: Workbench, minibatch: int, steps: int
) -> None:
    method, context, state = prepared(bench, BilevelOptions(steps=7, real_batch=8, minibatch=minibatch))
    assert steps_in(PAIRS, method.export(state, context).recipe) == steps


def test_real_images_pass_a_trained_tower_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = replace(ENCODER, setting="full")
    bench = Workbench(data_config(tmp_path), encoder, torch.device("cpu"), Reporter(quiet=True))
    context = context_of(bench, BilevelOptions(steps=2, real_batch=8))
    method = Bilevel()
    state = method.setup(starting_pairs(method, context), context)
    whole = method.step(state, context)
    monkeypatch.setattr(real_batches, "REAL_PART", 3)
    parts = method.step(state, context)
    assert parts.value == pytest.approx(whole.value, rel=1e-5)
    for name, gradient in whole.gradients.items():
        assert float(gradient.norm()) > 0, name
        torch.testing.assert_close(parts.gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_the_curriculum_grows_to_the_full_training() -> None:
    options = BilevelOptions(steps=40, first_steps=10, curriculum=0.5)
    counts = [inner_step_count(options, iteration / 100) for iteration in (0, 25, 49, 50, 99)]
    assert counts == [10, 25, 39, 40, 40]
    assert inner_step_count(BilevelOptions(steps=40), 0.0) == 40


def test_a_real_batch_has_distinct_images_with_their_own_captions(bench: Workbench) -> None:
    images, captions = real_batch(context_of(bench, BilevelOptions()), 20, 3)
    mapping = bench.split("train").data.caption_image
    assert len(set(images.tolist())) == 20
    assert all(torch.equal(mapping[rows], images) for rows in captions)
    assert all(len({int(rows[i]) for rows in captions}) == 3 for i in range(20))


def test_views_are_differentiable_and_drawn_from_the_generator() -> None:
    images = torch.randn(4, 3, 8, 8, generator=generator(0), dtype=torch.float64, requires_grad=True)
    for kind in ("flip", "shift", "colour"):
        view = make_view([kind], generator(1))
        again = make_view([kind], generator(1))
        assert view is not None and again is not None
        out = view(images)
        assert torch.equal(out, again(images)) and not torch.equal(out, images)
        assert torch.autograd.grad(out.square().sum(), images)[0].abs().sum() > 0
    flipped = make_view(["flip"], generator(1))
    assert flipped is not None
    for before, after in zip(images, flipped(images)):
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))
    assert make_view([], generator(1)) is None
    with pytest.raises(ConfigError, match="Did you mean flip"):
        make_view(["flop"], generator(1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "bilevel.steps is 0"),
        ({"real_batch": 1}, "real_batch is 1; expected 2 or more"),
        ({"momentum": 1.0}, r"\[0, 1\)"),
        ({"window": 50}, "bilevel.window is 50"),
        ({"window": 5}, "needs bilevel.momentum 0"),
        ({"curriculum": 2.0}, "part of the iterations"),
        ({"schedule": "cosin"}, "Did you mean cosine"),
        ({"student_decay": -0.1}, "bilevel.student_decay is -0.1; expected 0 or more"),
        ({"weight_decay": float("inf")}, "bilevel.weight_decay is inf"),
        ({"estimator": "adjoin"}, "Did you mean adjoint"),
        ({"estimator": "tesla"}, "tesla needs bilevel.momentum 0, not 0.9"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BilevelOptions(**values)


def test_a_real_batch_takes_all_images_where_there_are_fewer(bench: Workbench) -> None:
    images, (captions,) = real_batch(context_of(bench, BilevelOptions()), 41, 1)
    assert sorted(images.tolist()) == list(range(40)) and len(captions) == 40


def test_each_iteration_has_its_own_student_and_batch(bench: Workbench) -> None:
    method, context, state = prepared(bench, BilevelOptions(steps=2, real_batch=8))
    values = [method.step(state, context.at(iteration)).value for iteration in (0, 1, 0)]
    assert values[0] == values[2] != values[1]
    assert set(state.variables) >= {"images", "texts", *(f"log_rate_{side}" for side in SIDES)}


def test_several_texts_of_an_image_are_taken_in_turn(bench: Workbench) -> None:
    options = BilevelOptions(steps=3, real_batch=8, schedule="constant")
    method, context, state = prepared(bench, options, captions=2)
    assert state.variables["texts"].shape == (PAIRS, 2, 16)
    update = method.step(state, context)
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.variables.items()}
    student = bench.student(context.seed_of("student"))
    params = {
        f"{s}.{n}": p.detach().requires_grad_(True) for s, named in student.trained().items() for n, p in named.items()
    }
    velocity = {name: torch.zeros_like(p) for name, p in params.items()}
    features = bench.image_standardisation(bench.image_tower(leaves["images"]))
    for turn in (0, 1, 0):
        loss = infonce(functional_call(student, params, (features, leaves["texts"][:, turn])))
        slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        for (name, p), slope in zip(list(params.items()), slopes):
            velocity[name] = options.momentum * velocity[name] + slope + options.weight_decay * p
            params[name] = p - leaves[f"log_rate_{name.split('.')[0]}"].exp() * velocity[name]
    images, captions = real_batch(context, options.real_batch, 1)
    data = bench.split("train").data
    value = infonce(functional_call(student, params, (data.images.rows(images), data.texts.rows(captions[0]))))
    wanted = torch.autograd.grad(value, [leaves["texts"], leaves["images"]])
    torch.testing.assert_close(update.gradients["texts"], wanted[0], rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(update.gradients["images"], wanted[1], rtol=1e-6, atol=1e-12)
    assert bool((update.gradients["texts"][:, 1] != 0).any())


def test_the_texts_of_an_image_start_as_its_own_captions_and_are_judged_with_it(
    bench: Workbench, tmp_path: Path
) -> None:
    method, context, state = prepared(bench, BilevelOptions(steps=4, real_batch=8), captions=3)
    pairs = bench.split("train").pairs
    one, many = (starting_pairs(method, replace(context, config=replace(context.config, captions=c))) for c in (1, 3))
    torch.testing.assert_close(many.texts[:, 0], one.texts)
    assert many.rows is not None
    for row, first, told, texts in zip(many.rows.tolist(), one.captions, many.captions, many.texts):
        own = list(told)
        of_image = [pairs.captions[int(r)] for r in pairs.image_captions[int(pairs.caption_image[row])]]
        assert own[0] == first and set(own) <= set(of_image) and len(texts) == len(own) == 3
    state.variables = {name: value.float() for name, value in state.variables.items()}
    made = method.export(state, context)
    assert made.captions_per_image == 3 and made.stored_floats == made.images.numel() + PAIRS * 3 * 16 + 8
    made.save(tmp_path / "set")
    again = DistilledSet.load(tmp_path / "set")
    assert torch.equal(again.texts, made.texts) and again[1][1].shape == (3, 16)
    data = bench_data(bench, again)
    assert len(data) == 3 * PAIRS and data.blocks == 3 and data.caption_image.tolist() == [*range(PAIRS)] * 3
    torch.testing.assert_close(data.texts.rows(torch.tensor([1, PAIRS + 1])), again.texts[1, :2])
    assert made.recipe.epochs == 2  # 4 steps: an epoch passes all texts, 3 steps


def bench_data(bench: Workbench, distilled: DistilledSet) -> TrainingData:
    """The set as students see it; the tower of this bench is in float64."""
    return subject(bench, replace(distilled, images=distilled.images.double())).draw(0)


def test_several_texts_are_refused_where_they_have_no_place(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match="a learned similarity is between images and one text each"):
        prepared(bench, BilevelOptions(steps=4, real_batch=8, rank=2), captions=2)
    with pytest.raises(ConfigError, match=r"mdm learns one text for each image\. Use 1, or bilevel or bitraj"):
        check_captions("mdm", 2)


OTHER = ImageTowerConfig(name="convnet", weights="random", size=24, options={"width": 6}, mean=(0.4, 0.5, 0.6), seed=3)


def test_images_reach_another_tower_in_its_size_and_normalisation_and_the_gradient_comes_back(tmp_path: Path) -> None:
    bench = Workbench(data_config(tmp_path), ENCODER, torch.device("cpu"), Reporter(quiet=True))
    other = bench.beside(OTHER)
    assert bench.beside(OTHER) is other
    images = torch.randn(4, 3, 16, 16, generator=generator(0, "images"))
    encoded = encode_learned(context_of(other, BilevelOptions(real_batch=8)), images, own=bench)
    leaf = images.clone().requires_grad_(True)
    mean, std, new_mean, new_std = (
        torch.tensor(part).view(1, 3, 1, 1)
        for part in (bench.image_tower.mean, bench.image_tower.std, OTHER.mean, other.image_tower.std)
    )
    resized = torch.nn.functional.interpolate(leaf * std + mean, (24, 24), mode="bicubic", antialias=True)
    features = other.image_standardisation(other.image_tower((resized - new_mean) / new_std))
    torch.testing.assert_close(encoded.inputs, features.detach())
    slope = torch.randn(features.shape, generator=generator(0, "slope"))
    torch.testing.assert_close(encoded.pull(slope), torch.autograd.grad(features, leaf, slope)[0])


def test_each_iteration_learns_for_one_of_the_towers(tmp_path: Path) -> None:
    bench = Workbench(data_config(tmp_path), ENCODER, torch.device("cpu"), Reporter(quiet=True))
    method = Bilevel()
    options = BilevelOptions(steps=2, real_batch=8, towers=(OTHER,))
    both, alone = (context_of(bench, o) for o in (options, replace(options, towers=())))
    method.check(both)
    state = method.setup(starting_pairs(method, both), both)
    drawn = []
    for iteration in range(8):
        found, own = (method.step(state, context.at(iteration)).gradients["images"] for context in (both, alone))
        assert found.shape == state.variables["images"].shape
        drawn.append(not torch.equal(found, own))
    assert any(drawn) and not all(drawn)


def test_other_towers_have_no_meaning_for_learned_features(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match=r"bilevel\.towers"):
        Bilevel().check(context_of(bench, BilevelOptions(real_batch=8, towers=(OTHER,)), space="features"))
