"""MDM: distribution matching in a merged expert's embedding space (arXiv 2605.23482, CVPR 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from vldistill.config import Outer
from vldistill.config.checks import at_least, positive
from vldistill.config.former import later
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import check_batch
from vldistill.distillation.method import Context, Start, State, Update, register
from vldistill.distillation.recipes import plain_recipe
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES, Groups
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory
from vldistill.runtime.devices import moved
from vldistill.training.losses import infonce

EDGE = 1e-6  # cosines stay this far from 1 and -1, where arccos has no slope


@dataclass(frozen=True)
class MdmOptions:
    """Options of merged-expert distribution matching.

    Args:
        merge: a, how far the merged expert goes from the anchor towards the experts' mean.
        matching: weight of each of the two kernel distances.
        sigma: width of the kernel, in radians on the sphere.
        minibatch: distilled pairs per iteration, at most; 0 takes all.
        real_batch: real pairs per iteration.
        diagonal: whether the kernel's means count a row with itself. Published: no; the distance is then clamped at 0.
        replacement: whether the two experts are drawn with replacement, and may be one at two epochs, as published.
        anchor: what the experts are merged with: ``expert``, the start of the first one drawn, or a ``fresh`` student.
            With trained towers both are the pretrained tower; heads have no pretrained weights.
        first_epoch: of the snapshots that are merged.
        last_epoch: of the snapshots that are merged; later ones are not used.
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe.
    """

    merge: float = 0.5
    matching: float = 0.8
    sigma: float = 0.5
    minibatch: int = 64
    real_batch: int = 256
    diagonal: bool = later(False, neutral=True)
    replacement: bool = later(True, neutral=False)
    anchor: Literal["expert", "fresh"] = later("expert", neutral="fresh")
    first_epoch: int = 1
    last_epoch: int = 10
    student_epochs: int = 100
    student_batch: int = 128

    def __post_init__(self) -> None:
        check_batch("mdm.minibatch", self.minibatch)
        at_least(2, self, "mdm", "real_batch", "student_batch")
        at_least(1, self, "mdm", "student_epochs")
        positive(self, "mdm", "sigma")
        at_least(0, self, "mdm", "matching", "merge")
        if not 0 <= self.first_epoch <= self.last_epoch:
            raise ConfigError(
                f"mdm.first_epoch {self.first_epoch} and mdm.last_epoch {self.last_epoch}: expected 0 <= first <= last."
            )


@register(
    "mdm",
    MdmOptions,
    Outer(iterations=700, text_lr=0.1, rate_lr=0.02, decay="cosine"),
    needs_experts=True,
    inner_steps=lambda options: (1, options.minibatch),
)
class MergedDistributionMatching:
    """Match distributions of real and distilled embeddings in two merged experts; nothing is unrolled (MDM).

    Each iteration merges two random experts with a fresh student, and descends the InfoNCE of the distilled pairs
    plus kernel distances between real and distilled sums and differences of both sides' embeddings.
    """

    def check(self, context: Context[MdmOptions]) -> None:
        """Refuse fewer than two experts with a snapshot to merge, and experts without the anchor's."""
        options = context.options
        lacking = [expert.path.name for expert in context.experts if 0 not in expert.epochs]
        if options.anchor == "expert" and lacking:
            raise ConfigError(
                f"mdm.anchor expert merges experts with the start of one, but {lacking[0]} keeps no snapshot of epoch "
                f"0. Record experts that do (experts.snapshots), or use mdm.anchor fresh."
            )
        if len(known := self._snapshots(context)) < 2:
            raise ConfigError(
                f"mdm merges two experts at epochs {options.first_epoch} to {options.last_epoch}, but {len(known)} of "
                f"{len(context.experts)} experts have such a snapshot; they keep epochs "
                f"{sorted({e for expert in context.experts for e in expert.epochs})}. Change mdm.first_epoch or "
                f"mdm.last_epoch, or record more experts."
            )

    def setup(self, start: Start, context: Context[MdmOptions]) -> State:
        """Images and texts of the start; published from ``distill.start kmeans``. No rates are learned."""
        variables = start_variables(start, context)
        return State({name: variables[name] for name in ("images", "texts")})

    def step(self, state: State, context: Context[MdmOptions]) -> Update:
        """Merge two experts, and differentiate the loss of a batch of distilled pairs."""
        options = context.options
        student = context.bench.architecture
        params = self._merged(context)
        pairs = context.config.pairs
        rows = torch.randperm(pairs, generator=context.generator("rows"))[: options.minibatch or pairs]
        encoded = encode_learned(context, state.variables["images"], rows=rows)
        leaves = {
            "images": encoded.inputs.detach().requires_grad_(True),
            "texts": state.variables["texts"].detach().requires_grad_(True),
        }
        with torch.no_grad():
            real = [student.embed(side, inputs, params) for side, inputs in zip(SIDES, self._real_batch(context))]
        with torch.enable_grad():
            here = moved(rows, encoded.inputs.device)
            made = [student.embed("image", leaves["images"][here], params)]
            made.append(student.embed("text", leaves["texts"][here], params))
            contrast = infonce(student.logits(*made), context.equal_learned(rows))
            rows_of = zip(joined(*made), joined(*real))
            gaps = [kernel_distance(a, b, options.sigma, diagonal=options.diagonal) for a, b in rows_of]
            loss = contrast + options.matching * (gaps[0] + gaps[1])
        slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        return Update(
            gradients={"images": encoded.pull(slopes["images"]), "texts": slopes["texts"]},
            value=float(loss.detach()),
            logs={
                "infonce": float(contrast.detach()),
                "gap_sum": float(gaps[0].detach()),
                "gap_difference": float(gaps[1].detach()),
            },
        )

    def _snapshots(self, context: Context[MdmOptions]) -> list[tuple[Trajectory, list[int]]]:
        """The experts that may be merged, each with the epochs that it may be at."""
        options = context.options
        wanted = range(options.first_epoch, options.last_epoch + 1)
        found = [(expert, [epoch for epoch in expert.epochs if epoch in wanted]) for expert in context.experts]
        return [(expert, epochs) for expert, epochs in found if epochs]

    def _merged(self, context: Context[MdmOptions]) -> Groups:
        """Two random experts, each at a random epoch, merged with the anchor."""
        known, draw = self._snapshots(context), context.generator("experts")
        if context.options.replacement:
            numbers = torch.randint(len(known), (2,), generator=draw)
        else:
            numbers = torch.randperm(len(known), generator=draw)[:2]
        chosen = [known[int(number)] for number in numbers]
        ends = [
            context.on_device(expert.snapshot(epochs[int(torch.randint(len(epochs), (), generator=draw))]))
            for expert, epochs in chosen
        ]
        if context.options.anchor == "expert":
            anchor = context.on_device(chosen[0][0].snapshot(0))
        else:
            anchor = context.bench.student(context.seed_of("anchor")).trained()
        return merge(anchor, ends[0], ends[1], context.options.merge)

    def _real_batch(self, context: Context[MdmOptions]) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and text inputs of random real pairs."""
        data = context.bench.split("train").data
        index = torch.randperm(len(data), generator=context.generator("real"))[: context.options.real_batch]
        return data.images.rows(data.caption_image[index]), data.texts.rows(index)

    def export(self, state: State, context: Context[MdmOptions]) -> DistilledSet:
        """The set with the published student: InfoNCE, rates as the configuration gives them, x 0.1 at half."""
        return export_set(state, context, plain_recipe(context, "half"))


def merge(anchor: Groups, one: Groups, two: Groups, share: float) -> Groups:
    """theta0 + a t (D1 + D2) / 2 per tensor, with t = 2 cos / (1 + cos), cos the cosine of D1 = one - theta0 and D2.

    A cosine below 0 counts as 0: the two experts then agree on nothing, and the anchor stays.
    """
    merged: Groups = {side: {} for side in SIDES}
    for side in SIDES:
        for name, start in anchor[side].items():
            start = start.detach()
            first, second = one[side][name].to(start) - start, two[side][name].to(start) - start
            cosine = F.cosine_similarity(first.flatten(), second.flatten(), dim=0).clamp(0, 1)
            t = 2 * cosine / (1 + cosine)
            merged[side][name] = start + share * t * (first + second) / 2
    return merged


def joined(images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised sums and differences of embeddings, (B, D) each: u and g of the paper."""
    return F.normalize(images + texts, dim=1), F.normalize(images - texts, dim=1)


def kernel_distance(left: torch.Tensor, right: torch.Tensor, sigma: float, *, diagonal: bool = True) -> torch.Tensor:
    """sqrt(mean k(A, A) + mean k(B, B) - 2 mean k(A, B)) with k = exp(-arccos(a . b)^2 / (2 sigma^2)).

    Args:
        left: (A, D) unit rows.
        right: (B, D) unit rows.
        diagonal: whether the first two means count a row with itself; without, the square may be below 0 and counts
            as 0.
    """

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        angle = torch.arccos((a @ b.T).clamp(-1 + EDGE, 1 - EDGE))
        return torch.exp(-angle.square() / (2 * sigma**2))

    def within(rows: torch.Tensor) -> torch.Tensor:
        found = kernel(rows, rows)
        if diagonal:
            return found.mean()
        return (found.sum() - found.diagonal().sum()) / max(1, len(rows) * (len(rows) - 1))

    square = within(left) + within(right) - 2 * kernel(left, right).mean()
    return square.clamp(min=1e-12).sqrt()
