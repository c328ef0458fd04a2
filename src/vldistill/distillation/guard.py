"""What must not be learned from: updates whose numbers are not finite, and losses that explode."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from vldistill.distillation.method import Update

EXPLOSION = 100.0  # a loss this many times the recent median is a divergence, not noise
MEMORY = 50  # recent losses that the median is taken of
PATIENCE = 5  # bad steps in a row before the run ends


def trouble_of(update: Update, recent: Sequence[float]) -> str:
    """Why an update must not be applied, given the recent losses; empty if it may."""
    if not math.isfinite(update.value):
        return f"the loss is {update.value}"
    if len(recent) >= 5 and update.value > EXPLOSION * max(statistics.median(recent), 1e-12):
        return f"the loss exploded to {update.value:.3g} from about {statistics.median(recent):.3g}"
    return not_finite("the gradient of {} is not finite", update.gradients) or not_finite(
        "{} is not finite after this iteration", update.carried
    )


def not_finite(message: str, tensors: dict[str, torch.Tensor]) -> str:
    """``message`` about the first tensor that holds NaN or infinity; empty if none does."""
    if not tensors:
        return ""
    place = max((tensor.device for tensor in tensors.values()), key=lambda device: device.type != "cpu")
    fine = torch.stack([torch.isfinite(tensor).all().to(place) for tensor in tensors.values()])
    return next((message.format(name) for name, one in zip(tensors, fine.tolist()) if not one), "")  # one wait


def diverged(why: str) -> str:
    """What happened, and what to do about it."""
    return (
        f"distillation diverged: {why}. Start again in another --run folder or with another --seed, with smaller "
        f"distill.image_lr and distill.text_lr (try a tenth), smaller distill.student_rate_*, or distill.clip 1."
    )
