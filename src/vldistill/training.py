"""First-order training of a dual encoder: experts and students use the same few lines.

Shapes: M captions (one epoch passes all of them, each with its image), N images, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from vldistill.encoders.dual import SIDES, DualEncoder
from vldistill.errors import ConfigError, DivergedError, unknown
from vldistill.losses import SOFT_LOSSES, infonce
from vldistill.randomness import generator, seed_of, seeded

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
    """

    images: Inputs
    texts: Inputs
    caption_image: torch.Tensor
    similarity: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.texts)


def steps_in(pairs: int, recipe: Recipe) -> int:
    """Steps of one training: a last batch of a single pair is left out, it has no contrast."""
    return recipe.epochs * sum(_steps_per_epoch(size, recipe) for size in recipe.phases or (pairs,))


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
    steps_per_epoch: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
    on_step: Callable[[float], None] | None = None,
) -> None:
    """Train ``encoder`` in place by SGD.

    Args:
        seed: of the order, dropout and augmentation.
        steps_per_epoch: cut every epoch to this many steps; 0 means all.
        on_epoch: called with (epochs done, mean loss) after each epoch.
        on_step: called with the loss after each step, for a progress bar (costs a device sync).

    Raises:
        ConfigError: when the data cannot be trained on by this recipe.
        DivergedError: when the loss of an epoch is not finite.
    """
    _check_fits(data, recipe)
    groups = [(side, head, part) for side in SIDES for head, part in encoder.tower_and_head(side).items()]
    optimiser = torch.optim.SGD(
        [{"params": part} for _, _, part in groups],
        lr=0.0,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    sizes = recipe.phases or (len(data),)
    whole = [_steps_per_epoch(size, recipe) for size in sizes]
    per_epoch = [min(count, steps_per_epoch) if steps_per_epoch else count for count in whole]
    # "half" was published for the first phase: later ones go on at the tenth
    span = recipe.epochs * (per_epoch[0] if recipe.schedule == "half" else sum(per_epoch))
    step = 0
    encoder.train()
    with seeded(device, seed, "dropout"):
        for epoch in range(recipe.all_epochs):
            phase = epoch // recipe.epochs
            batch = min(recipe.batch, sizes[phase])
            order = torch.randperm(sizes[phase], generator=generator(seed, "order", epoch)) + sum(sizes[:phase])
            total = torch.zeros((), device=device)
            for number in range(per_epoch[phase]):
                for group, (side, head, _) in zip(optimiser.param_groups, groups):
                    group["lr"] = recipe.rate(side, step, span) * (recipe.head_factor if head else 1.0)
                index = order[number * batch : (number + 1) * batch]
                loss = _loss(encoder, data, recipe, index, seed_of(seed, "augment", step) if augment else None)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += loss.detach()
                step += 1
                if on_step:
                    on_step(float(loss.detach()))
            mean = float(total) / per_epoch[phase]
            if not math.isfinite(mean):
                encoder.eval()
                raise DivergedError(
                    f"training diverged in epoch {epoch + 1} of {recipe.all_epochs} (loss {mean}) at rates "
                    f"{ {side: rate[0] for side, rate in recipe.rates.items()} }; try smaller rates."
                )
            if on_epoch:
                encoder.eval()
                on_epoch(epoch + 1, mean)
                encoder.train()
    encoder.eval()


def _loss(
    encoder: DualEncoder, data: TrainingData, recipe: Recipe, index: torch.Tensor, augment_seed: int | None
) -> torch.Tensor:
    images = data.images.rows(data.caption_image[index], augment_seed)
    logits = encoder(images, data.texts.rows(index))
    if recipe.temperature:
        logits = logits / (encoder.logit_scale * recipe.temperature)
    if recipe.loss in SOFT_LOSSES and data.similarity is not None:
        return SOFT_LOSSES[recipe.loss](logits, data.similarity[index][:, index])
    return infonce(logits)
