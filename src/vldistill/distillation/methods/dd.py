"""Dataset distillation of 2018: ordered pairs for a few inner steps, each with a rate that is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from vldistill.config import Outer
from vldistill.config.checks import at_least, positive, require
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import cycled_steps, head_spans, inner_loss
from vldistill.distillation.metagrad.backward_sweep import hypergradient
from vldistill.distillation.method import Context, Start, State, Update, register
from vldistill.distillation.real_batches import real_batch, real_loss
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES, DualEncoder
from vldistill.errors import ConfigError
from vldistill.training.recipe import Recipe

STUDENTS = ("fresh", "fixed")


@dataclass(frozen=True)
class DdOptions:
    """Options of dataset distillation (2018).

    Args:
        steps: parts S that the pairs are divided into, in order: one inner step takes one part.
        cycles: times that the inner training passes all parts.
        student: start of the inner training: fresh (random in every iteration) or fixed (one start, for which alone the
            set is made).
        rate: start of the learned rate of every step, both sides.
        real_batch: real images per outer batch; all of them where there are fewer.
        captions_per_image: captions of each of them.
    """

    steps: int = 10
    cycles: int = 3
    student: str = "fresh"
    rate: float = 0.02
    real_batch: int = 1024
    captions_per_image: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "dd", "steps", "cycles", "captions_per_image")
        at_least(2, self, "dd", "real_batch")
        positive(self, "dd", "rate")
        require(self.student in STUDENTS, "dd.student", self.student, " or ".join(STUDENTS))


@register(
    "dd",
    DdOptions,
    Outer(iterations=400, image_lr=0.01, text_lr=0.1, rate_lr=0.02, decay="cosine"),
    inner_steps=lambda options: (options.steps * options.cycles, 0),
)
class DatasetDistillation:
    """Learn ordered pairs and a rate for each of a few SGD steps, through all of them; no experts (Wang et al. 2018).

    "Dataset Distillation" (arXiv 1811.10959) for pairs: each inner step has pairs of its own, the steps are cycled, and
    the contrastive loss of the outcome on a real batch descends to pairs and rates.
    """

    def check(self, context: Context[DdOptions]) -> None:
        """Refuse pairs that cannot be divided among the steps, at least 2 to each."""
        pairs, steps = context.config.pairs, context.options.steps
        if pairs % steps or pairs < 2 * steps:
            fine = [count for count in range(1, pairs // 2 + 1) if not pairs % count]
            raise ConfigError(
                f"dd.steps is {steps}, and {pairs} pairs cannot be divided into as many equal parts of 2 or more. "
                f"Use one of {', '.join(map(str, fine))}, or another number of pairs."
            )

    def setup(self, start: Start, context: Context[DdOptions]) -> State:
        """Pairs of the start, and for each step the number whose softplus is its rate."""
        options = context.options
        begun = start_variables(start, context)
        raw = torch.full((options.steps * options.cycles,), math.log(math.expm1(options.rate)), dtype=torch.float64)
        variables = {"images": begun["images"], "texts": begun["texts"], "raw_rates": raw}
        return State(variables, rates={"raw_rates": "rate_lr"})

    def step(self, state: State, context: Context[DdOptions]) -> Update:
        """Train a student on the parts in order, and differentiate the loss of the result."""
        options, pairs = context.options, context.config.pairs
        student = self._student(context)
        encoded = encode_learned(context, state.variables["images"])
        texts, raw = state.variables["texts"], state.variables["raw_rates"]
        rates = F.softplus(raw).to(texts.dtype)
        images, captions = real_batch(context, options.real_batch, options.captions_per_image)
        spans = head_spans(student, pairs)
        found = hypergradient(
            partial(inner_loss, student, spans=spans),
            real_loss(student, context, images, captions),
            student.trained(),
            {"images": encoded.inputs, "texts": texts},
            dict.fromkeys(SIDES, rates),
            cycled_steps(context, options.steps, options.cycles),
            spans=spans,
        )
        slope = (found.rates["image"] + found.rates["text"]).to(raw)
        return Update(
            gradients={
                "images": encoded.pull(found.distilled["images"]),
                "texts": found.distilled["texts"],
                "raw_rates": slope * torch.sigmoid(raw),
            },
            value=float(found.value),
            logs={"mean_rate": float(rates.mean())},
        )

    def _student(self, context: Context[DdOptions]) -> DualEncoder:
        fixed = context.options.student == "fixed"
        return context.bench.student((context.at(0) if fixed else context).seed_of("student"))

    def export(self, state: State, context: Context[DdOptions]) -> DistilledSet:
        """The set with the inner training as its recipe: parts in order, a rate for each step, plain SGD."""
        options = context.options
        rates = tuple(F.softplus(state.variables["raw_rates"]).tolist())
        recipe = Recipe(
            rates=dict.fromkeys(SIDES, rates),
            epochs=options.cycles,
            batch=context.config.pairs // options.steps,
            momentum=0.0,
            weight_decay=0.0,
            schedule="constant",
            dropout=0.0,
            temperature=context.bench.encoder_config.temperature,
            ordered=True,
        )
        return export_set(state, context, recipe)
