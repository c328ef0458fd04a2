"""The outer loop of distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vldistill.config.checks import check_fields, check_label, positive, require
from vldistill.config.former import later
from vldistill.errors import ConfigError

SMALLEST_SIDE = 4  # pixels of a learned image


@dataclass(frozen=True)
class Outer:
    """What of the outer loop differs by method: each has its own, and every one can be set in section ``distill``.

    Args:
        iterations: outer iterations; left out, the method's own number, or with ``minutes`` as many as they have.
        optimiser: ``adam``, or ``sgd`` as published.
        image_lr: outer rate of the images (in units of the normalised input).
        text_lr: outer rate of the texts.
        rate_lr: outer rate of the learned student rates.
        similarity_lr: outer rate of a learned similarity.
        decay: outer rates over the iterations: ``none``, ``cosine``, or ``linear`` (both to 0).
        ema: weight of the past in the averaged set that is saved; 0 saves the set itself.
    """

    iterations: int = 2000
    optimiser: Literal["adam", "sgd"] = "adam"
    image_lr: float = 0.03
    text_lr: float = 0.03
    rate_lr: float = 0.01
    similarity_lr: float = 0.01
    decay: Literal["none", "cosine", "linear"] = "none"
    ema: float = 0.0


@dataclass(frozen=True)
class DistillConfig:
    """The outer loop. What is ``null`` is the method's own (``vldistill ls methods NAME`` shows it).

    Args:
        method: see ``vldistill ls methods``; empty is the best one known for the setting; it is printed with
            the reason.
        pairs: number of distilled pairs.
        seed: seed of the start and of every draw.
        iterations: outer iterations.
        draws: segments, students or real batches that are drawn in each iteration, their gradients averaged. Under
            ``torchrun`` the processes share them; the set is the same with any number of processes.
        minutes: minutes of distilling after which to end, if the iterations are not done by then; rates decay, and
            phases and curricula pass, over whichever is nearer its end. Validation counts, experts do not. 0 is no
            limit. Such a set depends on the machine's speed.
        clock: what ``minutes`` are of: ``wall``, or ``cpu``, the CPU time of the process over its number of threads,
            which other jobs on the machine do not shorten.
        captions: text vectors learned for each image; inner steps take them in turn. All count as stored floats.
        label: added to the set's name, to keep variants side by side in one run.
        learn: what is learned beside the student rates: ``both`` sides, or the ``image`` or the ``text`` side alone
            while the other stays as it started.
        start: ``real`` pairs with distinct images, the real pairs that a selector chooses (``kmeans``, ``herding``,
            ...; see ``vldistill ls selectors``), ``noise``, the folder of a set of as many pairs, or ``canonical``: a
            set of that method, which is made first (setting ``heads``).
        start_image: start of the images; empty is ``start``. Where both sides are real, they stay pairs: ``real`` then
            means a photo of the chosen caption, or a caption drawn for the chosen photo.
        start_text: start of the texts; empty is ``start``.
        experts: number of recorded experts to draw from, the first ones; 0 is all.
        space: what is learned on the image side: ``pixels``, or ``features`` of the frozen image tower (setting
            ``heads`` only; such a set fits that tower alone).
        size: side of the learned images in pixels; 0 is what the tower takes. Smaller ones are enlarged (bicubic)
            wherever a tower takes them, also by the students of an evaluation: half the side is a quarter of the
            stored floats.
        pixels: how learned images are written while they are learned: ``plain``, as a ``pyramid`` of sides that
            grows, or by their ``fourier`` spectra; both in decorrelated colours. The set holds images in any case.
        bases: K shared images, of which every learned one is a mixture: the set holds these and (N, K) addresses, which
            ``stored_floats`` counts. 0 is none. Features are mixed so too.
        base_scale: side of an image over that of a base.
        base_texts: texts are mixtures by the same addresses.
        negatives: in inner steps, in the set's own recipe, and in real batches of contrastive losses: ``all`` other
            pairs, or the ``distinct`` ones: of another image and another caption.
        augment: differentiable augmentation of the learned images, a fresh draw in every iteration: any of
            ``flip``, ``shift``, ``colour``.
        optimiser: ``adam``, or ``sgd`` as published.
        image_lr: outer rate of the images (in units of the normalised input).
        text_lr: outer rate of the texts.
        rate_lr: outer rate of the learned student rates.
        similarity_lr: outer rate of a learned similarity.
        student_rate_image: where the learned rate of the image side starts.
        student_rate_text: where the learned rate of the text side starts.
        momentum: of ``sgd``.
        clip: largest L2 norm of a gradient; 0 is no limit.
        clip_of: what ``clip`` limits: ``each`` variable's gradient, or ``all`` variables' joint gradient.
        decay: outer rates over the iterations: ``none``, ``cosine``, or ``linear`` (both to 0).
        ema: weight of the past in the averaged set that is saved; 0 saves the set itself.
        validate_every: iterations between validations; 0 never validates and keeps the last set.
        checkpoint_every: iterations between checkpoints.
        keep: iterations whose set is kept beside the final one, e.g. ``[0, 2000, 7000]``.
    """

    method: str = ""
    pairs: int = 100
    seed: int = 0
    iterations: int | None = None
    draws: int = later(1, neutral=1)
    minutes: float = 0.0
    clock: Literal["wall", "cpu"] = later("wall", neutral="wall")
    captions: int = 1
    label: str = ""
    learn: Literal["both", "image", "text"] = "both"
    start: str = "real"
    start_image: str = ""
    start_text: str = ""
    experts: int = 0
    space: Literal["pixels", "features"] = "pixels"
    size: int = 0
    pixels: Literal["plain", "pyramid", "fourier"] = later("plain", neutral="plain")
    bases: int = later(0, neutral=0)
    base_scale: int = later(2, neutral=2)
    base_texts: bool = later(False, neutral=False)
    negatives: Literal["all", "distinct"] = later("all", neutral="all")
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
    clip_of: Literal["each", "all"] = later("each", neutral="each")
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
        require(self.bases >= 0, "distill.bases", self.bases, "0 (none) or more")
        require(self.base_scale >= 1, "distill.base_scale", self.base_scale, "1 or more")
        wanted = "false where there are no bases"
        require(self.bases > 0 or not self.base_texts, "distill.base_texts", self.base_texts, wanted)
        form = self.pixels == "plain" or (self.space == "pixels" and not self.bases)
        require(form, "distill.pixels", self.pixels, "plain where features are learned, or bases")
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
    def starts(self) -> tuple[str, str]:
        """Where images and texts start."""
        return self.start_image or self.start, self.start_text or self.start


@dataclass(frozen=True)
class ResolvedDistillConfig(Outer, DistillConfig):
    """An outer loop with nothing left open; :func:`vldistill.options.resolve.resolve_distill` makes it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.method), "distill.method", self.method, "the name of a method")
