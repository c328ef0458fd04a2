"""What is learned: images, texts and student rates, how they start and how they become a set."""

from __future__ import annotations

import math

import torch

from vldistill.distillation.method import Context, Start, State
from vldistill.encoders.dual import SIDES


def start_variables(start: Start, context: Context) -> dict[str, torch.Tensor]:
    """Images (or their features) and texts of the start, and the logarithm of each side's student rate.

    Rates are learned as logarithms: the published update of the rate itself can make it negative.
    """
    config, images = context.config, start.images
    if config.space == "features" and images.ndim > 2:
        images = context.bench.encode_in_batches(images)
    rates = {"image": config.student_rate_image, "text": config.student_rate_text}
    return {
        "images": images.detach().clone(),
        "texts": start.texts.detach().clone(),
        **{
            f"log_rate_{side}": torch.tensor(math.log(rates[side]), dtype=torch.float64)  # CPU: not all devices
            for side in SIDES  # have float64
        },
    }


def learned_rates(state: State) -> dict[str, torch.Tensor]:
    """Student rates by side, in the texts' number format; on the CPU, where inner steps read them."""
    texts = state.variables["texts"]
    return {side: state.variables[f"log_rate_{side}"].exp().to(texts.dtype) for side in SIDES}


def rate_gradients(state: State, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients to the logarithms: d/d log(eta) = eta d/d eta."""
    return {
        f"log_rate_{side}": slope.cpu().double() * state.variables[f"log_rate_{side}"].exp()
        for side, slope in gradients.items()
    }
