"""The student recipes that methods give their sets."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.config.checks import at_least, positive
from vldistill.distillation.inner_steps import check_batch
from vldistill.distillation.method import Context, State
from vldistill.distillation.variables import learned_rates
from vldistill.encoders.dual import SIDES
from vldistill.training.recipe import Recipe


def published_recipe(state: State, context: Context, schedule: str, loss: str = "infonce") -> Recipe:
    """The student of trajectory methods: SGD at the learned rates with momentum 0.9 and decay 5e-4; epochs and batch
    are the method's options, a batch of 0 that of an inner step.
    """
    return Recipe(
        rates={side: (float(rate),) for side, rate in learned_rates(state).items()},
        epochs=context.options.student_epochs,
        batch=context.options.student_batch or context.options.minibatch or context.config.pairs,
        momentum=0.9,
        weight_decay=5e-4,
        schedule=schedule,
        temperature=context.bench.encoder_config.temperature,
        loss=loss,
    )


def plain_recipe(context: Context, schedule: str = "cosine") -> Recipe:
    """The student of methods that learn no rates: as configured; epochs and batch are the method's options."""
    config, options = context.config, context.options
    return Recipe(
        rates={"image": (config.student_rate_image,), "text": (config.student_rate_text,)},
        epochs=options.student_epochs,
        batch=options.student_batch,
        schedule=schedule,
        temperature=context.bench.encoder_config.temperature,
    )


def soft_recipe(state: State, context: Context) -> Recipe:
    """The published student of LoRS and its successors (arXiv 2406.03793): soft targets, and rates x 0.1 at half."""
    return published_recipe(state, context, "half", context.options.loss)


@dataclass(frozen=True)
class DecayingStudent:
    """The student of closed forms, whose weights decay fast.

    Args:
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe; 0 takes all pairs in every step.
        student_rate: of the set's own recipe, both sides.
        student_decay: of its weights: what heads do to directions that no pair shows is left from their random start,
            and decays.
        student_temperature: of its logits: at a higher one than usual, pairs still teach once they are
            separated. 0 is the encoder's.
    """

    student_epochs: int = 100
    student_batch: int = 0
    student_rate: float = 0.5
    student_decay: float = 0.005
    student_temperature: float = 0.2

    def check(self, section: str) -> None:
        """Refuse a student that cannot be. Raises ConfigError."""
        positive(self, section, "student_rate")
        at_least(1, self, section, "student_epochs")
        at_least(0, self, section, "student_decay", "student_temperature")
        check_batch(f"{section}.student_batch", self.student_batch)


def decaying_recipe(context: Context) -> Recipe:
    """The student of :class:`DecayingStudent`: full batches and a cosine."""
    options = context.options
    return Recipe(
        rates=dict.fromkeys(SIDES, (options.student_rate,)),
        epochs=options.student_epochs,
        batch=options.student_batch or context.config.pairs,
        weight_decay=options.student_decay,
        dropout=0.0,
        temperature=options.student_temperature or context.bench.encoder_config.temperature,
    )
