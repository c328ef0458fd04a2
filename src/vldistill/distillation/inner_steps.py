"""The student inside a method: its loss on distilled pairs, and the rows of its inner steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import torch

from vldistill.config.checks import require
from vldistill.distillation.metagrad.inner import InnerStep
from vldistill.distillation.metagrad.input_span import Span
from vldistill.distillation.method import Context
from vldistill.encoders.dual import DualEncoder, Head
from vldistill.errors import ConfigError
from vldistill.runtime.devices import moved
from vldistill.training.losses import SOFT_LOSSES, classification, infonce


def inner_loss(
    student: DualEncoder,
    params: Mapping[str, Mapping[str, torch.Tensor]],
    distilled: Mapping[str, torch.Tensor],
    step: InnerStep,
    soft_loss: str = "soft_infonce",
    spans: Sequence[Span] = (),
) -> torch.Tensor:
    """The contrastive loss of ``student`` with ``params`` on the rows of ``step``.

    Args:
        distilled: ``images`` and ``texts``, and ``similarity`` (N, N) where soft targets are learned.
        soft_loss: the loss where there is a similarity; without one it is InfoNCE.
        spans: of heads: the tensors they read are products of the step's rows already.
    """
    multiplied = {span.group for span in spans}
    images, texts, similarity = rows_of(distilled, step, {span.data for span in spans})
    embedded = [
        student.embed(side, inputs, params, multiplied=side in multiplied)
        for side, inputs in (("image", images), ("text", texts))
    ]
    return contrastive(student.logits(*embedded), similarity, soft_loss, step.equal)


def one_sided_loss(
    student: DualEncoder,
    params: Mapping[str, Mapping[str, torch.Tensor]],
    distilled: Mapping[str, torch.Tensor],
    step: InnerStep,
    equal: torch.Tensor | None = None,
    spans: Sequence[Span] = (),
) -> torch.Tensor:
    """The cross entropy of the images of ``step`` over all distinct texts of the set.

    Args:
        equal: (N, N), of all pairs; None where all texts differ.
        spans: see :func:`inner_loss`.
    """
    images, _, _ = rows_of(distilled, step, {span.data for span in spans})
    every = replace(step, index=torch.arange(len(distilled["texts"])))
    _, texts, _ = rows_of(distilled, every)
    shown = student.embed("image", images, params, multiplied=bool(spans))
    logits = student.logits(shown, student.embed("text", texts, params))
    return classification(logits, moved(step.index, logits.device), equal)


def head_spans(student: DualEncoder, pairs: int, captions: int = 1) -> tuple[Span, ...]:
    """The sides whose first layer need not be written out: heads that read fewer distilled rows than features."""
    found = []
    for side, data, rows in (("image", "images", pairs), ("text", "texts", pairs * captions)):
        head = student.side(side)
        if isinstance(head, Head) and rows < head.project.in_features:
            found.append(Span(side, "project.weight", data))
    return tuple(found)


def rows_of(
    distilled: Mapping[str, torch.Tensor], step: InnerStep, taken: Set[str] = frozenset()
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Images (B, ...), texts (B, ...) and, if there is one, the similarity (B, B) of the rows of ``step``.

    Args:
        taken: names of tensors that hold the step's rows already.
    """
    texts = distilled["texts"]
    if texts.ndim == 3 and "texts" not in taken:  # several texts for each image: one of them in each step
        texts = texts[:, step.t % texts.shape[1]]
    images, texts = (
        side if name in taken or (rows := step.rows(side)) is None else side[rows]
        for name, side in (("images", distilled["images"]), ("texts", texts))
    )
    similarity = distilled.get("similarity")
    if similarity is not None and (rows := step.rows(similarity)) is not None:
        similarity = similarity[rows][:, rows]
    return images, texts, similarity


def contrastive(
    logits: torch.Tensor, similarity: torch.Tensor | None, soft_loss: str, equal: torch.Tensor | None = None
) -> torch.Tensor:
    """InfoNCE without ``equal`` pairs as negatives, or ``soft_loss`` where there is a similarity."""
    return infonce(logits, equal) if similarity is None else SOFT_LOSSES[soft_loss](logits, similarity)


def inner_steps(context: Context, count: int, minibatch: int) -> list[InnerStep]:
    """``count`` inner steps: all pairs each time, or ``minibatch`` fresh random rows, without repetition in a step."""
    pairs = context.config.pairs
    draw = context.generator("rows")
    steps = []
    whole = minibatch in (0, pairs)
    for t in range(count):
        index = torch.arange(pairs) if whole else torch.randperm(pairs, generator=draw)[:minibatch]
        steps.append(_step(context, t, index))
    return steps


def _step(context: Context, t: int, index: torch.Tensor) -> InnerStep:
    return InnerStep(t, index, context.seed_of("inner", t), context.equal_learned(index, t))


def permuted_steps(context: Context, count: int, minibatch: int, pairs: int) -> list[InnerStep]:
    """``count`` inner steps that go through a permutation of ``pairs`` rows; a new one where the rest is too small.

    A minibatch of 0, or one larger than the set, takes all pairs in every step (LoRS, arXiv 2406.03793).
    """
    size = min(minibatch, pairs) or pairs
    draw = context.generator("rows")
    steps, rest = [], torch.empty(0, dtype=torch.int64)
    for t in range(count):
        if len(rest) < size:
            rest = torch.randperm(pairs, generator=draw)
        index, rest = rest[:size], rest[size:]
        index = torch.arange(pairs) if size == pairs else index
        steps.append(_step(context, t, index))
    return steps


def cycled_steps(context: Context, blocks: int, cycles: int) -> list[InnerStep]:
    """Inner steps that take ``blocks`` parts of the pairs in order, as often as ``cycles`` says."""
    parts = torch.arange(context.config.pairs).chunk(blocks)
    return [_step(context, t, parts[t % blocks]) for t in range(blocks * cycles)]


def check_batch(name: str, batch: int) -> None:
    """Refuse a number of pairs per step that has no contrast."""
    require(batch == 0 or batch >= 2, name, batch, "0 (all pairs) or at least 2")


def check_minibatch(name: str, minibatch: int, pairs: int) -> None:
    """Refuse a minibatch that is larger than the set or has no contrast."""
    check_batch(name, minibatch)
    if minibatch > pairs:
        raise ConfigError(f"{name} is {minibatch}, more than the {pairs} pairs; use 0 to take all of them.")
