"""Bi-trajectory matching, the founding method (arXiv 2308.07545)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vldistill.distill.encode import encode_learned
from vldistill.distill.learned import export_set, learned_rates, rate_gradients, start_variables
from vldistill.distill.metagrad import ESTIMATORS, hypergradient, matching_loss
from vldistill.distill.methods import Context, State, Update, register
from vldistill.distill.start import Start
from vldistill.distill.student import check_minibatch, inner_loss, inner_steps
from vldistill.distilled import DistilledSet
from vldistill.encoders.dual import SIDES, Groups
from vldistill.errors import ConfigError, unknown
from vldistill.training import Recipe


@dataclass(frozen=True)
class BitrajOptions:
    """Options of bi-trajectory matching.

    Args:
        syn_steps: inner SGD steps of the student on the distilled set.
        expert_epochs: length of the expert's segment to match, in epochs.
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
        minibatch: distilled pairs per inner step; 0 takes all.
        estimator: of the gradient: adjoint, unrolled, tesla or difference.
        reduce: sum_of_ratios, or ratio_of_sums of both sides' distances.
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe.
    """

    syn_steps: int = 8
    expert_epochs: int = 1
    max_start_epoch: int = 2
    minibatch: int = 0
    estimator: str = "adjoint"
    reduce: str = "sum_of_ratios"
    student_epochs: int = 50
    student_batch: int = 64

    def __post_init__(self) -> None:
        for name in ("syn_steps", "expert_epochs", "max_start_epoch", "student_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"bitraj.{name} is {getattr(self, name)}; expected 1 or more.")
        if self.student_batch < 2:
            raise ConfigError(f"bitraj.student_batch is {self.student_batch}; expected at least 2.")
        if self.estimator not in ESTIMATORS:
            raise ConfigError(unknown("estimator", self.estimator, ESTIMATORS))
        if self.reduce not in ("sum_of_ratios", "ratio_of_sums"):
            raise ConfigError(unknown("reduce", self.reduce, ("sum_of_ratios", "ratio_of_sums")))


@register("bitraj", BitrajOptions)
class BiTrajectoryMatching:
    """Match segments of experts' trajectories on the image side and the text side (founding method).

    A student starts where an expert stood, takes ``syn_steps`` SGD steps on the distilled set, and should end
    where the expert stood ``expert_epochs`` later. Learned: images, texts, and one rate per side.
    """

    needs = frozenset({"experts"})

    def check(self, context: Context) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options: BitrajOptions = context.options
        last = options.max_start_epoch - 1 + options.expert_epochs
        for expert in context.experts:
            wanted = {e for s in range(options.max_start_epoch) for e in (s, s + options.expert_epochs)}
            missing = sorted(wanted - set(expert.epochs))
            if missing:
                raise ConfigError(
                    f"bitraj: segments of {options.expert_epochs} epochs that start before epoch "
                    f"{options.max_start_epoch} reach epoch {last}, but {expert.path.name} has no snapshot of epochs "
                    f"{missing}; it keeps {expert.epochs}. Lower bitraj.max_start_epoch or bitraj.expert_epochs, "
                    f"or record experts with more epochs."
                )
        check_minibatch("bitraj.minibatch", options.minibatch, context.config.pairs)

    def setup(self, start: Start, context: Context) -> State:
        """Learned tensors at their start."""
        return State(start_variables(start, context))

    def step(self, state: State, context: Context) -> Update:
        """Draw a segment, run the student, and differentiate the matching loss."""
        options: BitrajOptions = context.options
        begin, target = self._draw_segment(context)
        encoded = encode_learned(context, state.variables["images"])
        student = context.bench.architecture
        found = hypergradient(
            lambda params, distilled, step: inner_loss(student, params, distilled, step),
            lambda params: matching_loss(params, begin, target, reduce=options.reduce).value,
            begin,
            {"images": encoded.inputs, "texts": state.variables["texts"]},
            learned_rates(state),
            inner_steps(context, options.syn_steps, options.minibatch),
            estimator=options.estimator,
        )
        terms = matching_loss(found.params, begin, target).terms
        return Update(
            gradients={
                "images": encoded.pull(found.distilled["images"]),
                "texts": found.distilled["texts"],
                **rate_gradients(state, found.rates),
            },
            value=float(found.value),
            logs={f"matching_{side}": float(terms[side]) for side in SIDES},
        )

    def _draw_segment(self, context: Context) -> tuple[Groups, Groups]:
        options: BitrajOptions = context.options
        draw = context.generator("segment")
        expert = context.experts[int(torch.randint(len(context.experts), (), generator=draw))]
        start = int(torch.randint(options.max_start_epoch, (), generator=draw))
        device = context.bench.device
        begin, target = expert.segment(start, options.expert_epochs)
        return (
            {side: {name: tensor.to(device) for name, tensor in begin[side].items()} for side in SIDES},
            {side: {name: tensor.to(device) for name, tensor in target[side].items()} for side in SIDES},
        )

    def export(self, state: State, context: Context) -> DistilledSet:
        """The set with the published student: SGD at the learned rates, momentum 0.9, decay 5e-4."""
        options: BitrajOptions = context.options
        rates = {side: (float(rate),) for side, rate in learned_rates(state).items()}
        recipe = Recipe(
            rates=rates,
            epochs=options.student_epochs,
            batch=options.student_batch,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="constant",
            temperature=context.bench.encoder_config.temperature,
        )
        return export_set(state, context, recipe)
