"""The student recipe: how a dual encoder is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from vldistill.config.plain import Plain, Record, expect, items, number
from vldistill.encoders.dual import SIDES
from vldistill.errors import ConfigError, unknown
from vldistill.training.losses import HARD_LOSSES, NEGATIVES, SIGLIP_BIAS, SOFT_LOSSES

SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "half": lambda progress: 1.0 if progress < 0.5 else 0.1,
}

ADDED_LATER: dict[str, Plain] = {
    "head_factor": 1,
    "phases": [],
    "noise": 0.0,
    "views": False,
    "negatives": "all",
    "one_caption": False,
    "bias": SIGLIP_BIAS,
    "ordered": False,
}  # fields omitted from records at these defaults, as in older records


@dataclass(frozen=True)
class Recipe:
    """How a student is trained on a set.

    Args:
        rates: learning rates by side: one number, or one per step.
        epochs: passes over all pairs.
        batch: pairs per step; a smaller set is one batch.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: ``constant``, ``cosine`` to zero, or ``half`` (a tenth after half the steps of the first phase).
        dropout: in the heads.
        temperature: of the logits; 0 means the encoder's own.
        loss: ``infonce``, ``siglip`` (sigmoids), or where the set has a similarity matrix ``soft_infonce`` (eNCE),
            ``bce`` or ``wbce``.
        head_factor: factor on the learning rate of a head whose tower is trained too (setting ``both``).
        phases: sizes of consecutive blocks of pairs, trained on one after the other for ``epochs`` epochs each; empty
            means one block of all pairs.
        noise: standard deviation of the normal noise that each step adds to the features of frozen towers, in those of
            the features.
        views: train on augmented images, where there are any.
        negatives: ``all`` other pairs of a batch, or the ``distinct`` ones: of another image and another caption.
        one_caption: an epoch passes every image once, with one of its captions drawn at random, not all captions.
        bias: of loss ``siglip``, added to the logits; their scale is 1 / temperature. Both are fixed, not learned.
        ordered: take the pairs in the order they are stored in, batch by batch, in every epoch; not in a random one.
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
    noise: float = 0.0
    views: bool = False
    negatives: Literal["all", "distinct"] = "all"
    one_caption: bool = False
    bias: float = SIGLIP_BIAS
    ordered: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(unknown("schedule", self.schedule, SCHEDULES))
        if self.loss not in (*HARD_LOSSES, *SOFT_LOSSES):
            raise ConfigError(unknown("loss", self.loss, (*HARD_LOSSES, *SOFT_LOSSES)))
        if self.negatives not in NEGATIVES:
            raise ConfigError(unknown("negatives", self.negatives, NEGATIVES))
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
            ("noise", 0 <= self.noise < math.inf, "0 or more"),
            ("one_caption", not (self.one_caption and self.phases), "false where there are phases"),
            ("bias", math.isfinite(self.bias), "a finite number"),
            ("temperature", 0 <= self.temperature < math.inf, "a number above 0, or 0 for the encoder's own"),
        ):
            if not fine:
                raise ConfigError(f"recipe.{name} is {getattr(self, name)!r}; expected {expected}.")

    def to_dict(self) -> dict[str, Plain]:
        """Plain values for JSON."""
        rates = {side: list(rate) for side, rate in self.rates.items()}
        plain = asdict(self) | {"rates": rates, "phases": list(self.phases)}
        return {name: value for name, value in plain.items() if value != ADDED_LATER.get(name)}

    @staticmethod
    def from_dict(values: Record) -> Recipe:
        """The inverse of :meth:`to_dict`. Raises ConfigError on unknown fields and impossible values."""
        known = Recipe.__dataclass_fields__
        for name in values:
            if name not in known:
                raise ConfigError(unknown("recipe field", name, known))
        try:
            rates = {side: tuple(map(number, items(rate))) for side, rate in expect(values["rates"], dict).items()}
            phases = tuple(expect(size, int) for size in items(values.get("phases", ())))
            return replace(Recipe(), **{**values, "rates": rates, "phases": phases})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"recipe {dict(values)} is malformed ({error}); expected what to_dict returns.") from None

    @property
    def is_plain(self) -> bool:
        """Whether a step is plain SGD on InfoNCE: no momentum and no weight decay."""
        return self.momentum == self.weight_decay == 0 and self.loss == "infonce"

    @property
    def all_epochs(self) -> int:
        """Epochs of all phases together."""
        return self.epochs * max(1, len(self.phases))

    def rate(self, side: str, step: int, steps: int) -> float:
        """Learning rate of ``side`` at ``step`` of ``steps``."""
        rates = self.rates[side]
        return rates[min(step, len(rates) - 1)] * SCHEDULES[self.schedule](step / max(steps, 1))
