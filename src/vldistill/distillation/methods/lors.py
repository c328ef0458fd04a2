"""LoRS: low-rank similarity mining (arXiv 2406.03793, ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.distillation.inner_steps import inner_loss, walking_steps
from vldistill.distillation.methods import Context, State, Update, register
from vldistill.distillation.similarity import similarity_matrix, start_similarity
from vldistill.distillation.start import Start
from vldistill.distillation.trajectory_matching import (
    MATCHING_OUTER,
    Inner,
    SoftOptions,
    check_segments,
    draw_segment,
    matching_update,
)
from vldistill.distillation.variables import export_set, soft_recipe, start_variables
from vldistill.distilled import DistilledSet


@dataclass(frozen=True)
class LorsOptions(SoftOptions):
    """Options of low-rank similarity mining.

    Args:
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
    """

    max_start_epoch: int = 2

    def __post_init__(self) -> None:
        self.check("lors")


@register("lors", LorsOptions, MATCHING_OUTER)
class LowRankSimilarityMining:
    """Match trajectories while also learning how similar every distilled image is to every text (LoRS).

    The iteration of ``bitraj`` with soft targets S inside the student's loss; images, texts, S and one rate per side
    are learned.
    """

    needs = frozenset({"experts"})
    section = "lors"

    def check(self, context: Context) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options: LorsOptions = context.options
        check_segments(self.section, context.experts, range(options.max_start_epoch), options.expert_epochs)

    def setup(self, start: Start, context: Context) -> State:
        """Images, texts and rates of the start; the similarity starts as the identity."""
        options: LorsOptions = context.options
        variables = start_variables(start, context)
        draw = context.at(0).generator("similarity")
        count, like = context.config.pairs, variables["texts"]
        return State(variables | start_similarity(options.similarity, count, options.rank, draw, like))

    def inner(self, context: Context) -> Inner:
        """The student's loss on the rows of one inner step."""
        student, loss = context.bench.architecture, context.options.loss
        return lambda params, distilled, step: inner_loss(student, params, distilled, step, loss)

    def step(self, state: State, context: Context) -> Update:
        """Draw a segment, run the student on soft targets, and differentiate the matching loss."""
        options: LorsOptions = context.options
        return matching_update(
            state,
            context,
            draw_segment(context, range(options.max_start_epoch), options.expert_epochs),
            self.inner(context),
            walking_steps(context, options.syn_steps, options.minibatch, context.config.pairs),
        )

    def export(self, state: State, context: Context) -> DistilledSet:
        """The set with the published student: its similarity, SGD at the learned rates, a tenth of them at half."""
        similarity = similarity_matrix(state.variables, context.options.alpha)
        return export_set(state, context, soft_recipe(state, context), similarity=similarity)
