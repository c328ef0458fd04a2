"""Bi-trajectory matching, the founding method (arXiv 2308.07545)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from vldistill.config.checks import at_least
from vldistill.config.former import later
from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import check_minibatch, head_spans, inner_loss, inner_steps
from vldistill.distillation.metagrad.input_span import Span
from vldistill.distillation.method import BestKnown, Context, Start, State, Update, register
from vldistill.distillation.recipes import published_recipe
from vldistill.distillation.trajectory_matching import (
    MATCHING_OUTER,
    check_segments,
    check_trajectory_options,
    draw_place,
    draw_segment,
    matching_update,
    segment_at,
)
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import packed, unpacked
from vldistill.errors import ConfigError


@dataclass(frozen=True)
class BitrajOptions:
    """Options of bi-trajectory matching.

    Args:
        syn_steps: inner SGD steps of the student on the distilled set.
        expert_epochs: length of the expert's segment to match, in epochs.
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
        minibatch: distilled pairs per inner step; 0 takes all.
        own_steps: students walk on the set for so many steps before they start anew at an expert's start: in each
            iteration one of them takes ``syn_steps`` from where it stands, and is matched to its expert's target from
            there. 0 starts every iteration where an expert stood.
        walkers: students that walk, in turn.
        estimator: of the gradient: adjoint, unrolled, tesla or difference.
        reduce: sum_of_ratios, or ratio_of_sums of both sides' distances.
        student_epochs: of the set's own recipe (published: 50).
        student_batch: of the set's own recipe (published: 64); 0 takes as many pairs as an inner step.
    """

    syn_steps: int = 8
    expert_epochs: int = 1
    max_start_epoch: int = 2
    minibatch: int = 0
    own_steps: int = later(0, neutral=0)
    walkers: int = later(8, neutral=8)
    estimator: str = "adjoint"
    reduce: str = "sum_of_ratios"
    student_epochs: int = 100
    student_batch: int = 0

    def __post_init__(self) -> None:
        check_trajectory_options("bitraj", self)
        at_least(0, self, "bitraj", "own_steps")
        at_least(1, self, "bitraj", "walkers")


@register(
    "bitraj",
    BitrajOptions,
    MATCHING_OUTER,
    needs_experts=True,
    several_captions=True,
    inner_steps=lambda options: (options.syn_steps, options.minibatch),
    best_known=(
        BestKnown("heads", "100 pairs of its features taught the most; it needs experts", pairs=100, space="features"),
        BestKnown("heads", "500 pairs of it taught the most; it needs experts", pairs=500),
        BestKnown("full", "with a trained tower no method did clearly better, by either recipe; it needs experts"),
        BestKnown("lora", "it is the founding paper's for adapters; it needs experts"),
    ),
)
class BiTrajectoryMatching:
    """Match segments of experts' trajectories on the image side and the text side (founding method).

    A student starts where an expert stood, takes ``syn_steps`` SGD steps on the distilled set, and should end
    where the expert stood ``expert_epochs`` later. Learned: images, texts, and one rate per side.
    """

    def check(self, context: Context[BitrajOptions]) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options = context.options
        check_segments("bitraj", context.experts, range(options.max_start_epoch), options.expert_epochs)
        check_minibatch("bitraj.minibatch", options.minibatch, context.config.pairs)
        if options.own_steps and context.config.draws > 1:
            raise ConfigError(
                f"bitraj.own_steps is {options.own_steps} and distill.draws {context.config.draws}: an iteration takes "
                f"one walking student on, not several. Use draws 1 or own_steps 0."
            )

    def setup(self, start: Start, context: Context[BitrajOptions]) -> State:
        """Learned tensors at their start; students that walk on the set are carried on."""
        options = context.options
        return State(start_variables(start, context), self._walkers(context) if options.own_steps else {})

    def step(self, state: State, context: Context[BitrajOptions]) -> Update:
        """Draw a segment, run the student, and differentiate the matching loss."""
        options = context.options
        starts, length = range(options.max_start_epoch), options.expert_epochs
        steps = inner_steps(context, options.syn_steps, options.minibatch)
        spans = self._spans(context)
        inner = partial(inner_loss, context.bench.architecture, spans=spans)
        if not options.own_steps:
            return matching_update(state, context, draw_segment(context, starts, length), inner, steps, spans)
        number = context.iteration % options.walkers
        walked, *place = state.carried["walks"][number].tolist()
        stands = walked < options.own_steps
        if not stands:  # it starts anew; walkers that begin together are told apart by how long their first walk is
            place = list(draw_place(context, starts))
            walked = options.own_steps * number // options.walkers if context.iteration < options.walkers else 0
        update = matching_update(
            state,
            context,
            segment_at(context, (place[0], place[1]), length),
            inner,
            [replace(step, t=walked + step.t) for step in steps],  # texts of an image go on in turn
            spans,
            begin=unpacked(state.carried, f"walk-{number}/") if stands else None,
        )
        walks = state.carried["walks"].clone()
        walks[number] = torch.tensor([walked + options.syn_steps, *place])
        return replace(update, carried={"walks": walks, **packed(update.reached, f"walk-{number}/")})

    def _walkers(self, context: Context[BitrajOptions]) -> dict[str, torch.Tensor]:
        """Room for walking students, none of which stands anywhere yet; ``walks`` (walkers, 3) are steps walked, expert
        and start epoch of each.
        """
        options = context.options
        trained = context.bench.architecture.trained()
        room = {side: {n: torch.zeros_like(p) for n, p in named.items()} for side, named in trained.items()}
        carried = {"walks": torch.tensor([[options.own_steps, 0, 0]]).repeat(options.walkers, 1)}
        for number in range(options.walkers):
            carried |= {name: tensor.clone() for name, tensor in packed(room, f"walk-{number}/").items()}
        return carried

    def _spans(self, context: Context[BitrajOptions]) -> tuple[Span, ...]:
        config = context.config
        adjoint = context.options.estimator == "adjoint"
        return head_spans(context.bench.architecture, config.pairs, config.captions) if adjoint else ()

    def export(self, state: State, context: Context[BitrajOptions]) -> DistilledSet:
        """The set and its student: SGD at the learned rates, momentum 0.9, decay 5e-4.

        Rates that were learned on walks are higher: kept constant they are too much for a student with momentum.
        """
        schedule = "cosine" if context.options.own_steps else "constant"
        return export_set(state, context, published_recipe(state, context, schedule))
