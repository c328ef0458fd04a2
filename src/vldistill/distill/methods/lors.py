"""LoRS: low-rank similarity mining (arXiv 2406.03793, ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.distill.learned import export_set, soft_recipe, start_variables
from vldistill.distill.methods import Context, State, Update, register
from vldistill.distill.segments import check_segments, check_trajectory_options, draw_segment, matching_update
from vldistill.distill.similarity import KINDS, similarity_matrix, start_similarity
from vldistill.distill.start import Start
from vldistill.distill.student import check_walk, inner_loss, walking_steps
from vldistill.distilled import DistilledSet
from vldistill.errors import ConfigError, unknown


@dataclass(frozen=True)
class LorsOptions:
    """Options of low-rank similarity mining.

    Args:
        similarity: what is learned of it: lowrank, diag(w) + (alpha / rank) L R^T, or the full matrix.
        rank: r of the low-rank part.
        alpha: scale of the low-rank part.
        loss: of the inner student and of the set's own recipe: soft_infonce (eNCE), bce or wbce.
        syn_steps: inner SGD steps of the student on the distilled set.
        expert_epochs: length of the expert's segment to match, in epochs.
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
        minibatch: distilled pairs per inner step, at most; the steps walk through a permutation. 0 takes all.
        estimator: of the gradient: tesla (published), adjoint (exact), unrolled or difference.
        reduce: sum_of_ratios, or ratio_of_sums of both sides' distances (published on COCO).
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe.
    """

    similarity: str = "lowrank"
    rank: int = 10
    alpha: float = 3.0
    loss: str = "wbce"
    syn_steps: int = 8
    expert_epochs: int = 1
    max_start_epoch: int = 2
    minibatch: int = 20
    estimator: str = "tesla"
    reduce: str = "sum_of_ratios"
    student_epochs: int = 100
    student_batch: int = 128

    def __post_init__(self) -> None:
        check_trajectory_options("lors", self)
        check_walk("lors.minibatch", self.minibatch)
        if self.similarity not in KINDS:
            raise ConfigError(unknown("similarity", self.similarity, KINDS))


@register("lors", LorsOptions)
class LowRankSimilarityMining:
    """Match trajectories while also learning how similar every distilled image is to every text (LoRS).

    The iteration of ``bitraj`` with soft targets S inside the student's loss; images, texts, S and one rate per side
    are learned.
    """

    needs = frozenset({"experts"})

    def check(self, context: Context) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options: LorsOptions = context.options
        check_segments("lors", context.experts, range(options.max_start_epoch), options.expert_epochs)

    def setup(self, start: Start, context: Context) -> State:
        """Images, texts and rates of the start; the similarity starts as the identity."""
        options: LorsOptions = context.options
        variables = start_variables(start, context)
        draw = context.at(0).generator("similarity")
        count, like = context.config.pairs, variables["texts"]
        return State(variables | start_similarity(options.similarity, count, options.rank, draw, like))

    def step(self, state: State, context: Context) -> Update:
        """Draw a segment, run the student on soft targets, and differentiate the matching loss."""
        options: LorsOptions = context.options
        student = context.bench.architecture
        return matching_update(
            state,
            context,
            draw_segment(context, range(options.max_start_epoch), options.expert_epochs),
            lambda params, distilled, step: inner_loss(student, params, distilled, step, options.loss),
            walking_steps(context, options.syn_steps, options.minibatch, context.config.pairs),
        )

    def export(self, state: State, context: Context) -> DistilledSet:
        """The set with the published student: its similarity, SGD at the learned rates, a tenth of them at half."""
        options: LorsOptions = context.options
        return export_set(
            state,
            context,
            soft_recipe(state, context),
            similarity=similarity_matrix(state.variables, options.alpha),
        )
