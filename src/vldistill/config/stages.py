"""The stages: experts, distill, evaluate and select."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from vldistill.config.checks import check_fields, check_label, positive, require
from vldistill.errors import ConfigError, unknown

SMALLEST_SIDE = 4  # pixels of a learned image

PROTOCOLS = {
    "last": "test the student after its last epoch (the default)",
    "val-best": "test the epoch that did best on val",
    "test-best-legacy": "report the best epoch on test: biased, only to compare with published rows",
}


@dataclass(frozen=True)
class ExpertsConfig:
    """How experts are trained on the real data, and what is kept of them.

    Args:
        count: number of experts; a run can be extended by asking for more.
        epochs: passes over all captions per expert.
        batch: pairs per step.
        image_rate: SGD rate of the image side.
        text_rate: SGD rate of the text side.
        momentum: of SGD.
        weight_decay: of SGD.
        augment: random resized crop, flip and RandAugment on the images; with frozen towers (setting ``heads``) only
            where ``data.views`` has encoded augmented views.
        noise: standard deviation of the normal noise that is added to the features of both sides in every step, in
            those of the features; in setting ``heads``, against learning the training pairs by heart.
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
    noise: float = 0.0
    snapshots: tuple[int, ...] = ()
    steps_per_epoch: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "experts")
        positive(self, "experts", "count", "epochs", "image_rate", "text_rate")
        require(self.batch >= 2, "experts.batch", self.batch, "at least 2 pairs (one alone has no contrast)")
        require(0 <= self.momentum < 1, "experts.momentum", self.momentum, "a number in [0, 1)")
        require(0 <= self.noise < math.inf, "experts.noise", self.noise, "0 or more")
        require(self.weight_decay >= 0, "experts.weight_decay", self.weight_decay, "0 or more")
        require(self.steps_per_epoch >= 0, "experts.steps_per_epoch", self.steps_per_epoch, "0 or more")
        wrong = [epoch for epoch in self.snapshots if not 0 <= epoch <= self.epochs]
        require(not wrong, "experts.snapshots", wrong, f"epochs from 0 to {self.epochs}")


@dataclass(frozen=True)
class Outer:
    """What of the outer loop differs by method: each has its own, and every one can be set in section ``distill``.

    Args:
        iterations: outer iterations.
        optimiser: ``adam``, or ``sgd`` as published.
        image_lr: outer rate of the images (in units of the normalised input).
        text_lr: outer rate of the texts.
        rate_lr: outer rate of the learned student rates.
        similarity_lr: outer rate of a learned similarity.
        decay: outer rates over the iterations: ``none``, ``cosine``, or ``linear`` (both to 0).
        ema: weight of the past in the averaged set that is saved; 0 saves the set itself.
    """

    iterations: int = 2000
    optimiser: str = "adam"
    image_lr: float = 0.03
    text_lr: float = 0.03
    rate_lr: float = 0.01
    similarity_lr: float = 0.01
    decay: str = "none"
    ema: float = 0.0


@dataclass(frozen=True)
class DistillConfig:
    """The outer loop. What is ``null`` is the method's own (``vldistill ls methods`` shows it).

    Args:
        method: see ``vldistill ls methods``; empty is the best one known for the setting, which is said and why.
        pairs: number of distilled pairs.
        seed: seed of the start and of every draw.
        iterations: outer iterations.
        draws: segments, students or real batches that are drawn in each iteration, their gradients averaged. Under
            ``torchrun`` the processes share them; the set is the same with any number of processes.
        minutes: end after so many minutes of distilling, if the iterations are not done by then; rates decay, and
            phases and curricula pass, over whichever is nearer its end. Looks at val count. 0 is no limit. Such a
            set depends on the machine's speed.
        captions: text vectors learned for each image; inner steps take them in turn. All count as stored floats.
        label: added to the set's name, to keep variants side by side in one run.
        learn: what is learned beside the student rates: ``both`` sides, or the ``image`` or the ``text`` side alone
            while the other stays as it started.
        start: ``real`` pairs with distinct images, the real pairs that a selector chooses (``kmeans``, ``herding``,
            ...; see ``vldistill ls selectors``), ``noise``, the folder of a set of as many pairs, or ``canonical``: a
            set of that method, which is made first (setting ``heads``).
        start_image: start of the images; empty is ``start``. Where both sides are real, they stay pairs: ``real`` then
            means a photo of the chosen caption, or a caption drawn for the chosen photo.
        start_text: start of the texts likewise.
        experts: number of recorded experts to draw from, the first ones; 0 is all.
        space: what is learned on the image side: ``pixels``, or ``features`` of the frozen image tower (setting
            ``heads`` only; such a set fits that tower alone).
        size: side of the learned images in pixels; 0 is what the tower takes. Smaller ones are enlarged (bicubic)
            wherever a tower takes them, also by the students that are judged: half the side is a quarter of the
            stored floats.
        augment: differentiable augmentation of the learned images, drawn anew in every iteration: any of
            ``flip``, ``shift``, ``colour``.
        optimiser: ``adam``, or ``sgd`` as published.
        image_lr: outer rate of the images (in units of the normalised input).
        text_lr: outer rate of the texts.
        rate_lr: outer rate of the learned student rates.
        similarity_lr: outer rate of a learned similarity.
        student_rate_image: where the learned rate of the image side starts.
        student_rate_text: where the learned rate of the text side starts.
        momentum: of ``sgd``.
        clip: largest L2 norm of a variable's gradient; 0 is no limit.
        decay: outer rates over the iterations: ``none``, ``cosine``, or ``linear`` (both to 0).
        ema: weight of the past in the averaged set that is saved; 0 saves the set itself.
        validate_every: iterations between looks at val; 0 never looks and keeps the last set.
        checkpoint_every: iterations between checkpoints.
        keep: iterations whose set is kept beside the final one, e.g. ``[0, 2000, 7000]``.
    """

    method: str = ""
    pairs: int = 100
    seed: int = 0
    iterations: int | None = None
    draws: int = 1
    minutes: float = 0.0
    captions: int = 1
    label: str = ""
    learn: Literal["both", "image", "text"] = "both"
    start: str = "real"
    start_image: str = ""
    start_text: str = ""
    experts: int = 0
    space: Literal["pixels", "features"] = "pixels"
    size: int = 0
    augment: tuple[str, ...] = ()
    optimiser: Literal["adam", "sgd"] | None = None
    image_lr: float | None = None
    text_lr: float | None = None
    rate_lr: float | None = None
    similarity_lr: float | None = None
    student_rate_image: float = 0.1
    student_rate_text: float = 0.1
    momentum: float = 0.5
    clip: float = 0.0
    decay: Literal["none", "cosine", "linear"] | None = None
    ema: float | None = None
    validate_every: int = 100
    checkpoint_every: int = 50
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "distill")
        require(self.pairs >= 2, "distill.pairs", self.pairs, "at least 2 pairs (one alone has no contrast)")
        require(self.captions >= 1, "distill.captions", self.captions, "1 or more")
        require(self.draws >= 1, "distill.draws", self.draws, "1 or more")
        require(self.ema is None or 0 <= self.ema < 1, "distill.ema", self.ema, "a number in [0, 1)")
        require(0 <= self.momentum < 1, "distill.momentum", self.momentum, "a number in [0, 1)")
        positive(self, "distill", "student_rate_image", "student_rate_text", "checkpoint_every")
        rates = ("image_lr", "text_lr", "rate_lr", "similarity_lr")
        for name in (*rates, "iterations", "clip", "validate_every", "minutes"):
            require((getattr(self, name) or 0) >= 0, f"distill.{name}", getattr(self, name), "0 or more")
        fine = self.size == 0 or self.size >= SMALLEST_SIDE
        require(fine, "distill.size", self.size, f"0 (what the tower takes) or at least {SMALLEST_SIDE} pixels")
        require(not self.size or self.space == "pixels", "distill.size", self.size, "0 where features are learned")
        require(self.experts >= 0, "distill.experts", self.experts, "0 (all) or more")
        check_label("distill.label", self.label)
        image, text = self.starts
        if image != text and not {"real", "noise"} & {image, text}:
            raise ConfigError(
                f"distill starts images from {image} and texts from {text}, which choose different pairs: an image and "
                f"a text that do not belong together are no pair. Use one of them, or real or noise on one side."
            )
        last = math.inf if self.iterations is None else self.iterations
        wrong = [iteration for iteration in self.keep if not 0 <= iteration <= last]
        require(not wrong, "distill.keep", wrong, f"iterations from 0 to {last}")

    @property
    def outer(self) -> Outer:
        """What differs by method, of a settled configuration. Raises ConfigError where something is left open."""
        values = {option.name: getattr(self, option.name) for option in fields(Outer)}
        left = [f"distill.{name}" for name, value in values.items() if value is None]
        if left or not self.method:
            raise ConfigError(
                f"{', '.join(left) or 'distill.method'} is left to the method; pass the configuration through "
                f"vldistill.distill.methods.settled first."
            )
        return Outer(**values)

    def with_own(self, own: Outer) -> DistillConfig:
        """This configuration with the method's ``own`` values where it leaves them open."""
        return replace(self, **{n: v for n, v in asdict(own).items() if getattr(self, n) is None})

    @property
    def starts(self) -> tuple[str, str]:
        """Where images and texts start."""
        return self.start_image or self.start, self.start_text or self.start


@dataclass(frozen=True)
class EvaluateConfig:
    """How a set is judged: fresh students, trained on it and tested on real pairs.

    Args:
        protocol: when a student is tested: ``last`` (after its last epoch), ``val-best`` (at the epoch that did best on
            val), or ``test-best-legacy`` (at the best on test: biased, only to compare with published rows).
        seeds: number of students.
        recipes: ``own`` (the set's recipe), ``generic`` (one for every row), or both.
        generic_epochs: epochs of the generic recipe on a distilled set.
        subset_epochs: epochs to choose from, on val, for random real pairs.
        full_epochs: epochs to choose from, on val, for the full data.
        head_rates: rates to choose from, on val, for heads.
        tower_rates: rates to choose from, on val, for trained towers.
        looks: checks of ``val-best`` and ``test-best-legacy`` in one training.
        text_map: for a set made with another text tower: ``none`` refuses it, ``ridge`` maps its sentence vectors by a
            ridge regression fitted on training captions, and the result says so.
    """

    protocol: str = "last"
    seeds: int = 5
    recipes: tuple[str, ...] = ("own", "generic")
    generic_epochs: int = 100
    subset_epochs: tuple[int, ...] = (50, 100, 200)
    full_epochs: tuple[int, ...] = (3, 5, 10)
    head_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    tower_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    looks: int = 10
    text_map: Literal["none", "ridge"] = "none"

    def __post_init__(self) -> None:
        check_fields(self, "evaluate")
        if self.protocol not in PROTOCOLS:
            raise ConfigError(unknown("protocol", self.protocol, PROTOCOLS))
        wrong = [name for name in self.recipes if name not in ("own", "generic")]
        require(bool(self.recipes) and not wrong, "evaluate.recipes", self.recipes, "own, generic, or both")
        positive(self, "evaluate", "seeds", "generic_epochs", "looks")
        for name in ("subset_epochs", "full_epochs", "head_rates", "tower_rates"):
            values: Sequence[float] = getattr(self, name)
            require(bool(values) and min(values) > 0, f"evaluate.{name}", values, "one or more numbers above 0")


@dataclass(frozen=True)
class SelectConfig:
    """How selectors choose real pairs: for ``select``, ``evaluate --set SELECTOR:N`` and ``distill.start SELECTOR``.

    Args:
        method: the selector of ``vldistill select``; see ``vldistill ls selectors``.
        pairs: number of pairs it chooses, all of distinct images.
        seed: of the selectors that draw; the others choose the same pairs with any seed.
        warmup_epochs: passes over all captions of the student whose space, or whose forgetting, is used.
        warmup_batch: pairs per step of the warm-up.
        warmup_image_rate: SGD rate of its image side (constant, without momentum, decay and augmentation).
        warmup_text_rate: SGD rate of its text side likewise.
        warmup_seed: of its weights, order and galleries; one warm-up serves all seeds and selectors.
        gallery: pairs among which a pair has to be found to count as learned (``forgetting``).
        ground_set: pairs of distinct images that ``facility`` draws, to cover them and to choose among them.
        cluster_sample: most pairs that the centres of ``kmeans`` are fitted to.
    """

    method: str = "herding"
    pairs: int = 100
    seed: int = 0
    warmup_epochs: int = 5
    warmup_batch: int = 128
    warmup_image_rate: float = 0.1
    warmup_text_rate: float = 0.1
    warmup_seed: int = 0
    gallery: int = 128
    ground_set: int = 20_000
    cluster_sample: int = 50_000

    def __post_init__(self) -> None:
        check_fields(self, "select")
        names = ("warmup_epochs", "warmup_image_rate", "warmup_text_rate", "ground_set", "cluster_sample")
        positive(self, "select", *names)
        for name in ("pairs", "warmup_batch", "gallery"):
            require(getattr(self, name) >= 2, f"select.{name}", getattr(self, name), "at least 2 pairs")
