"""What is learned: images, texts and student rates, how they start and how they become a set."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from vldistill.config import DistillConfig
from vldistill.distillation.start import Start
from vldistill.distilled import DistilledSet
from vldistill.encoders.dual import SIDES
from vldistill.training.recipe import Recipe
from vldistill.version import __version__
from vldistill.workbench import Workbench

if TYPE_CHECKING:
    from vldistill.distillation.methods import Context, State


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
    """Student rates by side, in the texts' number format."""
    texts = state.variables["texts"]
    return {side: state.variables[f"log_rate_{side}"].exp().to(texts) for side in SIDES}


def rate_gradients(state: State, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients to the logarithms: d/d log(eta) = eta d/d eta."""
    return {
        f"log_rate_{side}": gradients[side].cpu().double() * state.variables[f"log_rate_{side}"].exp() for side in SIDES
    }


def published_recipe(state: State, context: Context, schedule: str, loss: str = "infonce") -> Recipe:
    """The student of trajectory methods: SGD at the learned rates with momentum 0.9 and decay 5e-4; epochs and batch
    are the method's options, a batch of 0 that of an inner step.
    """
    return Recipe(
        rates={side: (float(rate),) for side, rate in learned_rates(state).items()},
        epochs=context.options.student_epochs,
        batch=context.options.student_batch or context.options.minibatch or context.config.pairs,
        momentum=0.9,
        weight_decay=5e-4,
        schedule=schedule,
        temperature=context.bench.encoder_config.temperature,
        loss=loss,
    )


def plain_recipe(context: Context, schedule: str = "cosine") -> Recipe:
    """The student of methods that learn no rates: as configured; epochs and batch are the method's options."""
    config, options = context.config, context.options
    return Recipe(
        rates={"image": (config.student_rate_image,), "text": (config.student_rate_text,)},
        epochs=options.student_epochs,
        batch=options.student_batch,
        schedule=schedule,
        temperature=context.bench.encoder_config.temperature,
    )


def soft_recipe(state: State, context: Context) -> Recipe:
    """The published student of LoRS and its successors (arXiv 2406.03793): soft targets, and rates x 0.1 at half."""
    return published_recipe(state, context, "half", context.options.loss)


def describe_towers(bench: Workbench) -> dict[str, dict[str, Any]]:
    """Towers as a set records them."""
    image, text = bench.image_tower, bench.text_tower
    return {
        "image": {
            "name": image.name,
            "width": image.width,
            "size": image.size,
            "mean": list(image.mean),
            "std": list(image.std),
            "fingerprint": bench.image_fingerprint,
        },
        "text": {"name": text.name, "width": text.width, "fingerprint": bench.text_fingerprint},
    }


def _made_for(bench: Workbench, size: int) -> dict[str, dict[str, Any]]:
    """The towers of a set, with the side of its images where that is not the tower's."""
    towers = describe_towers(bench)
    if size and size != bench.image_tower.size:
        towers["image"]["stored_size"] = size
    return towers


def export_set(state: State, context: Context, recipe: Recipe, similarity: torch.Tensor | None = None) -> DistilledSet:
    """The learned tensors as a distilled set, with the (N, N) similarity they give if one is learned."""
    bench, config = context.bench, context.config
    standardisation: dict[str, torch.Tensor] = {}
    if bench.setting != "both":
        standardisation["text_mean"] = bench.text_standardisation.mean
        standardisation["text_scale"] = bench.text_standardisation.scale
    if bench.setting == "heads":
        standardisation["image_mean"] = bench.image_standardisation.mean
        standardisation["image_scale"] = bench.image_standardisation.scale
    return DistilledSet(
        images=state.variables["images"].detach().cpu().clone(),
        texts=state.variables["texts"].detach().cpu().clone(),
        recipe=recipe,
        towers=_made_for(bench, config.size),
        setting=bench.setting,
        space=config.space,
        similarity=None if similarity is None else similarity.detach().cpu().clone(),
        text_mask=state.carried["text_mask"].cpu().clone() if bench.setting == "both" else None,
        standardisation=standardisation,
        info={
            "name": set_name(config),
            "method": config.method,
            "seed": config.seed,
            "iteration": context.iteration,
            "similarity_floats": sum(v.numel() for n, v in state.variables.items() if n.startswith("similarity")),
            "data": bench.pixels("train").pairs.fingerprint,
            "source": bench.data_config.source,
            "config": {
                "encoder": asdict(bench.encoder_config),
                "distill": asdict(config),
                config.method: asdict(context.options),
            },
            "versions": {
                "vldistill": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        },
    )


def set_name(config: DistillConfig) -> str:
    """The folder name of a set: method, pairs, seed, and the label if there is one."""
    return f"{config.method}-{config.pairs}-s{config.seed}" + (f"-{config.label}" if config.label else "")
