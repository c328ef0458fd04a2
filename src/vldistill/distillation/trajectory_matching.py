"""What trajectory methods share: segments of experts' trajectories, and the gradient of matching one.

bitraj, lors, repblend and ptm differ in what is learned, in the inner loss and in the segments they draw; the
iteration itself is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

from vldistill.config import Outer
from vldistill.config.checks import at_least
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import check_batch
from vldistill.distillation.metagrad.backward_sweep import hypergradient
from vldistill.distillation.metagrad.inner import ESTIMATORS, InnerStep
from vldistill.distillation.metagrad.input_span import Span
from vldistill.distillation.metagrad.matching import REDUCTIONS, matching_loss
from vldistill.distillation.method import Context, Start, State, Update
from vldistill.distillation.recipes import soft_recipe
from vldistill.distillation.similarity import KINDS, similarity_gradients, similarity_matrix, start_similarity
from vldistill.distillation.variables import learned_rates, rate_gradients, start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES, Groups
from vldistill.errors import ConfigError, unknown
from vldistill.experts.trajectory import Trajectory
from vldistill.runtime.devices import fetched
from vldistill.training.losses import SOFT_LOSSES

T = TypeVar("T")
Segment = tuple[Groups, Groups]
"""Where an expert stood, and where it stood some epochs later."""
MATCHING_OUTER = Outer(iterations=700, text_lr=0.1, rate_lr=0.02, decay="cosine")
"""Outer loop of the methods that match experts: the rate of texts that did best on val, the rest as it was then."""
Inner = Callable[[Groups, Mapping[str, torch.Tensor], InnerStep], torch.Tensor]
"""The student's loss, of its parameters, the distilled tensors and the inner step."""


class MatchingOptions(Protocol):
    """Options that every method has which matches trajectories; see :class:`SoftOptions` for what they mean."""

    @property
    def syn_steps(self) -> int:
        """Inner SGD steps."""
        ...

    @property
    def expert_epochs(self) -> int:
        """Length of a segment."""
        ...

    @property
    def estimator(self) -> str:
        """Of the gradient."""
        ...

    @property
    def reduce(self) -> str:
        """Of both sides' distances."""
        ...


@dataclass(frozen=True)
class SoftOptions:
    """Options that methods share which match trajectories on soft targets.

    Args:
        similarity: what is learned of it: lowrank, diag(w) + (alpha / rank) L R^T, or the full matrix.
        rank: r of the low-rank part.
        alpha: scale of the low-rank part.
        loss: of the inner student and of the set's own recipe: soft_infonce (eNCE), bce or wbce.
        syn_steps: inner SGD steps of the student on the distilled set.
        expert_epochs: length of the expert's segment to match, in epochs.
        minibatch: distilled pairs per inner step, at most; the steps go through a permutation. 0 takes all.
        estimator: of the gradient: tesla (published), adjoint (exact), unrolled or difference.
        reduce: sum_of_ratios, or ratio_of_sums of both sides' distances (published on COCO).
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe; 0 takes as many pairs as an inner step.
    """

    similarity: str = "lowrank"
    rank: int = 10
    alpha: float = 3.0
    loss: str = "wbce"
    syn_steps: int = 8
    expert_epochs: int = 1
    minibatch: int = 20
    estimator: str = "tesla"
    reduce: str = "sum_of_ratios"
    student_epochs: int = 100
    student_batch: int = 128

    def check(self, section: str) -> None:
        """Refuse impossible values; ``section`` is the method whose options they are."""
        check_trajectory_options(section, self)
        check_batch(f"{section}.minibatch", self.minibatch)
        if self.similarity not in KINDS:
            raise ConfigError(unknown("similarity", self.similarity, KINDS))


def check_trajectory_options(section: str, options: MatchingOptions) -> None:
    """Refuse impossible values of the options that trajectory methods share, where ``options`` has them."""
    known = vars(options)
    counts = {"syn_steps", "expert_epochs", "max_start_epoch", "student_epochs", "rank"} & known.keys()
    at_least(1, options, section, *sorted(counts))
    check_batch(f"{section}.student_batch", known["student_batch"])
    choices = {"estimator": ESTIMATORS, "reduce": REDUCTIONS, "loss": SOFT_LOSSES}
    for name, allowed in choices.items():
        if name in known and known[name] not in allowed:
            raise ConfigError(unknown(name, known[name], allowed))


def check_segments(section: str, experts: Sequence[Trajectory], starts: range, length: int) -> None:
    """Refuse segments of ``length`` epochs from ``starts`` that an expert's snapshots cannot give."""
    wanted = {epoch for start in starts for epoch in (start, start + length)}
    for expert in experts:
        missing = sorted(wanted - set(expert.epochs))
        if missing:
            raise ConfigError(
                f"{section}: segments of {length} epochs that start before epoch {starts.stop} reach epoch "
                f"{max(wanted)}, but {expert.path.name} has no snapshot of epochs {missing}; it keeps {expert.epochs}. "
                f"Lower {section}.max_start_epoch or {section}.expert_epochs, or record experts with more epochs."
            )


def draw_place(context: Context[MatchingOptions], starts: range) -> tuple[int, int]:
    """The number of a random expert, and one of the epochs ``starts``."""
    draw = context.generator("segment")
    expert = int(torch.randint(len(context.experts), (), generator=draw))
    return expert, starts[int(torch.randint(len(starts), (), generator=draw))]


def segment_at(context: Context[MatchingOptions], place: tuple[int, int], length: int) -> Segment:
    """The segment of ``length`` epochs of an expert from a start epoch: the snapshots at both ends."""
    expert, start = place
    begin, target = context.experts[expert].segment(start, length)
    return context.on_device(begin), context.on_device(target)


def draw_segment(context: Context[MatchingOptions], starts: range, length: int) -> Segment:
    """A random segment of ``length`` epochs that starts at one of ``starts``."""
    return segment_at(context, draw_place(context, starts), length)


@dataclass(frozen=True)
class MatchingUpdate(Update):
    """An update, and ``reached``: the student's parameters after its inner steps."""

    reached: Groups = field(default_factory=dict)


def matching_update(
    state: State,
    context: Context[MatchingOptions],
    segment: Segment,
    inner: Inner,
    steps: Sequence[InnerStep],
    spans: Sequence[Span] = (),
    alpha: float = 1.0,
    begin: Groups | None = None,
    sides: Sequence[str] = SIDES,
) -> MatchingUpdate:
    """Run the student along ``steps`` and differentiate its distance to the segment's target.

    Uses ``estimator`` and ``reduce`` of the method's options.

    Args:
        spans: first layers whose products ``inner`` takes.
        alpha: scale of the low-rank part of a learned similarity.
        begin: the student's parameters before its steps; None is the start of the segment.
        sides: that the student trains, and that are matched; the other stays where the student begins.
    """
    options, (start, target) = context.options, (_of_sides(part, sides) for part in segment)
    begin = segment[0] if begin is None else begin
    rest = {side: named for side, named in begin.items() if side not in sides}
    encoded = encode_learned(context, state.variables["images"], rows=torch.cat([step.index for step in steps]))
    distilled = {"images": encoded.inputs, "texts": state.variables["texts"]}
    similarity = similarity_matrix(state.variables, alpha)
    if similarity is not None:
        distilled["similarity"] = similarity
    terms: dict[str, torch.Tensor] = {}

    def outer(params: Groups) -> torch.Tensor:
        loss = matching_loss(params, start, target, reduce=options.reduce)
        terms.update(loss.terms)
        return loss.value

    found = hypergradient(
        lambda params, *given: inner({**params, **rest}, *given),
        outer,
        _of_sides(begin, sides),
        distilled,
        _of_sides(learned_rates(state), sides),
        steps,
        estimator=options.estimator,
        spans=spans,
    )
    gradients = {
        "images": encoded.pull(found.distilled["images"]),
        "texts": found.distilled["texts"],
        **rate_gradients(state, found.rates),
    }
    if similarity is not None:
        gradients |= similarity_gradients(state.variables, alpha, found.distilled["similarity"])
    logs = {f"matching_{side}": float(x) for side, x in zip(sides, fetched([terms[side] for side in sides]))}
    return MatchingUpdate(gradients, float(found.value), logs, reached={**found.params, **rest})


def _of_sides(groups: Mapping[str, T], sides: Sequence[str]) -> dict[str, T]:
    return {side: part for side, part in groups.items() if side in sides}


def start_with_similarity(start: Start, context: Context[SoftOptions]) -> State:
    """Images, texts and rates of the start, and a similarity that starts as the identity."""
    options, variables = context.options, start_variables(start, context)
    draw = context.at(0).generator("similarity")
    count, like = context.config.pairs, variables["texts"]
    return State(variables | start_similarity(options.similarity, count, options.rank, draw, like))


def export_with_similarity(state: State, context: Context[SoftOptions]) -> DistilledSet:
    """The set with its similarity and the published student: SGD at the learned rates, a tenth of them at half."""
    similarity = similarity_matrix(state.variables, context.options.alpha)
    return export_set(state, context, soft_recipe(state, context), similarity=similarity)
