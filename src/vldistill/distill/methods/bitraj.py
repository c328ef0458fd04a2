"""Bi-trajectory matching, the founding method (arXiv 2308.07545)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vldistill.distill.learned import export_set, published_recipe, start_variables
from vldistill.distill.methods import Context, State, Update, register
from vldistill.distill.segments import (
    MATCHING_OUTER,
    check_segments,
    check_trajectory_options,
    draw_segment,
    matching_update,
)
from vldistill.distill.start import Start
from vldistill.distill.student import check_minibatch, head_spans, inner_loss, inner_steps
from vldistill.distilled import DistilledSet
from vldistill.errors import ConfigError


@dataclass(frozen=True)
class BitrajOptions:
    """Options of bi-trajectory matching.

    Args:
        syn_steps: inner SGD steps of the student on the distilled set.
        expert_epochs: length of the expert's segment to match, in epochs.
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
        minibatch: distilled pairs per inner step; 0 takes all.
        own_steps: the student first takes a number of such steps that is drawn from 0 to this one, and no gradient
            flows through them: it is matched where the set itself leads it, not only where the expert stood.
        estimator: of the gradient: adjoint, unrolled, tesla or difference.
        reduce: sum_of_ratios, or ratio_of_sums of both sides' distances.
        student_epochs: of the set's own recipe (published: 50).
        student_batch: of the set's own recipe (published: 64); 0 takes as many pairs as an inner step.
    """

    syn_steps: int = 8
    expert_epochs: int = 1
    max_start_epoch: int = 2
    minibatch: int = 0
    own_steps: int = 0
    estimator: str = "adjoint"
    reduce: str = "sum_of_ratios"
    student_epochs: int = 100
    student_batch: int = 0

    def __post_init__(self) -> None:
        check_trajectory_options("bitraj", self)
        if self.own_steps < 0:
            raise ConfigError(f"bitraj.own_steps is {self.own_steps}; expected 0 or more.")


@register("bitraj", BitrajOptions, MATCHING_OUTER)
class BiTrajectoryMatching:
    """Match segments of experts' trajectories on the image side and the text side (founding method).

    A student starts where an expert stood, takes ``syn_steps`` SGD steps on the distilled set, and should end
    where the expert stood ``expert_epochs`` later. Learned: images, texts, and one rate per side.
    """

    needs = frozenset({"experts"})
    several_captions = True

    def check(self, context: Context) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options: BitrajOptions = context.options
        check_segments("bitraj", context.experts, range(options.max_start_epoch), options.expert_epochs)
        check_minibatch("bitraj.minibatch", options.minibatch, context.config.pairs)

    def setup(self, start: Start, context: Context) -> State:
        """Learned tensors at their start."""
        return State(start_variables(start, context))

    def step(self, state: State, context: Context) -> Update:
        """Draw a segment, run the student, and differentiate the matching loss."""
        options: BitrajOptions = context.options
        student, config = context.bench.architecture, context.config
        spans = head_spans(student, config.pairs, config.captions) if options.estimator == "adjoint" else ()
        own = int(torch.randint(options.own_steps + 1, (), generator=context.generator("own steps")))
        steps = inner_steps(context, own + options.syn_steps, options.minibatch)
        return matching_update(
            state,
            context,
            draw_segment(context, range(options.max_start_epoch), options.expert_epochs),
            lambda params, distilled, step: inner_loss(student, params, distilled, step, spans=spans),
            steps[own:],
            spans,
            steps[:own],
        )

    def export(self, state: State, context: Context) -> DistilledSet:
        """The set and its student: SGD at the learned rates, momentum 0.9, decay 5e-4."""
        return export_set(state, context, published_recipe(state, context, "constant"))
