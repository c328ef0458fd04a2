"""Training against a loop written out by hand, and the traps: frozen statistics, seeded dropout, lone pairs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F

from vldistill.config import ImageTowerConfig
from vldistill.encoders.dual import DualEncoder, Head
from vldistill.errors import ConfigError, DivergedError
from vldistill.experts.trajectory import clone_groups
from vldistill.runtime.randomness import generator
from vldistill.training.data import TrainingData
from vldistill.training.fit import CHECK_STEPS, fit
from vldistill.training.losses import infonce, siglip, soft_infonce
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import PixelInputs, TensorInputs
from vldistill.training.state import Tensors, restore_training, training_state
from vldistill.training.steps import steps_in
from vldistill.workbench.bench import Workbench

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

CPU = torch.device("cpu")
RATES = {"image": (0.05,), "text": (0.2,)}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_encoder(dropout: float = 0.0, temperature: float = 0.1) -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DualEncoder(Head(6, 5, dropout), Head(4, 5, dropout), 1 / temperature).eval()


def make_data(pairs: int, similarity: torch.Tensor | None = None) -> TrainingData:
    """Two captions for each image, in mixed order."""
    owner = torch.randperm(pairs, generator=torch.Generator().manual_seed(7)) // 2
    return TrainingData(TensorInputs(normal(pairs, 6)), TensorInputs(normal(pairs, 4, seed=1)), owner, similarity)


def recipe(**changes: Any) -> Recipe:
    plain = {"rates": RATES, "epochs": 3, "batch": 4, "momentum": 0.9, "weight_decay": 1e-2, "dropout": 0.0}
    return Recipe(**{**plain, **changes})


def trained(data: TrainingData, how: Recipe, *, encoder: DualEncoder | None = None, seed: int = 3, **options: Any):
    encoder = encoder or make_encoder()
    fit(encoder, data, how, seed=seed, device=CPU, **options)
    return encoder


def same(left: DualEncoder, right: DualEncoder) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


class Recorded(TensorInputs):
    """Remembers the rows asked for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self.asked: list[list[int]] = []

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        self.asked.append(index.tolist())
        return super().rows(index, augment_seed)


# --- the loop ------------------------------------------------------------------------------------------------------


def by_hand(data: TrainingData, how: Recipe, rate_of: Callable[[str, int, int], float], seed: int = 3) -> DualEncoder:
    """SGD with momentum and decay from its equations: v <- mu v + g + wd theta, theta <- theta - eta v."""
    encoder = make_encoder()
    assert isinstance(data.images, TensorInputs) and isinstance(data.texts, TensorInputs)
    flat = [(side, p) for side, named in encoder.trained().items() for p in named.values()]
    velocity = [torch.zeros_like(p) for _, p in flat]
    batches = [
        torch.randperm(len(data), generator=generator(seed, "order", e)).split(how.batch) for e in range(how.epochs)
    ]
    steps = [rows for epoch in batches for rows in epoch if len(rows) > 1]
    for t, rows in enumerate(steps):
        images = F.normalize(encoder.image(data.images.tensor[data.caption_image[rows]]))
        logits = images @ F.normalize(encoder.text(data.texts.tensor[rows])).T / 0.1
        target = torch.arange(len(rows))
        loss = 0.5 * F.cross_entropy(logits, target) + 0.5 * F.cross_entropy(logits.T, target)
        slopes = torch.autograd.grad(loss, [p for _, p in flat])
        with torch.no_grad():
            for i, (side, p) in enumerate(flat):
                velocity[i] = how.momentum * velocity[i] + slopes[i] + how.weight_decay * p
                p -= rate_of(side, t, len(steps)) * velocity[i]
    return encoder


def cosine(side: str, t: int, steps: int) -> float:
    return RATES[side][0] * (1 + math.cos(math.pi * t / steps)) / 2


@pytest.mark.parametrize(
    ("changes", "rate_of"),
    [
        ({"schedule": "cosine"}, cosine),
        ({"schedule": "constant", "momentum": 0.0}, lambda side, t, steps: RATES[side][0]),
        ({"schedule": "half"}, lambda side, t, steps: RATES[side][0] * (1 if 2 * t < steps else 0.1)),
        (
            {"schedule": "constant", "rates": {"image": (0.1, 0.0, 0.3), "text": (0.2,)}},
            lambda side, t, steps: 0.2 if side == "text" else (0.1, 0.0, 0.3)[min(t, 2)],
        ),
    ],
    ids=["cosine", "constant", "half", "per step"],
)
@pytest.mark.parametrize("pairs", [10, 9])
def test_fit_is_the_loop_by_hand(pairs: int, changes: dict[str, Any], rate_of: Any):
    data, how = make_data(pairs), recipe(**changes)
    found, expected = trained(data, how), by_hand(data, how, rate_of)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", ["half", "cosine"])
def test_phases_are_trained_one_after_the_other(schedule: str):
    """As one training: momentum goes on, and half of the first phase ends the full rate (published by PTM)."""
    data, how = make_data(10), recipe(phases=(6, 4), schedule=schedule)
    texts = Recorded(data.texts.rows(torch.arange(10)))
    epochs: list[int] = []
    watched = TrainingData(data.images, texts, data.caption_image)
    found = trained(watched, how, on_epoch=lambda epoch, loss: epochs.append(epoch))
    batches = [
        start + part
        for phase, (start, size) in enumerate(((0, 6), (6, 4)))
        for epoch in range(how.epochs)
        for part in torch.randperm(size, generator=generator(3, "order", phase * how.epochs + epoch)).split(how.batch)
        if len(part) > 1
    ]
    assert texts.asked == [rows.tolist() for rows in batches]
    assert steps_in(10, how) == len(batches) and epochs == list(range(1, 2 * how.epochs + 1))
    first = sum(int(rows.max()) < 6 for rows in batches)
    one_by_one = make_encoder()
    optimiser = torch.optim.SGD(
        [{"params": list(one_by_one.trained()[side].values())} for side in ("image", "text")],
        lr=0.0,
        momentum=how.momentum,
        weight_decay=how.weight_decay,
    )
    for t, rows in enumerate(batches):
        part = (1 if 2 * t < first else 0.1) if schedule == "half" else (1 + math.cos(math.pi * t / len(batches))) / 2
        for group, side in zip(optimiser.param_groups, ("image", "text")):
            group["lr"] = RATES[side][0] * part
        logits = one_by_one(data.images.rows(data.caption_image[rows]), data.texts.rows(rows))
        loss = (
            F.cross_entropy(logits, torch.arange(len(rows))) + F.cross_entropy(logits.T, torch.arange(len(rows)))
        ) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for name, tensor in one_by_one.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_phases_have_to_add_up_and_leave_other_recipes_as_they_were():
    with pytest.raises(ConfigError, match=r"phases \(6, 3\) do not add up to the 10 pairs"):
        trained(make_data(10), recipe(phases=(6, 3)))
    with pytest.raises(ConfigError, match="blocks of at least 2 pairs"):
        recipe(phases=(6, 1))
    assert "phases" not in recipe().to_dict()  # records made before there were phases stay equal
    assert Recipe.from_dict(recipe(phases=(6, 4)).to_dict()) == recipe(phases=(6, 4))


def test_a_rate_moves_its_side_alone():
    data = make_data(8)
    found = trained(data, recipe(rates={"image": (0.0,), "text": (0.1,)}))
    start = make_encoder()
    assert all(torch.equal(a, b) for a, b in zip(found.image.parameters(), start.image.parameters()))
    assert not any(torch.equal(a, b) for a, b in zip(found.text.parameters(), start.text.parameters()))


@pytest.mark.parametrize(
    ("pairs", "batch", "sizes"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 128, [3]), (2, 2, [2])]
)
def test_a_last_batch_of_one_pair_is_left_out(pairs: int, batch: int, sizes: list[int]):
    plain = make_data(pairs)
    texts = Recorded(normal(pairs, 4))
    images = Recorded(normal(pairs, 6))
    how = recipe(batch=batch, epochs=2)
    trained(TrainingData(images, texts, plain.caption_image), how)
    assert [len(rows) for rows in texts.asked] == sizes * 2
    assert steps_in(pairs, how) == 2 * len(sizes)
    owner = plain.caption_image
    assert images.asked == [owner[rows].tolist() for rows in texts.asked]
    for epoch in (texts.asked[: len(sizes)], texts.asked[len(sizes) :]):
        seen = [row for rows in epoch for row in rows]
        assert len(set(seen)) == len(seen) == sum(sizes)
    if pairs > 3:
        assert texts.asked[0] != texts.asked[len(sizes)]


def test_a_batch_never_has_two_texts_of_one_image():
    images, texts = Recorded(normal(5, 6)), Recorded(normal(15, 4))
    data, how = TrainingData(images, texts, torch.arange(5).repeat(3), blocks=3), recipe(batch=3, epochs=2)
    trained(data, how)
    assert len(texts.asked) == steps_in(15, how, blocks=3) == 2 * 3 * 2
    assert all(len(set(rows)) == len(rows) for rows in images.asked)
    assert images.asked == [[row % 5 for row in rows] for rows in texts.asked]
    epochs = [[row for rows in texts.asked[at : at + 6] for row in rows] for at in (0, 6)]
    assert [sorted(rows) for rows in epochs] == [list(range(15))] * 2 and epochs[0] != epochs[1]


def test_epochs_can_be_cut_short():
    texts = Recorded(normal(40, 4))
    epochs: list[int] = []
    data = TrainingData(TensorInputs(normal(20, 6)), texts, torch.arange(40) // 2)
    trained(data, recipe(), steps_per_epoch=2, on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert len(texts.asked) == 3 * 2 and epochs == [1, 2, 3]
    texts.asked.clear()
    trained(data, recipe(), steps_per_epoch=99)
    assert len(texts.asked) == 3 * 10


def test_reported_losses_are_the_means_of_the_steps():
    means: list[float] = []
    steps: list[float] = []
    modes: list[bool] = []
    encoder = make_encoder(dropout=0.5)

    def after(epoch: int, loss: float) -> None:
        means.append(loss)
        modes.append(encoder.training)

    trained(make_data(10), recipe(dropout=0.5), encoder=encoder, on_epoch=after, on_step=steps.append)
    assert len(steps) == 9
    assert means == pytest.approx([sum(steps[i : i + 3]) / 3 for i in (0, 3, 6)], rel=1e-6)
    assert modes == [False] * 3 and not encoder.training


# --- randomness ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched_generator")
def test_dropout_and_order_come_from_the_seed_alone():
    data, how = make_data(10), recipe(dropout=0.5)
    first = trained(data, how, encoder=make_encoder(0.5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert same(first, trained(data, how, encoder=make_encoder(0.5)))
    assert not same(first, trained(data, how, encoder=make_encoder(0.5), seed=4))
    assert not same(first, trained(data, how, encoder=make_encoder(0.0)))


def test_dropout_masks_follow_the_seed():
    def first_mask(seed: int) -> list[bool]:
        encoder = make_encoder(0.5)
        masks: list[list[bool]] = []
        assert isinstance(encoder.image, Head)
        encoder.image.dropout.register_forward_hook(lambda _, inputs, out: masks.append((out == 0).flatten().tolist()))
        trained(make_data(8), recipe(epochs=1), encoder=encoder, seed=seed)
        return masks[0]

    assert first_mask(1) == first_mask(1) != first_mask(2)


def test_dropout_is_on_while_training_and_off_in_between():
    seen: set[bool] = set()
    encoder = make_encoder(0.5)
    encoder.image.register_forward_hook(lambda module, inputs, output: seen.add(module.training))
    trained(make_data(8), recipe(), encoder=encoder)
    assert seen == {True} and not encoder.training


def test_augmentation_differs_by_step_and_follows_the_seed(workbench: Bench):
    bench = workbench("full")
    seeds: list[int | None] = []

    class Spied(PixelInputs):
        def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
            seeds.append(augment_seed)
            return super().rows(index, augment_seed)

    real = bench.split("train").data
    data = TrainingData(Spied(bench.pixels("train").array, bench.image_tower, CPU), real.texts, real.caption_image)

    def train(seed: int, augment: bool) -> DualEncoder:
        how = recipe(batch=16, epochs=2)
        return trained(data, how, encoder=bench.student(0), seed=seed, augment=augment, steps_per_epoch=2)

    first = train(1, True)
    assert len(set(seeds)) == 4 and None not in seeds
    assert same(first, train(1, True)) and seeds[:4] == seeds[4:]
    assert not same(first, train(2, True)) and not set(seeds[:4]) & set(seeds[8:])
    assert not same(first, train(1, False)) and seeds[12:] == [None] * 4


def test_noise_is_added_to_both_sides_anew_in_every_step_and_follows_the_seed():
    data, noise = make_data(10), 0.3
    how = recipe(batch=10, epochs=2, rates={"image": (0.1,), "text": (0.1,)})
    encoder = make_encoder()
    trained(data, how, encoder=encoder, noise=noise, seed=5)
    assert isinstance(data.images, TensorInputs) and isinstance(data.texts, TensorInputs)
    by_hand = make_encoder()
    optimiser = torch.optim.SGD(by_hand.parameters(), lr=0.0, momentum=how.momentum, weight_decay=how.weight_decay)
    for step in range(2):
        rows = torch.randperm(10, generator=generator(5, "order", step))
        draw = generator(5, "noise", step)
        images = data.images.tensor[data.caption_image[rows]]
        images = images + noise * torch.randn(images.shape, generator=draw)
        texts = data.texts.tensor[rows]
        texts = texts + noise * torch.randn(texts.shape, generator=draw)
        optimiser.zero_grad()
        infonce(by_hand(images, texts)).backward()
        optimiser.param_groups[0]["lr"] = how.rate("image", step, 2)
        optimiser.step()
    for a, b in zip(encoder.parameters(), by_hand.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert same(encoder, trained(data, how, encoder=make_encoder(), noise=noise, seed=5))
    assert not same(encoder, trained(data, how, encoder=make_encoder(), seed=5))


# --- losses and scale ----------------------------------------------------------------------------------------------


def test_a_recipes_temperature_replaces_the_encoders():
    data = make_data(10)
    told = trained(data, recipe(temperature=0.5), encoder=make_encoder(temperature=0.1))
    own = trained(data, recipe(), encoder=make_encoder(temperature=0.5))
    for a, b in zip(told.parameters(), own.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_soft_targets_use_the_rows_of_the_batch():
    similarity = normal(6, 6, seed=2).sigmoid()
    data = make_data(6, similarity)
    losses: list[float] = []
    encoder = make_encoder()
    start = copy.deepcopy(encoder).requires_grad_(False)
    trained(data, recipe(loss="soft_infonce", batch=6, epochs=1), encoder=encoder, on_step=losses.append)
    rows = torch.randperm(6, generator=generator(3, "order", 0))
    assert isinstance(data.images, TensorInputs) and isinstance(data.texts, TensorInputs)
    logits = start(data.images.tensor[data.caption_image[rows]], data.texts.tensor[rows])
    part = torch.stack([torch.stack([similarity[i, j] for j in rows]) for i in rows])
    assert losses == pytest.approx([float(soft_infonce(logits, part))])
    identity = trained(make_data(6, torch.eye(6)), recipe(loss="soft_infonce"))
    hard = trained(make_data(6), recipe())
    for a, b in zip(identity.parameters(), hard.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# --- frozen statistics ---------------------------------------------------------------------------------------------


def batchnorm_bench(workbench: Bench, timm_file: Callable[[str], tuple[Any, Path]]) -> Workbench:
    _, path = timm_file("mobilenetv2_035")
    return workbench("full", image=ImageTowerConfig("mobilenetv2_035", str(path), size=32))


def check_that_rate_zero_changes_nothing(bench: Workbench) -> None:
    student = bench.student(0)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    images = bench.split("train").data.images.rows(torch.arange(8))
    features = student.image(images).detach()
    still = recipe(rates={"image": (0.0,), "text": (0.0,)}, batch=16, epochs=1)
    trained(bench.split("train").data, still, encoder=student, augment=True, steps_per_epoch=1)
    assert torch.equal(student.image(images), features)
    assert torch.equal(bench.image_tower(images), features)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_training_at_rate_zero_leaves_pretrained_features_exactly(workbench: Bench, timm_file: Any):
    check_that_rate_zero_changes_nothing(batchnorm_bench(workbench, timm_file))


def test_training_at_rate_zero_leaves_real_folded_weights_exactly(workbench: Bench, shared: Path):
    """Their statistics are folded away (mean 0, variance 1): one pass that recorded a batch would destroy them."""
    path = shared / "weights" / "mobilenetv2_035" / "mobilenetv2_035.timm.safetensors"
    tower = ImageTowerConfig("mobilenetv2_035", str(path), 32, {"pad_type": "same"}, (0.5,) * 3, (0.5,) * 3)
    check_that_rate_zero_changes_nothing(workbench("full", image=tower))


def test_training_moves_weights_and_no_statistics(workbench: Bench, timm_file: Any):
    bench = batchnorm_bench(workbench, timm_file)
    student = bench.student(0)
    buffers = {name: tensor.clone() for name, tensor in student.named_buffers()}
    weights = clone_groups(student.trained())
    trained(bench.split("train").data, recipe(batch=16, epochs=1), encoder=student, steps_per_epoch=1)
    assert any(name.endswith("running_mean") for name in buffers)
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in student.named_buffers())
    moved = {name: not torch.equal(t, weights["image"][name]) for name, t in student.trained()["image"].items()}
    assert all(moved.values()) and any("bn" in name and name.endswith("weight") for name in moved)
    assert not any(torch.equal(t, weights["text"][name]) for name, t in student.trained()["text"].items())
    untouched = bench.image_tower.state_dict()
    assert all(torch.equal(untouched[name], tensor) for name, tensor in weights["image"].items())


# --- what cannot work ----------------------------------------------------------------------------------------------


def test_a_training_that_diverges_says_so():
    data = make_data(8)
    broken = TrainingData(TensorInputs(torch.full((8, 6), float("nan"))), data.texts, data.caption_image)
    encoder = make_encoder()
    with pytest.raises(DivergedError, match=r"diverged in epoch 1 of 3 \(loss nan\).*'text': 0\.2.*smaller rates"):
        trained(broken, recipe(), encoder=encoder)
    assert not encoder.training
    with pytest.raises(DivergedError, match="diverged"):
        trained(data, recipe(rates={"image": (1e30,), "text": (1e30,)}))


def test_data_that_cannot_be_trained_on_is_refused():
    with pytest.raises(ConfigError, match=r"at least 2 pairs .*the data has 1"):
        trained(TrainingData(TensorInputs(normal(1, 6)), TensorInputs(normal(1, 4)), torch.arange(1)), recipe())
    with pytest.raises(ConfigError, match="no similarity matrix"):
        trained(make_data(4), recipe(loss="soft_infonce"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin'.*cosine"),
        ({"loss": "infoncee"}, "unknown loss 'infoncee'.*infonce"),
        ({"rates": {"image": (0.1,)}}, "expected numbers for 'image' and 'text'"),
        ({"rates": {"image": (), "text": (0.1,)}}, "expected numbers for 'image' and 'text'"),
        ({"rates": {"image": (0.1, -0.1), "text": (0.1,)}}, "negative or not finite"),
        ({"rates": {"image": (float("nan"),), "text": (0.1,)}}, "negative or not finite"),
        ({"epochs": 0}, "recipe.epochs is 0; expected 1 or more"),
        ({"batch": 1}, "recipe.batch is 1; expected at least 2"),
        ({"momentum": 1.0}, r"recipe.momentum is 1\.0"),
        ({"weight_decay": -1e-4}, r"recipe.weight_decay is -0\.0001"),
        ({"dropout": 1.0}, r"recipe.dropout is 1\.0"),
        ({"temperature": -0.07}, r"recipe.temperature is -0\.07"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_recipes_as_plain_values():
    how = recipe(rates={"image": (0.1, 0.2), "text": (0.3,)}, schedule="half", temperature=0.07)
    assert Recipe.from_dict(how.to_dict()) == how
    assert how.to_dict()["rates"] == {"image": [0.1, 0.2], "text": [0.3]}
    with pytest.raises(ConfigError, match=r"unknown recipe field 'momentun'\. Did you mean momentum"):
        Recipe.from_dict({**how.to_dict(), "momentun": 0.9})
    for bad in ({"rates": None}, {"rates": {"image": ["x"], "text": [1]}}, {"epochs": "many"}):
        with pytest.raises(ConfigError, match="malformed"):
            Recipe.from_dict({**how.to_dict(), **bad})
    with pytest.raises(ConfigError, match="malformed"):
        Recipe.from_dict({})


# --- going on ------------------------------------------------------------------------------------------------------


class Kept:
    """Keeps the state after one step, as a file would, and ends the training there."""

    def __init__(self, after: int) -> None:
        self.after, self.state = after, dict[str, torch.Tensor]()
        self.asked = 0

    def found(self) -> tuple[Tensors, int] | None:
        return (self.state, self.after) if self.state else None

    def due(self) -> bool:
        self.asked += 1
        return not self.state and self.asked == self.after

    def keep(self, tensors: Tensors, steps: int) -> None:
        assert steps == self.after
        self.state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        raise KeyboardInterrupt


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("after", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"phases": (4, 6), "momentum": 0.0, "schedule": "half"}])
def test_a_training_goes_on_from_any_step_to_the_same_bits(changes: dict[str, Any], after: int):
    how, dropout = recipe(epochs=3, batch=4, **changes), changes.get("dropout", 0.0)
    data, reported = make_data(10), list[tuple[int, float]]()
    whole, losses = make_encoder(dropout), list[tuple[int, float]]()
    fit(whole, data, how, seed=3, device=CPU, on_epoch=lambda *told: losses.append(told))
    keeper = Kept(after)
    with pytest.raises(KeyboardInterrupt):
        fit(make_encoder(dropout), data, how, seed=3, device=CPU, on_epoch=lambda *told: reported.append(told),
            keeper=keeper)  # fmt: skip
    encoder = make_encoder(dropout)
    before = keeper.asked
    fit(encoder, data, how, seed=3, device=CPU, on_epoch=lambda *told: reported.append(told), keeper=keeper)
    assert same(whole, encoder) and reported == losses
    assert keeper.asked - before == steps_in(10, how) - after


def test_a_loss_that_is_not_finite_ends_the_training_within_a_few_steps():
    data = make_data(200)
    assert isinstance(data.texts, TensorInputs)
    data.texts.tensor[:] = torch.nan
    steps: list[float] = []
    with pytest.raises(DivergedError, match=r"epoch 1 of 2 \(loss nan\).*smaller rates"):
        fit(make_encoder(), data, recipe(epochs=2, batch=4), seed=0, device=CPU, on_step=steps.append)
    assert len(steps) <= CHECK_STEPS


def test_a_training_begun_on_a_cpu_goes_on_on_a_gpu() -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    kept = training_state(model, optimiser, torch.tensor(1.0), torch.device("cpu"))
    other = torch.nn.Linear(3, 2)
    restore_training(kept, other, torch.optim.SGD(other.parameters(), lr=0.1), torch.zeros(()), torch.device("cuda"))
    assert torch.equal(other.weight, model.weight)  # no state of a GPU's generator is asked for


def test_a_student_by_siglip_descends_its_loss_at_the_scale_and_bias_of_the_recipe():
    data, how = make_data(6), recipe(epochs=2, batch=6, momentum=0.0, weight_decay=0.0, schedule="constant",
                                     loss="siglip", temperature=0.25, bias=-3.0)  # fmt: skip
    found, mine = trained(data, how), make_encoder()
    sides = [{"params": mine.side(side).parameters(), "lr": RATES[side][0]} for side in RATES]
    optimiser = torch.optim.SGD(sides)
    images, texts = data.images.rows(data.caption_image), data.texts.rows(torch.arange(6))
    for _ in range(2):
        optimiser.zero_grad()
        siglip(mine.embed("image", images) @ mine.embed("text", texts).T / 0.25, bias=-3.0).backward()
        optimiser.step()
    torch.testing.assert_close(found.state_dict(), mine.state_dict(), rtol=1e-4, atol=1e-6)
    assert Recipe.from_dict(how.to_dict()) == how and "bias" not in recipe().to_dict()
