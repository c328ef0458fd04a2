"""RepBlend: representation blending (arXiv 2505.14705, NeurIPS 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vldistill.config.checks import at_least
from vldistill.distillation.inner_steps import contrastive, permuted_steps, rows_of
from vldistill.distillation.metagrad.inner import InnerStep
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
from vldistill.encoders.dual import Groups
from vldistill.runtime.devices import moved


@dataclass(frozen=True)
class RepblendOptions(SoftOptions):
    """Options of representation blending.

    Args:
        max_start_epoch: segments start at an epoch drawn from 0 up to this one, which is left out.
        beta: both parameters of the Beta distribution that the blend's weight is drawn from; 0 blends nothing.
    """

    max_start_epoch: int = 2
    beta: float = 1.0

    def __post_init__(self) -> None:
        self.check("repblend")
        at_least(0, self, "repblend", "beta")


@register(
    "repblend",
    RepblendOptions,
    MATCHING_OUTER,
    needs_experts=True,
    settings=frozenset({"heads"}),
    learns_similarity=True,
    inner_steps=lambda options: (options.syn_steps, options.minibatch),
)
class RepresentationBlending:
    """Match trajectories of two heads on blended features with a learned similarity (RepBlend).

    The iteration of ``lors`` in setting ``heads``; each inner step blends image features and texts of its rows with
    a permutation of them, so that the distilled pairs do not collapse onto a few directions.
    """

    def check(self, context: Context[RepblendOptions]) -> None:
        """Refuse a segment that no expert's trajectory can hold."""
        options = context.options
        check_segments("repblend", context.experts, range(options.max_start_epoch), options.expert_epochs)

    def setup(self, start: Start, context: Context[RepblendOptions]) -> State:
        """Images, texts and rates of the start; the similarity starts as the identity."""
        return start_with_similarity(start, context)

    def step(self, state: State, context: Context[RepblendOptions]) -> Update:
        """Draw a segment, run the student on blended rows and soft targets, and differentiate the matching loss."""
        options, student = context.options, context.bench.architecture

        def inner(params: Groups, distilled: Mapping[str, torch.Tensor], step: InnerStep) -> torch.Tensor:
            images, texts, similarity = blend(rows_of(distilled, step), options.beta, step.seed)
            return contrastive(student(images, texts, params), similarity, options.loss)

        return matching_update(
            state,
            context,
            draw_segment(context, range(options.max_start_epoch), options.expert_epochs),
            inner,
            permuted_steps(context, options.syn_steps, options.minibatch, context.config.pairs),
            alpha=options.alpha,
        )

    def export(self, state: State, context: Context[RepblendOptions]) -> DistilledSet:
        """The set with the published student, which is not trained on blends."""
        return export_with_similarity(state, context)


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
    other = moved(torch.from_numpy(draw.permutation(len(images))), images.device)
    images, texts = (weight * part + (1 - weight) * part[other] for part in (images, texts))
    return images, texts, similarity
