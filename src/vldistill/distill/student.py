"""The student inside a method: its loss on distilled pairs, and the rows of its inner steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vldistill.distill.metagrad import InnerStep
from vldistill.distill.methods import Context
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import ConfigError
from vldistill.losses import infonce, soft_infonce


def inner_loss(
    student: DualEncoder,
    params: Mapping[str, Mapping[str, torch.Tensor]],
    distilled: Mapping[str, torch.Tensor],
    step: InnerStep,
) -> torch.Tensor:
    """The contrastive loss of ``student`` with ``params`` on the rows of ``step``.

    Args:
        distilled: ``images`` and ``texts``, and ``similarity`` (N, N) where soft targets are learned.
    """
    images, texts, similarity = distilled["images"], distilled["texts"], distilled.get("similarity")
    if len(step.index) < len(images):
        images, texts = images[step.index], texts[step.index]
        similarity = None if similarity is None else similarity[step.index][:, step.index]
    logits = student(images, texts, params)
    return infonce(logits) if similarity is None else soft_infonce(logits, similarity)


def inner_steps(context: Context, count: int, minibatch: int) -> list[InnerStep]:
    """``count`` inner steps: all pairs each time, or ``minibatch`` rows drawn anew, without repetition in a step."""
    pairs = context.config.pairs
    draw = context.generator("rows")
    steps = []
    for t in range(count):
        index = torch.randperm(pairs, generator=draw)[:minibatch] if minibatch else torch.arange(pairs)
        steps.append(InnerStep(t=t, index=index, seed=context.seed_of("inner", t)))
    return steps


def check_minibatch(name: str, minibatch: int, pairs: int) -> None:
    """Refuse a minibatch that is larger than the set or has no contrast."""
    if minibatch < 0 or minibatch == 1:
        raise ConfigError(f"{name} is {minibatch}; expected 0 (all pairs) or at least 2.")
    if minibatch > pairs:
        raise ConfigError(f"{name} is {minibatch}, more than the {pairs} pairs; use 0 to take all of them.")
