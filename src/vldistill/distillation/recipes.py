"""The student recipes that methods give their sets."""

from __future__ import annotations

from vldistill.distillation.method import Context, State
from vldistill.distillation.variables import learned_rates
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
