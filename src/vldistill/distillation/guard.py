"""What must not be learned from: updates whose numbers are not finite, and losses that explode."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import torch

from vldistill.distillation.method import Update
from vldistill.runtime.devices import fetched

EXPLOSION = 100.0  # a loss this many times the recent median is a divergence, not noise
MEMORY = 50  # recent losses that the median is taken of
PATIENCE = 5  # bad steps in a row before the run ends


def trouble_of(update: Update, recent: Sequence[float]) -> str:
    """Why an update must not be applied, given the recent losses; empty if it may."""
    if not math.isfinite(update.value):
        return f"the loss is {update.value}"
    if len(recent) >= 5 and update.value > EXPLOSION * max(statistics.median(recent), 1e-12):
        return f"the loss exploded to {update.value:.3g} from about {statistics.median(recent):.3g}"
    return not_finite(
        {
            "the gradient of {} is not finite": update.gradients,
            "{} is not finite after this iteration": update.carried,
        }
    )


def not_finite(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """The message about the first tensor that holds NaN or infinity; empty if none does.

    Args:
        tensors: by message, which has a place for the name, and name. All are checked for one wait.
    """
    named = [(message.format(name), tensor) for message, own in tensors.items() for name, tensor in own.items()]
    fine = fetched([torch.isfinite(tensor).all() for _, tensor in named])
    return next((message for (message, _), one in zip(named, fine) if not one), "")


def diverged(why: str) -> str:
    """What happened, and what to do about it."""
    return (
        f"distillation diverged: {why}. Start again in another --run folder or with another --seed, with smaller "
        f"distill.image_lr and distill.text_lr (try a tenth), smaller distill.student_rate_*, or distill.clip 1."
    )
