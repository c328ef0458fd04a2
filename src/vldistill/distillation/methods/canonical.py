"""Closed form: pairs whose contrastive training finds the canonical directions of the data; no experts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vldistill.config import Outer
from vldistill.config.checks import at_least, positive
from vldistill.distillation.covariances import covariances
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.method import Context, Start, State, Update, register
from vldistill.distillation.recipes import DecayingStudent, decaying_recipe
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError
from vldistill.runtime.devices import moved
from vldistill.training.data import TrainingData


@dataclass(frozen=True)
class CanonicalOptions(DecayingStudent):
    """Options of canonical pairs.

    Args:
        ridge: added to the diagonal of both sides' covariances, whose own diagonal is 1 for standardised features:
            without it the directions fit the training pairs alone.
        rank: canonical directions at most; fewer where there are fewer pairs or features.
    """

    ridge: float = 3.0
    rank: int = 100

    def __post_init__(self) -> None:
        self.check("canonical")
        positive(self, "canonical", "ridge")
        at_least(1, self, "canonical", "rank")


@register(
    "canonical",
    CanonicalOptions,
    Outer(iterations=100, image_lr=0.05, decay="cosine"),
    settings=frozenset({"heads"}),
    closed_form=frozenset({"features"}),
    is_start=True,
)
class CanonicalPairs:
    """Closed form: pairs that carry the regularised canonical correlations of the data; their images are fitted to it.

    A student that aligns pairs (x_i, y_i) learns a similarity like x^T M y with M the sum of x_i y_i^T. Canonical
    correlation analysis gives the best M of rank r, and any rotation of the pairs has the same M: the one nearest
    to the images is taken in every iteration, and the images move towards it through the tower. Texts are exact.
    """

    def check(self, context: Context[CanonicalOptions]) -> None:
        """Refuse a side that must stay real: texts follow from images, and images from both."""
        if context.config.learn != "both":
            raise ConfigError(
                f"distill.learn is {context.config.learn}, but canonical pairs are learned on both sides. "
                f"Use distill.learn both, or another method."
            )

    def setup(self, start: Start, context: Context[CanonicalOptions]) -> State:
        """Images of the start, in ``distill.space features`` the canonical ones; the directions are carried."""
        options = context.options
        data = context.bench.split("train").data
        images, texts = canonical_directions(data, min(options.rank, context.config.pairs), options.ridge)
        begun = start_variables(start, context)
        carried = {"image_directions": images.to(begun["texts"]), "text_directions": texts.to(begun["texts"])}
        state = State({"images": begun["images"], "texts": begun["texts"]}, carried)
        if context.config.space == "features":
            state.variables["images"] = self._mixture(begun["images"], state) @ carried["image_directions"]
        return state

    def step(self, state: State, context: Context[CanonicalOptions]) -> Update:
        """The gradient of the mean squared distance between the images' features and the nearest canonical ones."""
        encoded = encode_learned(context, state.variables["images"])
        aims = self._mixture(encoded.inputs, state) @ state.carried["image_directions"]
        gap = encoded.inputs - aims
        cosine = torch.nn.functional.cosine_similarity(encoded.inputs, aims).mean()
        return Update(
            gradients={"images": encoded.pull(2 * gap / gap.numel())},
            value=float(gap.square().mean()),
            logs={"cosine": float(cosine)},
        )

    def export(self, state: State, context: Context[CanonicalOptions]) -> DistilledSet:
        """The set with the texts that belong to its images, and a student whose weights decay fast."""
        plain = replace(context, config=replace(context.config, augment=()))
        features = encode_learned(plain, state.variables["images"]).inputs
        texts = self._mixture(features, state) @ state.carried["text_directions"]
        return export_set(State({**state.variables, "texts": texts}, state.carried), context, decaying_recipe(context))

    def _mixture(self, features: torch.Tensor, state: State) -> torch.Tensor:
        return nearest_rotation(features, state.carried["image_directions"])


@torch.no_grad()
def canonical_directions(data: TrainingData, rank: int, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Regularised canonical directions of the training pairs, scaled to the size of real features.

    With K = (Cx + rI)^(-1/2) Cxy (Cy + rI)^(-1/2) = U S V^T, the rows are those of S^(1/2) U^T (Cx + rI)^(-1/2) and of
    S^(1/2) V^T (Cy + rI)^(-1/2) for the largest S: their product X^T Y is the best map of this rank from whitened
    images to whitened texts (Hotelling 1936; the ridge after Vinod 1976).

    Args:
        data: pairs of standardised features; a caption counts once, and its image with it.
        rank: K directions at most; there are no more than features on either side.
        ridge: r, in units of the features' variance.

    Returns:
        Directions (K, D) of images and (K, d) of texts, float64. Each side's Frobenius norm is that of K real rows.
    """
    images, texts, cross = covariances(data)
    whiten = [_inverse_root(cov, ridge) for cov in (images, texts)]
    left, strength, right = torch.linalg.svd(whiten[0] @ cross @ whiten[1], full_matrices=False)
    found = []
    for root, side, cov in zip(whiten, (left.T, right), (images, texts)):
        rows = strength[:rank, None].sqrt() * (side[:rank] @ root)
        found.append(rows * (len(rows) * cov.trace()).sqrt() / rows.norm())
    return found[0], found[1]


def nearest_rotation(features: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The Q (N, K) with orthonormal columns (N >= K) for which Q ``directions`` is nearest to ``features``.

    The orthogonal Procrustes problem (Schoenemann 1966): with ``features`` (N, D) and ``directions`` (K, D), Q = P R^T
    for F X^T = P S R^T.
    """
    product = (features @ directions.T).cpu().double()  # not every device has float64
    left, _, right = torch.linalg.svd(product, full_matrices=False)
    return moved((left @ right).to(features.dtype), features.device)


def _inverse_root(covariance: torch.Tensor, ridge: float) -> torch.Tensor:
    """(covariance + ridge I)^(-1/2)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * (values.clamp(min=0) + ridge).rsqrt()) @ vectors.T
