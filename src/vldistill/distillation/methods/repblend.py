"""RepBlend: representation blending (arXiv 2505.14705, NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vldistill.distillation.inner_steps import contrastive, rows_of
from vldistill.distillation.methods import Context, register
from vldistill.distillation.methods.lors import LorsOptions, LowRankSimilarityMining
from vldistill.distillation.trajectory_matching import MATCHING_OUTER, Inner
from vldistill.errors import ConfigError


@dataclass(frozen=True)
class RepblendOptions(LorsOptions):
    """Options of representation blending, beside those of LoRS.

    Args:
        beta: both parameters of the Beta distribution that the blend's weight is drawn from; 0 blends nothing.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        self.check("repblend")
        if self.beta < 0:
            raise ConfigError(f"repblend.beta is {self.beta}; expected 0 (off) or more.")


@register("repblend", RepblendOptions, MATCHING_OUTER)
class RepresentationBlending(LowRankSimilarityMining):
    """Match trajectories of two heads on blended features with a learned similarity (RepBlend).

    The iteration of ``lors`` in setting ``heads``; each inner step blends image features and texts of its rows with
    a permutation of them, so that the distilled pairs do not collapse onto a few directions.
    """

    settings = frozenset({"heads"})
    section = "repblend"

    def inner(self, context: Context) -> Inner:
        """The student's loss on blended rows; the set's own students are not trained on blends."""
        options: RepblendOptions = context.options
        student = context.bench.architecture

        def loss(params, distilled, step):
            images, texts, similarity = blend(rows_of(distilled, step), options.beta, step.seed)
            return contrastive(student(images, texts, params), similarity, options.loss)

        return loss


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
