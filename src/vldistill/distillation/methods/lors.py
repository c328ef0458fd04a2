"""LoRS: low-rank similarity mining (arXiv 2406.03793, ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from vldistill.distillation.inner_steps import inner_loss, permuted_steps
from vldistill.distillation.method import Context, Start, State, Update, register
from vldistill.distillation.trajectory_matching import (
    MATCHING_OUTER,
    SoftOptions,
    check_segments,
    draw_segment,
    export_with_similarity,
    matching_update,
    start_with_similarity,
)
from vldistill.distilled.distilled_set import DistilledSet


@dataclass(frozen=True)
class LorsOptions(SoftOptions):
    """Options of low-rank similarity mining.

    Args:
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
    """

    max_start_epoch: int = 2

    def __post_init__(self) -> None:
        self.check("lors")


@register(
    "lors",
    LorsOptions,
    MATCHING_OUTER,
    needs_experts=True,
    learns_similarity=True,
    inner_steps=lambda options: (options.syn_steps, options.minibatch),
)
class LowRankSimilarityMining:
    """Match trajectories while also learning how similar every distilled image is to every text (LoRS).

    The iteration of ``bitraj`` with soft targets S inside the student's loss; images, texts, S and one rate per side
    are learned.
    """

    def check(self, context: Context[LorsOptions]) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options = context.options
        check_segments("lors", context.experts, range(options.max_start_epoch), options.expert_epochs)

    def setup(self, start: Start, context: Context[LorsOptions]) -> State:
        """Images, texts and rates of the start; the similarity starts as the identity."""
        return start_with_similarity(start, context)

    def step(self, state: State, context: Context[LorsOptions]) -> Update:
        """Draw a segment, run the student on soft targets, and differentiate the matching loss."""
        options = context.options
        return matching_update(
            state,
            context,
            draw_segment(context, range(options.max_start_epoch), options.expert_epochs),
            partial(inner_loss, context.bench.architecture, soft_loss=options.loss),
            permuted_steps(context, options.syn_steps, options.minibatch, context.config.pairs),
            alpha=options.alpha,
        )

    def export(self, state: State, context: Context[LorsOptions]) -> DistilledSet:
        """The set with the published student: its similarity, SGD at the learned rates, a tenth of them at half."""
        return export_with_similarity(state, context)
