"""Bi-trajectory matching, the founding method (arXiv 2308.07545)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from vldistill.config.checks import at_least, require
from vldistill.config.former import later
from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import check_minibatch, head_spans, inner_loss, inner_steps, one_sided_loss
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
from vldistill.encoders.dual import SIDES, packed, unpacked
from vldistill.errors import ConfigError

SIDES_MATCHED = {"both": SIDES, "image": SIDES[:1]}


@dataclass(frozen=True)
class BitrajOptions:
    """Options of bi-trajectory matching.

    Args:
        syn_steps: inner SGD steps of the student on the distilled set.
        expert_epochs: length of the expert's segment to match, in epochs.
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
        minibatch: distilled pairs per inner step; 0 takes all.
        sides: both, or the image side alone: the student's text side then stays at the expert's, its loss is the cross
            entropy of images over the distinct texts, and the image side is matched. On a class set, with texts that
            stay prompts (``distill.learn image``), this is MTT (arXiv 2203.11932).
        persistent_steps: SGD steps that a persistent student trains on the set before it is reset to an expert's
            start. In each iteration one of them takes ``syn_steps`` from its current parameters, and is matched to its
            expert's target from there. 0 starts every iteration at an expert's snapshot.
        persistent_students: number of persistent students; they take turns.
        estimator: of the gradient: adjoint, unrolled, tesla or difference.
        reduce: sum_of_ratios, or ratio_of_sums of both sides' distances.
        student_epochs: of the set's own recipe (published: 50).
        student_batch: of the set's own recipe (published: 64); 0 takes as many pairs as an inner step.
    """

    syn_steps: int = 8
    expert_epochs: int = 1
    max_start_epoch: int = 2
    minibatch: int = 0
    sides: str = later("both", neutral="both")
    persistent_steps: int = later(0, neutral=0)
    persistent_students: int = later(8, neutral=8)
    estimator: str = "adjoint"
    reduce: str = "sum_of_ratios"
    student_epochs: int = 100
    student_batch: int = 0

    def __post_init__(self) -> None:
        check_trajectory_options("bitraj", self)
        require(self.sides in SIDES_MATCHED, "bitraj.sides", self.sides, " or ".join(SIDES_MATCHED))
        at_least(0, self, "bitraj", "persistent_steps")
        at_least(1, self, "bitraj", "persistent_students")


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
        if options.persistent_steps and context.config.draws > 1:
            raise ConfigError(
                f"bitraj.persistent_steps is {options.persistent_steps} and distill.draws {context.config.draws}: "
                f"an iteration moves one persistent student on, not several. Use draws 1 or persistent_steps 0."
            )

    def setup(self, start: Start, context: Context[BitrajOptions]) -> State:
        """Learned tensors at their start; persistent students are carried."""
        options = context.options
        return State(
            start_variables(start, context), self._persistent_students(context) if options.persistent_steps else {}
        )

    def step(self, state: State, context: Context[BitrajOptions]) -> Update:
        """Draw a segment, run the student, and differentiate the matching loss."""
        options = context.options
        starts, length = range(options.max_start_epoch), options.expert_epochs
        steps = inner_steps(context, options.syn_steps, options.minibatch)
        sides = SIDES_MATCHED[options.sides]
        spans = [span for span in self._spans(context) if span.group in sides]
        inner = partial(inner_loss, context.bench.architecture, spans=spans)
        if options.sides == "image":
            equal = context.equal_learned(torch.arange(context.config.pairs))
            inner = partial(one_sided_loss, context.bench.architecture, equal=equal, spans=spans)
        if not options.persistent_steps:
            segment = draw_segment(context, starts, length)
            return matching_update(state, context, segment, inner, steps, spans, sides=sides)
        count = options.persistent_students
        number = context.iteration % count
        taken, *place = state.carried["walks"][number].tolist()
        continues = taken < options.persistent_steps
        if not continues:  # reset; students that begin together are staggered by their first number of steps
            place = list(draw_place(context, starts))
            taken = options.persistent_steps * number // count if context.iteration < count else 0
        update = matching_update(
            state,
            context,
            segment_at(context, (place[0], place[1]), length),
            inner,
            [replace(step, t=taken + step.t) for step in steps],  # texts of an image continue in turn
            spans,
            begin=unpacked(state.carried, f"walk-{number}/") if continues else None,
            sides=sides,
        )
        places = state.carried["walks"].clone()
        places[number] = torch.tensor([taken + options.syn_steps, *place])
        return replace(update, carried={"walks": places, **packed(update.reached, f"walk-{number}/")})

    def _persistent_students(self, context: Context[BitrajOptions]) -> dict[str, torch.Tensor]:
        """Room for persistent students, under the names that checkpoints have always had.

        The first tensor (persistent_students, 3): steps taken, expert and start epoch of each; all are reset at first.
        """
        options = context.options
        trained = context.bench.architecture.trained()
        room = {side: {n: torch.zeros_like(p) for n, p in named.items()} for side, named in trained.items()}
        carried = {"walks": torch.tensor([[options.persistent_steps, 0, 0]]).repeat(options.persistent_students, 1)}
        for number in range(options.persistent_students):
            carried |= {name: tensor.clone() for name, tensor in packed(room, f"walk-{number}/").items()}
        return carried

    def _spans(self, context: Context[BitrajOptions]) -> tuple[Span, ...]:
        config = context.config
        adjoint = context.options.estimator == "adjoint"
        return head_spans(context.bench.architecture, config.pairs, config.captions) if adjoint else ()

    def export(self, state: State, context: Context[BitrajOptions]) -> DistilledSet:
        """The set and its student: SGD at the learned rates, momentum 0.9, decay 5e-4.

        Rates learned with persistent students are higher: kept constant they are too high for a student with momentum.
        """
        schedule = "cosine" if context.options.persistent_steps else "constant"
        return export_set(state, context, published_recipe(state, context, schedule))
