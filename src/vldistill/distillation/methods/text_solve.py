"""Real photos stay as they are, and the texts that teach most with them are solved for; no experts, no training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vldistill.config import Outer
from vldistill.config.checks import positive, require
from vldistill.distillation.covariances import covariances
from vldistill.distillation.export import export_set
from vldistill.distillation.kernels import KERNELS, Kernel, kernel_named
from vldistill.distillation.method import Context, Start, State, register
from vldistill.distillation.recipes import DecayingStudent, decaying_recipe
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError
from vldistill.training.data import TrainingData


@dataclass(frozen=True)
class TextSolveOptions(DecayingStudent):
    """Options of solved texts.

    Args:
        kernel: of the photos' features: linear, rbf, or ntk (the neural tangent kernel of the heads).
        ridge: added to both sides' covariances, in units of a feature's variance; without it the texts fit the
            training captions alone.
        student_ridge: of the regression that the student is taken for, in units of the kernel's mean diagonal: large
            for one that is trained briefly, near 0 for one that reproduces its pairs.
    """

    kernel: str = "linear"
    ridge: float = 3.0
    student_ridge: float = 3.0

    def __post_init__(self) -> None:
        require(self.kernel in KERNELS, "text_solve.kernel", self.kernel, " or ".join(KERNELS))
        positive(self, "text_solve", "ridge", "student_ridge")
        self.check("text_solve")


@register("text_solve", TextSolveOptions, Outer(iterations=0), settings=frozenset({"heads"}))
class TextSolve:
    """Closed form: real photos stay as they are, and their texts are solved for by least squares (Label Solve).

    Label Solve (Nguyen et al. 2021, arXiv 2011.00050) for pairs: the texts are those from which kernel ridge regression
    on the photos comes nearest to the best regularised map from all photos to their captions.
    """

    def check(self, context: Context[TextSolveOptions]) -> None:
        """Refuse that photos are learned or texts kept."""
        if context.config.learn == "image":
            raise ConfigError(
                "distill.learn is image, but text_solve keeps the photos and solves for the texts. "
                "Use distill.learn text or both, or another method."
            )

    def setup(self, start: Start, context: Context[TextSolveOptions]) -> State:
        """The pairs of the start; the texts are solved for at the export."""
        begun = start_variables(start, context)
        return State({name: begun[name] for name in ("images", "texts")})

    def export(self, state: State, context: Context[TextSolveOptions]) -> DistilledSet:
        """The photos with the texts that are solved for, and a student whose weights decay fast."""
        options, bench = context.options, context.bench
        images, texts = state.variables["images"], state.variables["texts"]
        features = images if context.config.space == "features" else bench.encode_in_batches(images)
        kernel = kernel_named(options.kernel, bench.encoder_config.dim)
        found = solved_texts(bench.split("train").data, features, kernel, options.ridge, options.student_ridge)
        found = found * (texts.norm() / found.norm()).cpu()
        solved = replace(state, variables={"images": images, "texts": found.to(texts)})
        return export_set(solved, context, decaying_recipe(context))


@torch.no_grad()
def solved_texts(
    data: TrainingData, photos: torch.Tensor, kernel: Kernel, ridge: float, student_ridge: float
) -> torch.Tensor:
    """The texts (N, d), up to one factor, that a kernel ridge regression on ``photos`` needs for the best map.

    A student of pairs (x_i, y_i) scores a photo and a caption by k(x)^T (K + s I)^-1 Y C y, k(x) its kernel with the
    photos, K theirs. With T = y (C_y + r I)^-1, the targets of canonical correlation analysis, the coefficients
    B = (K + s I)^-1 Y that are best in ridge regression over all pairs are

        B = (E[k k^T] + r K / D)^-1 E[k T]    and so    Y = (K + s I) B

    with r in units of the features' variance, for a linear kernel exactly.

    Args:
        data: pairs of standardised features; a caption counts once, and its image with it.
        photos: (N, D) standardised features.
        ridge: r. student_ridge: s over K's mean diagonal.
    """
    photos = photos.cpu().double()
    gram = kernel(photos, photos)
    found = covariances(data, lambda images: kernel(images, photos))
    diagonal = gram.diagonal().mean()
    eye = torch.eye(len(found.texts), dtype=torch.float64)
    targets = torch.linalg.solve(found.texts + ridge * eye, found.cross.T).T
    best = torch.linalg.solve(found.images + ridge * diagonal / photos.shape[1] * gram, targets)
    return gram @ best / (student_ridge * diagonal) + best
