"""RepBlend: representation blending (arXiv 2505.14705, NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vldistill.distill.learned import export_set, soft_recipe, start_variables
from vldistill.distill.methods import Context, State, Update, register
from vldistill.distill.segments import check_segments, check_trajectory_options, draw_segment, matching_update
from vldistill.distill.similarity import KINDS, similarity_matrix, start_similarity
from vldistill.distill.start import Start
from vldistill.distill.student import check_walk, contrastive, rows_of, walking_steps
from vldistill.distilled import DistilledSet
from vldistill.errors import ConfigError, unknown


@dataclass(frozen=True)
class RepblendOptions:
    """Options of representation blending.

    Args:
        beta: both parameters of the Beta distribution that the blend's weight is drawn from; 0 blends nothing.
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

    beta: float = 1.0
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
        check_trajectory_options("repblend", self)
        check_walk("repblend.minibatch", self.minibatch)
        if self.similarity not in KINDS:
            raise ConfigError(unknown("similarity", self.similarity, KINDS))
        if self.beta < 0:
            raise ConfigError(f"repblend.beta is {self.beta}; expected 0 (off) or more.")


@register("repblend", RepblendOptions)
class RepresentationBlending:
    """Match trajectories of two heads on blended features with a learned similarity (RepBlend).

    The iteration of ``lors`` in setting ``heads``; each inner step blends image features and texts of its rows with
    a permutation of them, so that the distilled pairs do not collapse onto a few directions.
    """

    needs = frozenset({"experts"})
    settings = frozenset({"heads"})

    def check(self, context: Context) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options: RepblendOptions = context.options
        check_segments("repblend", context.experts, range(options.max_start_epoch), options.expert_epochs)

    def setup(self, start: Start, context: Context) -> State:
        """Images, texts and rates of the start; the similarity starts as the identity."""
        options: RepblendOptions = context.options
        variables = start_variables(start, context)
        draw = context.at(0).generator("similarity")
        count, like = context.config.pairs, variables["texts"]
        return State(variables | start_similarity(options.similarity, count, options.rank, draw, like))

    def step(self, state: State, context: Context) -> Update:
        """Draw a segment, run the student on blended rows, and differentiate the matching loss."""
        options: RepblendOptions = context.options
        student = context.bench.architecture

        def inner(params, distilled, step):
            images, texts, similarity = blend(rows_of(distilled, step), options.beta, step.seed)
            return contrastive(student(images, texts, params), similarity, options.loss)

        return matching_update(
            state,
            context,
            draw_segment(context, range(options.max_start_epoch), options.expert_epochs),
            inner,
            walking_steps(context, options.syn_steps, options.minibatch, context.config.pairs),
        )

    def export(self, state: State, context: Context) -> DistilledSet:
        """The set with the student of LoRS; students are not trained on blends."""
        similarity = similarity_matrix(state.variables, context.options.alpha)
        return export_set(state, context, soft_recipe(state, context), similarity=similarity)


Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def blend(rows: Rows, beta: float, seed: int) -> Rows:
    """lambda x + (1 - lambda) x[permutation], for images and texts with the same lambda ~ Beta and permutation.

    The similarity stays that of the unblended rows, as published.
    """
    images, texts, similarity = rows
    if not beta:
        return rows
    draw = np.random.default_rng(seed)
    weight = float(draw.beta(beta, beta))
    other = torch.from_numpy(draw.permutation(len(images))).to(images.device)
    images, texts = (weight * part + (1 - weight) * part[other] for part in (images, texts))
    return images, texts, similarity
