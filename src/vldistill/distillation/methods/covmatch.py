"""CovMatch: cross-covariance matching with both towers trained (arXiv 2510.18583, NeurIPS 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.func import functional_call

from vldistill.config import Outer
from vldistill.config.checks import at_least, positive
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import check_batch
from vldistill.distillation.method import BestKnown, Context, Start, State, Update, register
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES, DualEncoder, Groups, packed, unpacked
from vldistill.runtime import devices
from vldistill.training.losses import infonce
from vldistill.training.recipe import Recipe


@dataclass(frozen=True)
class CovmatchOptions:
    """Options of cross-covariance matching.

    Args:
        rho: factor of the real cross-covariance.
        matching: weight lambda of the distances between mean head outputs.
        reset: iterations after which the online towers are reset.
        minibatch: distilled pairs per iteration, at most; 0 takes all.
        real_batch: real pairs per iteration.
        tower_rate: SGD rate of the towers, online and in the set's own recipe (published: 0.01, where small towers
            collapse).
        head_rate: SGD rate of the heads, online and in the set's own recipe.
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe.
    """

    rho: float = 2.0
    matching: float = 0.1
    reset: int = 50
    minibatch: int = 128
    real_batch: int = 128
    tower_rate: float = 0.003
    head_rate: float = 0.1
    student_epochs: int = 100
    student_batch: int = 128

    def __post_init__(self) -> None:
        check_batch("covmatch.minibatch", self.minibatch)
        at_least(1, self, "covmatch", "reset", "student_epochs")
        at_least(2, self, "covmatch", "real_batch", "student_batch")
        positive(self, "covmatch", "rho", "tower_rate", "head_rate")
        at_least(0, self, "covmatch", "matching")


# Input embeddings are small numbers: their standard deviation is 0.06 in MiniLM, that of sentence vectors is 1.
@register(
    "covmatch",
    CovmatchOptions,
    Outer(text_lr=0.002),
    settings=frozenset({"both"}),
    inner_steps=lambda options: (1, options.minibatch),
    best_known=(BestKnown("both", "no other method learns for a trained text tower"),),
)
class CrossCovarianceMatching:
    """Match the cross-covariance of real and distilled features in towers that are trained on the way (CovMatch).

    Works in setting ``both``, without experts: after each step of the set the online towers and heads take one
    contrastive step on the real batch; they are reset now and then.
    """

    def check(self, context: Context[CovmatchOptions]) -> None:
        """Nothing but the setting can be wrong."""

    def setup(self, start: Start, context: Context[CovmatchOptions]) -> State:
        """Images and token embeddings of the start; the mask and the online towers are carried on, no rates."""
        variables = start_variables(start, context)
        assert start.text_mask is not None  # setting both
        online = packed(fresh(context.at(0)))
        learned = {name: variables[name] for name in ("images", "texts")}
        return State(learned, {"text_mask": start.text_mask.clone(), **online})

    def step(self, state: State, context: Context[CovmatchOptions]) -> Update:
        """The gradient of the matching loss, and the online towers after their step."""
        options = context.options
        student = context.bench.architecture
        renew = context.iteration % options.reset == 0
        params = fresh(context) if renew else unpacked(state.carried)
        with torch.enable_grad():
            params = {s: {n: p.detach().requires_grad_(True) for n, p in named.items()} for s, named in params.items()}
            index, batch = self._real_batch(context)
            real = {side: forward(student, side, params, x) for side, x in batch.items()}
        encoded = encode_learned(context, state.variables["images"])
        rows = devices.moved(self._rows(context), encoded.inputs.device)
        images = encoded.inputs.detach().requires_grad_(True)
        texts = state.variables["texts"].detach().requires_grad_(True)
        fixed = {side: {n: p.detach() for n, p in named.items()} for side, named in params.items()}
        with torch.enable_grad():
            mask = state.carried["text_mask"].unsqueeze(-1)
            inputs = {"image": images[rows], "text": torch.cat([texts, mask.to(texts)], dim=-1)[rows]}
            made = {side: forward(student, side, fixed, x) for side, x in inputs.items()}
            loss, logs = matching(real, made, options.rho, options.matching)
            slopes = torch.autograd.grad(loss, [images, texts])
            embedded = (F.normalize(real[side][1], dim=-1) for side in SIDES)
            contrast = infonce(student.logits(*embedded), context.equal_real(index))
        return Update(
            gradients={"images": encoded.pull(slopes[0]), "texts": slopes[1]},
            value=float(loss.detach()),
            logs={**logs, "online_infonce": float(contrast.detach())},
            carried=moved(params, contrast, options),
        )

    def _rows(self, context: Context[CovmatchOptions]) -> torch.Tensor:
        """Distilled rows of this iteration."""
        pairs, size = context.config.pairs, context.options.minibatch
        order = torch.randperm(pairs, generator=context.generator("rows"))
        return order[:size] if size else order

    def _real_batch(self, context: Context[CovmatchOptions]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Random real pairs (B,), and their inputs by side."""
        data = context.bench.split("train").data
        index = torch.randperm(len(data), generator=context.generator("real"))[: context.options.real_batch]
        return index, {"image": data.images.rows(data.caption_image[index]), "text": data.texts.rows(index)}

    def export(self, state: State, context: Context[CovmatchOptions]) -> DistilledSet:
        """The set with the published student: heads faster than towers, a tenth of the rates after half."""
        options = context.options
        recipe = Recipe(
            rates=dict.fromkeys(SIDES, (options.tower_rate,)),
            head_factor=options.head_rate / options.tower_rate,
            epochs=options.student_epochs,
            batch=options.student_batch,
            schedule="half",
            temperature=context.bench.encoder_config.temperature,
        )
        return export_set(state, context, recipe)


Outputs = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""By side the tower's features (B, D) and the head's outputs (B, dim)."""


def cross_covariance(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """(1 / B) sum_i (x_i - mean x) (y_i - mean y)^T of features (B, D) and (B, d): (D, d)."""
    return (images - images.mean(0)).T @ (texts - texts.mean(0)) / len(images)


def matching(real: Outputs, made: Outputs, rho: float, weight: float) -> tuple[torch.Tensor, dict[str, float]]:
    """||rho C_real - C_made||_F^2 + weight sum over sides ||mean real head output - mean made head output||^2.

    The real side is constant.
    """
    of_real = cross_covariance(real["image"][0].detach(), real["text"][0].detach())
    covariance = (rho * of_real - cross_covariance(made["image"][0], made["text"][0])).square().sum()
    gaps = [(real[side][1].detach().mean(0) - made[side][1].mean(0)).square().sum() for side in SIDES]
    means = gaps[0] + gaps[1]
    both = devices.fetched([covariance.detach(), means.detach()])
    return covariance + weight * means, {"covariance": float(both[0]), "means": float(both[1])}


def forward(student: DualEncoder, side: str, params: Groups, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of a side's tower, and outputs of its head, with ``params``."""
    module = student.side(side)
    out: list[torch.Tensor] = []
    for part in ("tower", "head"):
        own = {name.removeprefix(f"{part}."): p for name, p in params[side].items() if name.startswith(f"{part}.")}
        inputs = functional_call(module.get_submodule(part), own, (inputs,))
        out.append(inputs)
    return out[0], out[1]


def fresh(context: Context[CovmatchOptions]) -> Groups:
    """Pretrained towers with new random heads, as copies."""
    every_draw = context.at(context.iteration)  # all draws of an iteration move the same towers
    trained = context.bench.student(every_draw.seed_of("online")).trained()
    return {side: {name: p.detach().clone() for name, p in named.items()} for side, named in trained.items()}


def moved(params: Groups, loss: torch.Tensor, options: CovmatchOptions) -> dict[str, torch.Tensor]:
    """The online parameters after one SGD step on ``loss``, by ``side/name``."""
    flat = packed(params)
    slopes = torch.autograd.grad(loss, list(flat.values()), allow_unused=True)
    return {
        name: p.detach()
        if slope is None
        else p.detach() - (options.head_rate if "/head." in name else options.tower_rate) * slope
        for (name, p), slope in zip(flat.items(), slopes)
    }
