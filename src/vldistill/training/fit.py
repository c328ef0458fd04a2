"""First-order training of a dual encoder, for experts and students alike.

Shapes: M captions (one epoch passes all of them, each with its image), N images, B batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch

from vldistill.encoders.dual import SIDES, DualEncoder, Head
from vldistill.errors import ConfigError, DivergedError
from vldistill.runtime.devices import moved
from vldistill.runtime.micro_batches import FLOAT32, ComputeOptions
from vldistill.runtime.processes import ALONE, Processes
from vldistill.runtime.randomness import generator, seed_of, seeded
from vldistill.training.data import TrainingData
from vldistill.training.head_steps import head_step, two_heads
from vldistill.training.losses import SOFT_LOSSES, infonce, siglip
from vldistill.training.recipe import Recipe
from vldistill.training.state import Keeper, restore_training, training_state
from vldistill.training.stepper import Stepper
from vldistill.training.steps import PlannedStep, StepPlan

CHECK_STEPS = 20  # steps between two checks of the loss: each check waits for the device


def _check_fits(data: TrainingData, recipe: Recipe) -> None:
    if len(data) < 2:
        raise ConfigError(f"training needs at least 2 pairs (one alone has no contrast); the data has {len(data)}.")
    if recipe.loss in SOFT_LOSSES and data.similarity is None:
        raise ConfigError(f"the recipe's loss is {recipe.loss}, but the set has no similarity matrix.")
    if recipe.phases and sum(recipe.phases) != len(data):
        raise ConfigError(f"the recipe's phases {recipe.phases} do not add up to the {len(data)} pairs of the data.")


def fit(
    encoder: DualEncoder,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    augment: bool = False,
    noise: float = 0.0,
    steps_per_epoch: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
    on_step: Callable[[float], None] | None = None,
    keeper: Keeper | None = None,
    compute: ComputeOptions = FLOAT32,
    processes: Processes = ALONE,
) -> None:
    """Train ``encoder`` in place by SGD.

    Args:
        seed: of the order, dropout, augmentation and noise.
        noise: standard deviation of normal noise added to the inputs of both sides, redrawn in every step.
        steps_per_epoch: cut every epoch to this many steps; 0 means all.
        on_epoch: called with (epochs done, mean loss) after each epoch.
        on_step: called with the loss after each step, for a progress bar (costs a device sync).
        keeper: saves checkpoints and resumes from them; a resumed training gives the same bits.
        compute: precision, compilation and micro-batches; they change the result by rounding only.
        processes: all call this with the same arguments and share every batch; there is no dropout.

    Raises:
        ConfigError: when the data cannot be trained on by this recipe.
        DivergedError: when a loss is not finite.
        Stopped: by the keeper, when the user asked to stop.
    """
    _check_fits(data, recipe)
    plan = StepPlan.of(len(data), recipe, steps_per_epoch, data.blocks, data.caption_image)
    optimiser = _optimiser(encoder, recipe)
    stepper = Stepper(encoder, compute, device, processes)
    noises = {side: noise or _noise_of(encoder, side, recipe) for side in SIDES}
    descend = _descent(encoder, data, recipe, stepper, optimiser)
    loss, total = (torch.zeros((), device=device) for _ in range(2))  # of the last step, and of the epoch's together
    encoder.train()
    with seeded(device, seed, "dropout"):
        done = 0
        if keeper and (found := keeper.found()):
            state, done = found
            restore_training(state, encoder, optimiser, total, device)
        for step in plan.steps(seed, done):
            if step.number == 0:
                total.zero_()
            for group in optimiser.param_groups:
                group["lr"] = plan.rate(group["side"], step.at) * (recipe.head_factor if group["head"] else 1.0)
            place = (step.at, *([processes.rank] if processes.rank else []))
            images, texts = _inputs(data, stepper.rows(step.index), seed, place, augment or recipe.views, noises)
            before, loss = loss, descend(images, texts, step.index)
            total += loss
            if on_step:  # on a device the loss of the step before: reading it does not wait for the current step
                on_step(float(before if device.type != "cpu" and step.number else loss))
            ends = step.last and (device.type == "cpu" or on_epoch or step.at == plan.length - 1)
            if ends or step.at % CHECK_STEPS == 0:  # each epoch where that costs nothing: one may be a single step
                _require_finite(encoder, total, recipe, step)
            if step.last and on_epoch:
                encoder.eval()
                on_epoch(step.epoch + 1, float(total) / (step.number + 1))
                encoder.train()
            if keeper and keeper.due():
                keeper.keep(training_state(encoder, optimiser, total, device), step.at + 1)
    encoder.eval()


def _noise_of(encoder: DualEncoder, side: str, recipe: Recipe) -> float:
    """The recipe's noise for a side that reads features of a frozen tower; none for pixels and tokens."""
    return recipe.noise if isinstance(encoder.side(side), Head) else 0.0


def _inputs(
    data: TrainingData,
    rows: torch.Tensor,
    seed: int,
    place: tuple[int, ...],
    augment: bool,
    noises: Mapping[str, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and text inputs of pairs ``rows``, augmented and with noise by draws of the ``place`` of a step."""
    images = data.images.rows(data.caption_image[rows], seed_of(seed, "augment", *place) if augment else None)
    texts = data.texts.rows(rows)
    if any(noises.values()):
        draw = generator(seed, "noise", *place)
        images, texts = (_noisy(part, noises[side], draw) for side, part in zip(SIDES, (images, texts)))
    return images, texts


def _noisy(inputs: torch.Tensor, noise: float, draw: torch.Generator) -> torch.Tensor:
    """Inputs with normal noise of standard deviation ``noise``, the same on every device."""
    if not noise:
        return inputs
    drawn = torch.randn(inputs.shape, generator=draw).to(inputs.dtype)
    return inputs.add(moved(drawn, inputs.device), alpha=noise)


def _descent(
    encoder: DualEncoder, data: TrainingData, recipe: Recipe, stepper: Stepper, optimiser: torch.optim.SGD
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function that takes one step, given the inputs of this process's rows and all rows (B,) of the batch.

    It uses the optimiser's rates and returns the loss before the step. Plain SGD on two heads has closed-form steps.
    """
    whole = stepper.processes.size == 1 and stepper.sides.compute.precision == "float32"
    heads = two_heads(encoder) if whole and recipe.is_plain else None
    scale = 1 / recipe.temperature if recipe.temperature else encoder.logit_scale

    def closed_form(images: torch.Tensor, texts: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        assert heads is not None
        rates = {group["side"]: group["lr"] for group in optimiser.param_groups}
        equal = data.equal(index) if recipe.negatives == "distinct" else None
        return head_step(heads, images, texts, scale, rates, None if equal is None else moved(equal, images.device))

    def by_autograd(images: torch.Tensor, texts: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        loss_of = functools.partial(_loss, encoder=encoder, data=data, recipe=recipe, index=index)
        loss = stepper.backward(images, texts, len(index), loss_of)
        optimiser.step()
        return loss

    return closed_form if heads else by_autograd


def _optimiser(encoder: DualEncoder, recipe: Recipe) -> torch.optim.SGD:
    """SGD with a parameter group per tower and head; each group has its ``side`` and whether it is a ``head``."""
    groups = [
        {"params": part, "side": side, "head": head}
        for side in SIDES
        for head, part in encoder.tower_and_head(side).items()
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def _require_finite(encoder: DualEncoder, total: torch.Tensor, recipe: Recipe, step: PlannedStep) -> None:
    """Stop the training when a loss of this epoch was not finite. Raises DivergedError."""
    mean = float(total) / (step.number + 1)
    if not math.isfinite(mean):
        encoder.eval()
        raise DivergedError(
            f"training diverged in epoch {step.epoch + 1} of {recipe.all_epochs} (loss {mean}) at rates "
            f"{ {side: rate[0] for side, rate in recipe.rates.items()} }; try smaller rates."
        )


def _loss(
    logits: torch.Tensor, encoder: DualEncoder, data: TrainingData, recipe: Recipe, index: torch.Tensor
) -> torch.Tensor:
    if recipe.temperature:
        logits = logits / (encoder.logit_scale * recipe.temperature)
    if recipe.loss in SOFT_LOSSES and data.similarity is not None:
        rows = moved(index, data.similarity.device)
        return SOFT_LOSSES[recipe.loss](logits, data.similarity[rows][:, rows])
    equal = data.equal(index) if recipe.negatives == "distinct" else None
    equal = None if equal is None else moved(equal, logits.device)
    return siglip(logits, equal, recipe.bias) if recipe.loss == "siglip" else infonce(logits, equal)
