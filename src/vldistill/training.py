"""First-order training of a dual encoder: experts and students use the same few lines.

Shapes: M captions (one epoch passes all of them, each with its image), N images, B batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from vldistill.encoders.dual import SIDES, DualEncoder
from vldistill.errors import ConfigError, DivergedError, unknown
from vldistill.head_steps import head_step, two_heads
from vldistill.losses import SOFT_LOSSES, infonce
from vldistill.runtime.passes import FLOAT32, Passes, Stepper
from vldistill.runtime.processes import ALONE, Ranks
from vldistill.runtime.randomness import generator, seed_of, seeded
from vldistill.training_state import Keeper, restore_training, training_state

CHECK_STEPS = 20  # steps between two looks at the loss: each waits for the device

SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "half": lambda progress: 1.0 if progress < 0.5 else 0.1,
}


@dataclass(frozen=True)
class Recipe:
    """How a student is trained on a set.

    Args:
        rates: learning rates by side; one number, or one per step.
        epochs: passes over all pairs.
        batch: pairs per step; a smaller set is one batch.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: ``constant``, ``cosine`` to zero, or ``half`` (a tenth after half the steps of the first phase).
        dropout: in the heads.
        temperature: of the logits; 0 means the encoder's own.
        loss: ``infonce``, or where the set has a similarity matrix ``soft_infonce`` (eNCE), ``bce`` or ``wbce``.
        head_factor: heads of a side whose tower is trained too (setting ``both``) learn this many times faster.
        phases: sizes of consecutive blocks of pairs that are trained on one after the other, ``epochs`` each; empty
            is one block of all pairs.
    """

    rates: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: {"image": (0.1,), "text": (0.1,)})
    epochs: int = 100
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    dropout: float = 0.1
    temperature: float = 0.0
    loss: str = "infonce"
    head_factor: float = 1.0
    phases: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(unknown("schedule", self.schedule, SCHEDULES))
        if self.loss not in ("infonce", *SOFT_LOSSES):
            raise ConfigError(unknown("loss", self.loss, ("infonce", *SOFT_LOSSES)))
        if set(self.rates) != set(SIDES) or not all(self.rates.values()):
            raise ConfigError(f"recipe.rates is {dict(self.rates)}; expected numbers for 'image' and 'text'.")
        bad = {side: r for side, r in self.rates.items() if not all(0 <= x < math.inf for x in r)}
        if bad:
            raise ConfigError(f"recipe.rates {bad} are negative or not finite; expected numbers of 0 or more.")
        for name, fine, expected in (
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch", self.batch >= 2, "at least 2 pairs (one alone has no contrast)"),
            ("momentum", 0 <= self.momentum < 1, "a number in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("dropout", 0 <= self.dropout < 1, "a number in [0, 1)"),
            ("head_factor", 0 < self.head_factor < math.inf, "a number above 0"),
            ("phases", all(size >= 2 for size in self.phases), "blocks of at least 2 pairs"),
            ("temperature", 0 <= self.temperature < math.inf, "a number above 0, or 0 for the encoder's own"),
        ):
            if not fine:
                raise ConfigError(f"recipe.{name} is {getattr(self, name)!r}; expected {expected}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {**asdict(self), "rates": {side: list(rate) for side, rate in self.rates.items()}}
        if self.head_factor == 1:
            del plain["head_factor"]
        if self.phases:
            return plain | {"phases": list(self.phases)}
        del plain["phases"]
        return plain

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Recipe:
        """The opposite of :meth:`to_dict`. Raises ConfigError on unknown fields and impossible values."""
        known = Recipe.__dataclass_fields__
        for name in values:
            if name not in known:
                raise ConfigError(unknown("recipe field", name, known))
        try:
            rates = {side: tuple(float(x) for x in rate) for side, rate in values["rates"].items()}
            phases = tuple(int(size) for size in values.get("phases", ()))
            return Recipe(**{**values, "rates": rates, "phases": phases})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"recipe {dict(values)} is malformed ({error}); expected what to_dict gives.") from None

    @property
    def is_plain(self) -> bool:
        """Whether a step is nothing but the rate times the gradient of InfoNCE."""
        return self.momentum == self.weight_decay == 0 and self.loss == "infonce"

    @property
    def all_epochs(self) -> int:
        """Epochs of all phases together."""
        return self.epochs * max(1, len(self.phases))

    def rate(self, side: str, step: int, steps: int) -> float:
        """Learning rate of ``side`` at ``step`` of ``steps``."""
        rates = self.rates[side]
        return rates[min(step, len(rates) - 1)] * SCHEDULES[self.schedule](step / max(steps, 1))


class Inputs(Protocol):
    """What one side of the encoder consumes, by row."""

    def __len__(self) -> int: ...

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Inputs of rows ``index`` (B,) on the training device; augmented if a seed is given."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """Pairs as the trained sides see them.

    Args:
        images: N image inputs.
        texts: M text inputs.
        caption_image: (M,) int64, the image of each text.
        similarity: (M, M) soft targets, or None.
        blocks: the texts are so many blocks, each with one text of every image in order. A batch is of one block: two
            texts of one image would be each other's negatives.
    """

    images: Inputs
    texts: Inputs
    caption_image: torch.Tensor
    similarity: torch.Tensor | None = None
    blocks: int = 1

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class _Step:
    """One step of a training.

    Args:
        at: its number in the training, from 0.
        epoch: the number of its epoch, from 0.
        number: its number in the epoch, from 0.
        last: whether it ends its epoch.
        index: (B,) int64, its pairs.
    """

    at: int
    epoch: int
    number: int
    last: bool
    index: torch.Tensor


@dataclass(frozen=True)
class _Plan:
    """The steps of a training, phase after phase, and their rates.

    Args:
        recipe: of the training.
        sizes: pairs of each phase, in each block of texts.
        per_epoch: steps of an epoch in each phase.
        blocks: of texts, which an epoch takes one after the other.
    """

    recipe: Recipe
    sizes: tuple[int, ...]
    per_epoch: tuple[int, ...]
    blocks: int

    @staticmethod
    def of(pairs: int, recipe: Recipe, steps_per_epoch: int = 0, blocks: int = 1) -> _Plan:
        """The plan of a training on ``pairs`` pairs, its epochs cut to ``steps_per_epoch`` steps; 0 means all."""
        sizes = recipe.phases or (pairs // blocks,)
        whole = [blocks * _steps_per_epoch(size, recipe) for size in sizes]
        return _Plan(recipe, sizes, tuple(min(count, steps_per_epoch or count) for count in whole), blocks)

    @property
    def length(self) -> int:
        """Steps of all epochs."""
        return self.recipe.epochs * sum(self.per_epoch)

    def rate(self, side: str, step: int) -> float:
        """The learning rate of ``side``, by the number of the step in the training."""
        # "half" was published for the first phase: later ones go on at the tenth
        span = self.recipe.epochs * self.per_epoch[0] if self.recipe.schedule == "half" else self.length
        return self.recipe.rate(side, step, span)

    def steps(self, seed: int, done: int) -> Iterator[_Step]:
        """The steps that follow the first ``done``, each epoch in an order of its own."""
        passed = 0  # steps of the epochs before
        for epoch in range(self.recipe.all_epochs):
            phase = epoch // self.recipe.epochs
            size, count = self.sizes[phase], self.per_epoch[phase]
            if done < passed + count:
                batches: list[torch.Tensor] = []
                for block in range(self.blocks):
                    names = ("order", epoch, *([block] if block else []))
                    order = torch.randperm(size, generator=generator(seed, *names)) + sum(self.sizes[:phase])
                    cut = (order + block * size).split(min(self.recipe.batch, size))
                    batches += cut[: _steps_per_epoch(size, self.recipe)]
                for number in range(max(0, done - passed), count):
                    yield _Step(passed + number, epoch, number, number + 1 == count, batches[number])
            passed += count


def steps_in(pairs: int, recipe: Recipe, steps_per_epoch: int = 0, blocks: int = 1) -> int:
    """Steps of one training: a last batch of a single pair is left out, it has no contrast.

    Args:
        steps_per_epoch: as for :func:`fit`.
        blocks: of texts, as in :class:`TrainingData`.
    """
    return _Plan.of(pairs, recipe, steps_per_epoch, blocks).length


def _steps_per_epoch(pairs: int, recipe: Recipe) -> int:
    full, rest = divmod(pairs, min(recipe.batch, pairs))
    return full + (rest > 1)


def _check_fits(data: TrainingData, recipe: Recipe) -> None:
    if len(data) < 2:
        raise ConfigError(f"training needs at least 2 pairs (one alone has no contrast); the data has {len(data)}.")
    if recipe.loss in SOFT_LOSSES and data.similarity is None:
        raise ConfigError(f"the recipe's loss is {recipe.loss}, but the set has no similarity matrix.")
    if recipe.phases and sum(recipe.phases) != len(data):
        raise ConfigError(f"the recipe's phases {recipe.phases} do not add up to the {len(data)} pairs of the data.")


def fit(
    encoder: DualEncoder,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    augment: bool = False,
    noise: float = 0.0,
    steps_per_epoch: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
    on_step: Callable[[float], None] | None = None,
    keeper: Keeper | None = None,
    passes: Passes = FLOAT32,
    ranks: Ranks = ALONE,
) -> None:
    """Train ``encoder`` in place by SGD.

    Args:
        seed: of the order, dropout, augmentation and noise.
        noise: standard deviation of normal noise that is added to what both sides consume, drawn anew in every step.
        steps_per_epoch: cut every epoch to this many steps; 0 means all.
        on_epoch: called with (epochs done, mean loss) after each epoch.
        on_step: called with the loss after each step, for a progress bar (costs a device sync).
        keeper: keeps the training in files now and then, and goes on from there: the result is the same to the bit.
        passes: how passes are computed; the result is the same but for rounding.
        ranks: processes that call this with the same arguments and share every batch, and no dropout.

    Raises:
        ConfigError: when the data cannot be trained on by this recipe.
        DivergedError: when a loss is not finite.
        Stopped: by the keeper, when the user asked to stop.
    """
    _check_fits(data, recipe)
    plan = _Plan.of(len(data), recipe, steps_per_epoch, data.blocks)
    optimiser = _optimiser(encoder, recipe)
    stepper = Stepper(encoder, passes, device, ranks)
    descend = _descent(encoder, data, recipe, stepper, optimiser)
    loss, total = (torch.zeros((), device=device) for _ in range(2))  # of the last step, and of the epoch's together
    encoder.train()
    with seeded(device, seed, "dropout"):
        done = 0
        if keeper and (found := keeper.found()):
            state, done = found
            restore_training(state, encoder, optimiser, total, device)
        for step in plan.steps(seed, done):
            if step.number == 0:
                total.zero_()
            for group in optimiser.param_groups:
                group["lr"] = plan.rate(group["side"], step.at) * (recipe.head_factor if group["head"] else 1.0)
            mine, names = stepper.rows(step.index), ("augment", step.at, *([ranks.rank] if ranks.rank else []))
            images = data.images.rows(data.caption_image[mine], seed_of(seed, *names) if augment else None)
            texts = data.texts.rows(mine)
            if noise:
                draw = generator(seed, "noise", *names[1:])
                images, texts = (_noisy(inputs, noise, draw) for inputs in (images, texts))
            before, loss = loss, descend(images, texts, step.index)
            total += loss
            if on_step:  # the last but one on a device: to read it does not wait for the step that has just begun
                on_step(float(before if device.type != "cpu" and step.number else loss))
            if step.last or step.at % CHECK_STEPS == 0:
                _require_finite(encoder, total, recipe, step)
            if step.last and on_epoch:
                encoder.eval()
                on_epoch(step.epoch + 1, float(total) / (step.number + 1))
                encoder.train()
            if keeper and keeper.due():
                keeper.keep(training_state(encoder, optimiser, total, device), step.at + 1)
    encoder.eval()


def _noisy(inputs: torch.Tensor, noise: float, draw: torch.Generator) -> torch.Tensor:
    """Inputs with normal noise of standard deviation ``noise``, the same on every device."""
    return inputs.add(torch.randn(inputs.shape, generator=draw).to(inputs), alpha=noise)


def _descent(
    encoder: DualEncoder, data: TrainingData, recipe: Recipe, stepper: Stepper, optimiser: torch.optim.SGD
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """What takes a step at the optimiser's rates, given inputs of this process's rows and all rows of the batch (B,).

    It returns the loss before the step. Plain steps of two heads are written out.
    """
    whole = stepper.ranks.size == 1 and stepper.sides.passes.precision == "float32"
    heads = two_heads(encoder) if whole and recipe.is_plain else None
    scale = 1 / recipe.temperature if recipe.temperature else encoder.logit_scale

    def written_out(images: torch.Tensor, texts: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        assert heads is not None
        rates = {group["side"]: group["lr"] for group in optimiser.param_groups}
        return head_step(heads, images, texts, scale, rates)

    def by_autograd(images: torch.Tensor, texts: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        loss_of = functools.partial(_loss, encoder=encoder, data=data, recipe=recipe, index=index)
        loss = stepper.backward(images, texts, len(index), loss_of)
        optimiser.step()
        return loss

    return written_out if heads else by_autograd


def _optimiser(encoder: DualEncoder, recipe: Recipe) -> torch.optim.SGD:
    """SGD with a group for each tower and head; a group tells its ``side``, and whether it is the ``head``."""
    groups = [
        {"params": part, "side": side, "head": head}
        for side in SIDES
        for head, part in encoder.tower_and_head(side).items()
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def _require_finite(encoder: DualEncoder, total: torch.Tensor, recipe: Recipe, step: _Step) -> None:
    """Refuse to go on once a loss of the epoch was not finite. Raises DivergedError."""
    mean = float(total) / (step.number + 1)
    if not math.isfinite(mean):
        encoder.eval()
        raise DivergedError(
            f"training diverged in epoch {step.epoch + 1} of {recipe.all_epochs} (loss {mean}) at rates "
            f"{ {side: rate[0] for side, rate in recipe.rates.items()} }; try smaller rates."
        )


def _loss(
    logits: torch.Tensor, encoder: DualEncoder, data: TrainingData, recipe: Recipe, index: torch.Tensor
) -> torch.Tensor:
    if recipe.temperature:
        logits = logits / (encoder.logit_scale * recipe.temperature)
    if recipe.loss in SOFT_LOSSES and data.similarity is not None:
        return SOFT_LOSSES[recipe.loss](logits, data.similarity[index][:, index])
    return infonce(logits)
