"""How experts are trained, and what is kept of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vldistill.config.checks import at_least, check_fields, positive, require
from vldistill.config.former import later


@dataclass(frozen=True)
class ExpertsConfig:
    """How experts are trained on the real data, and what is kept of them.

    Args:
        count: number of experts; a run can be extended by asking for more.
        epochs: passes over all captions per expert.
        batch: pairs per step.
        image_rate: SGD rate of the image side.
        text_rate: SGD rate of the text side; 0 leaves it at its start, for ``bitraj.sides image``.
        momentum: of SGD.
        weight_decay: of SGD.
        augment: random resized crop, flip and RandAugment on the images; with frozen towers (setting ``heads``) only
            where ``data.views`` has encoded augmented views.
        noise: standard deviation of the normal noise that is added to the features of both sides in every step, in
            those of the features; in setting ``heads``, to reduce overfitting.
        negatives: ``all`` other pairs of a batch, or the ``distinct`` ones: of another image and another caption.
        snapshots: epochs to keep, 0 being the start; empty keeps all.
        steps_per_epoch: cut every epoch to this many steps; 0 means the whole epoch.
        dtype: how snapshots are stored.
        seed: seed of the first expert; expert i uses its own stream.
    """

    count: int = 20
    epochs: int = 10
    batch: int = 128
    image_rate: float = 0.1
    text_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: bool = True
    noise: float = later(0.0, neutral=0.0)
    negatives: Literal["all", "distinct"] = later("all", neutral="all")
    snapshots: tuple[int, ...] = ()
    steps_per_epoch: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "experts")
        positive(self, "experts", "count", "epochs", "image_rate")
        at_least(0, self, "experts", "text_rate")
        require(self.batch >= 2, "experts.batch", self.batch, "at least 2 pairs (one alone has no contrast)")
        require(0 <= self.momentum < 1, "experts.momentum", self.momentum, "a number in [0, 1)")
        require(0 <= self.noise < math.inf, "experts.noise", self.noise, "0 or more")
        require(self.weight_decay >= 0, "experts.weight_decay", self.weight_decay, "0 or more")
        require(self.steps_per_epoch >= 0, "experts.steps_per_epoch", self.steps_per_epoch, "0 or more")
        wrong = [epoch for epoch in self.snapshots if not 0 <= epoch <= self.epochs]
        require(not wrong, "experts.snapshots", wrong, f"epochs from 0 to {self.epochs}")
