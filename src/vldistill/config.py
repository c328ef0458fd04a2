"""What a user can set, one frozen dataclass per stage. Nothing here imports torch.

Paths and names may hold ``${VARIABLE}`` or ``${VARIABLE:-default}``; they are expanded when used,
so a saved configuration stays valid on another machine.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vldistill.errors import ConfigError, unknown

SETTINGS = {
    "heads": "both towers frozen; an image head and a text head are trained",
    "full": "the image tower and a text head are trained; the text tower is frozen",
    "lora": "low-rank adapters of the image tower and a text head are trained; the text tower is frozen",
    "both": "both towers and both heads are trained; distilled texts are input embeddings of the text tower",
}
PROTOCOLS = {
    "last": "test the student after its last epoch (the default)",
    "val-best": "test the epoch that did best on val",
    "test-best-legacy": "report the best epoch on test: biased, only to compare with published rows",
}


def expand(text: str) -> str:
    """``text`` with ``${VAR}``, ``${VAR:-default}`` and a leading ``~`` filled in. Raises ConfigError if unset."""

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match["name"]) or match["default"]
        if value is None:
            raise ConfigError(f"{text!r} needs the environment variable {match['name']}, which is not set.")
        return value

    filled = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", fill, text)
    return str(Path(filled).expanduser()) if filled.startswith("~") else filled


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}.")


def _positive(**values: float | int) -> None:
    for name, value in values.items():
        _require(value > 0, name, value, "a number above 0")


def _finite(config: object, section: str) -> None:
    """Refuse NaN and infinity anywhere in ``config``: every later comparison would let them pass."""
    for name, value in vars(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                _require(math.isfinite(number), f"{section}.{name}", value, "finite numbers")


@dataclass(frozen=True)
class RuntimeConfig:
    """Where the work runs.

    Args:
        device: ``auto`` (an accelerator when there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...
        threads: CPU threads of torch; 0 leaves torch's own choice.
    """

    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        _require(self.threads >= 0, "runtime.threads", self.threads, "0 or more threads")


@dataclass(frozen=True)
class DataConfig:
    """Where captioned images come from.

    Args:
        source: a Karpathy json, a folder that holds one, or ``scenes[:seed=0,train=3000,...]``.
        strict: refuse a source with broken photos or captions instead of leaving them out with a warning.
        cache: folder for decoded images and tower features, shared by runs.
        views: augmented views of every training image whose features are kept beside the plain image's (setting
            ``heads``); experts and the real batches of ``bilevel`` draw among them. Each costs one pass of the tower.
        features: how features are stored on disk.
    """

    source: str = "scenes"
    strict: bool = False
    cache: str = "${VLDISTILL_CACHE:-~/.cache/vldistill}"
    views: int = 0
    features: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        _require(self.views >= 0, "data.views", self.views, "0 or more")
        _require(self.features in ("float32", "float16"), "data.features", self.features, "float32 or float16")


@dataclass(frozen=True)
class ImageTowerConfig:
    """The image tower.

    Args:
        name: ``convnet``, any name of timm, also ``hf-hub:owner/model``, ``resnet18_gn``, or ``open_clip:MODEL``.
        weights: ``hub`` (downloaded), ``random``, or the path of a .safetensors file.
        size: input side in pixels; 0 means the tower's own.
        options: keyword arguments for the constructor, e.g. ``{pad_type: same}``.
        mean: channel means of the input in [0, 1]; empty means the tower's own.
        std: channel standard deviations likewise.
        seed: seed of random weights.
    """

    name: str = "convnet"
    weights: str = "hub"
    size: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _finite(self, "encoder.image")
        _require(self.size == 0 or self.size >= 16, "encoder.image.size", self.size, "0 or at least 16 pixels")
        for name in ("mean", "std"):
            value = getattr(self, name)
            _require(len(value) in (0, 3), f"encoder.image.{name}", value, "three numbers, one per channel")
        _require(all(v > 0 for v in self.std), "encoder.image.std", self.std, "numbers above 0")


@dataclass(frozen=True)
class TextTowerConfig:
    """The text tower.

    Args:
        name: ``hashing``, a model of transformers (a hub name or a local folder), or ``open_clip:MODEL``.
        weights: ``hub`` (the name's own weights, downloaded or local), ``random``, or the path of a .safetensors file.
        pooling: how token vectors become a sentence vector (CLIP has its own).
        max_tokens: longer captions are cut.
        width: dimensions of the ``hashing`` tower; other towers have their own.
        options: changes of the network's configuration, e.g. ``{num_hidden_layers: 6}`` with random weights.
        seed: seed of random weights.
    """

    name: str = "hashing"
    weights: str = "hub"
    pooling: Literal["cls", "mean"] = "cls"
    max_tokens: int = 64
    width: int = 512
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(**{"encoder.text.max_tokens": self.max_tokens, "encoder.text.width": self.width})
        fine = self.weights in ("hub", "random") or self.weights.endswith(".safetensors")
        _require(fine, "encoder.text.weights", self.weights, "hub, random, or the path of a .safetensors file")


@dataclass(frozen=True)
class LoraConfig:
    """The adapters of setting ``lora`` (arXiv 2106.09685).

    Args:
        patterns: which linear layers and convolutions of the image tower get an adapter: patterns of their full
            dotted path or of its last parts, e.g. ``attn.proj`` or ``stages.3.*.conv2``. The default means timm's
            vision transformers; other towers name their own.
        rank: inner width of an adapter.
        alpha: an adapter is scaled by alpha / rank.
    """

    patterns: tuple[str, ...] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        _finite(self, "encoder.lora")
        fine = bool(self.patterns) and all(isinstance(pattern, str) and pattern for pattern in self.patterns)
        _require(fine, "encoder.lora.patterns", self.patterns, "one or more patterns of module paths")
        _positive(**{"encoder.lora.rank": self.rank, "encoder.lora.alpha": self.alpha})


@dataclass(frozen=True)
class EncoderConfig:
    """The dual encoder and which part of it is trained.

    Args:
        setting: ``heads``, ``full``, ``lora`` or ``both``; see ``vldistill ls settings``.
        image: the image tower.
        text: the text tower.
        dim: width of the shared space where images have a head (elsewhere it is the image tower's width).
        temperature: of the contrastive logits; the logit scale is 1 / temperature.
        lora: the adapters of setting ``lora``.
    """

    setting: str = "heads"
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    dim: int = 512
    temperature: float = 0.07
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        _finite(self, "encoder")
        if self.setting not in SETTINGS:
            raise ConfigError(unknown("setting", self.setting, SETTINGS))
        _positive(**{"encoder.dim": self.dim, "encoder.temperature": self.temperature})


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
    snapshots: tuple[int, ...] = ()
    steps_per_epoch: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        _finite(self, "experts")
        _positive(
            **{
                "experts.count": self.count,
                "experts.epochs": self.epochs,
                "experts.image_rate": self.image_rate,
                "experts.text_rate": self.text_rate,
            }
        )
        _require(self.batch >= 2, "experts.batch", self.batch, "at least 2 pairs (one alone has no contrast)")
        _require(0 <= self.momentum < 1, "experts.momentum", self.momentum, "a number in [0, 1)")
        _require(self.weight_decay >= 0, "experts.weight_decay", self.weight_decay, "0 or more")
        _require(self.steps_per_epoch >= 0, "experts.steps_per_epoch", self.steps_per_epoch, "0 or more")
        wrong = [epoch for epoch in self.snapshots if not 0 <= epoch <= self.epochs]
        _require(not wrong, "experts.snapshots", wrong, f"epochs from 0 to {self.epochs}")


@dataclass(frozen=True)
class DistillConfig:
    """The outer loop, the same for every method.

    Args:
        method: see ``vldistill ls methods``.
        pairs: number of distilled pairs.
        seed: seed of the start and of every draw.
        iterations: outer iterations.
        draws: segments, students or real batches that are drawn in each iteration, their gradients averaged. Under
            ``torchrun`` the processes share them; the set is the same with any number of processes.
        minutes: end after so many minutes of distilling, if the iterations are not done by then; rates decay over
            whichever is nearer its end. 0 is no limit. Such a set depends on the machine's speed.
        captions: text vectors learned for each image; inner steps take them in turn. All count as stored floats.
        label: added to the set's name, to keep variants side by side in one run.
        learn: what is learned beside the student rates: ``both`` sides, or the ``image`` or the ``text`` side alone
            while the other stays as it started.
        start: ``real`` pairs with distinct images, the real pairs that a selector chooses (``kmeans``, ``herding``,
            ...; see ``vldistill ls selectors``), or ``noise``.
        start_image: start of the images; empty is ``start``. Where both sides are real, they stay pairs: ``real`` then
            means a photo of the chosen caption, or a caption drawn for the chosen photo.
        start_text: start of the texts likewise.
        experts: number of recorded experts to draw from, the first ones; 0 is all.
        space: what is learned on the image side: ``pixels``, or ``features`` of the frozen image tower (setting
            ``heads`` only; such a set fits that tower alone).
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

    method: str = "bitraj"
    pairs: int = 100
    seed: int = 0
    iterations: int = 2000
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
    augment: tuple[str, ...] = ()
    optimiser: Literal["adam", "sgd"] = "adam"
    image_lr: float = 0.03
    text_lr: float = 0.03
    rate_lr: float = 0.01
    similarity_lr: float = 0.01
    student_rate_image: float = 0.1
    student_rate_text: float = 0.1
    momentum: float = 0.5
    clip: float = 0.0
    decay: Literal["none", "cosine", "linear"] = "none"
    ema: float = 0.0
    validate_every: int = 100
    checkpoint_every: int = 50
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _finite(self, "distill")
        _require(self.pairs >= 2, "distill.pairs", self.pairs, "at least 2 pairs (one alone has no contrast)")
        _require(self.iterations >= 0, "distill.iterations", self.iterations, "0 or more")
        _require(self.captions >= 1, "distill.captions", self.captions, "1 or more")
        _require(self.draws >= 1, "distill.draws", self.draws, "1 or more")
        _require(0 <= self.ema < 1, "distill.ema", self.ema, "a number in [0, 1)")
        _require(0 <= self.momentum < 1, "distill.momentum", self.momentum, "a number in [0, 1)")
        _positive(
            **{
                "distill.student_rate_image": self.student_rate_image,
                "distill.student_rate_text": self.student_rate_text,
                "distill.checkpoint_every": self.checkpoint_every,
            }
        )
        rates = ("image_lr", "text_lr", "rate_lr", "similarity_lr")
        for name in (*rates, "clip", "validate_every", "minutes"):
            _require(getattr(self, name) >= 0, f"distill.{name}", getattr(self, name), "0 or more")
        _require(self.experts >= 0, "distill.experts", self.experts, "0 (all) or more")
        fine = re.fullmatch(r"[\w.-]{0,80}", self.label, re.ASCII) is not None
        _require(fine, "distill.label", self.label, "letters, digits, '_', '.' and '-', at most 80")
        image, text = self.starts
        if image != text and not {"real", "noise"} & {image, text}:
            raise ConfigError(
                f"distill starts images from {image} and texts from {text}, which choose different pairs: an image and "
                f"a text that do not belong together are no pair. Use one of them, or real or noise on one side."
            )
        wrong = [iteration for iteration in self.keep if not 0 <= iteration <= self.iterations]
        _require(not wrong, "distill.keep", wrong, f"iterations from 0 to {self.iterations}")

    @property
    def starts(self) -> tuple[str, str]:
        """Where images and texts start."""
        return self.start_image or self.start, self.start_text or self.start


@dataclass(frozen=True)
class EvaluateConfig:
    """How a set is judged: fresh students, trained on it and tested on real pairs.

    Args:
        protocol: see :data:`PROTOCOLS`.
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
    full_epochs: tuple[int, ...] = (10, 20, 40)
    head_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    tower_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    looks: int = 10
    text_map: Literal["none", "ridge"] = "none"

    def __post_init__(self) -> None:
        _finite(self, "evaluate")
        if self.protocol not in PROTOCOLS:
            raise ConfigError(unknown("protocol", self.protocol, PROTOCOLS))
        wrong = [name for name in self.recipes if name not in ("own", "generic")]
        _require(bool(self.recipes) and not wrong, "evaluate.recipes", self.recipes, "own, generic, or both")
        _positive(
            **{
                "evaluate.seeds": self.seeds,
                "evaluate.generic_epochs": self.generic_epochs,
                "evaluate.looks": self.looks,
            }
        )
        for name in ("subset_epochs", "full_epochs", "head_rates", "tower_rates"):
            values: Sequence[float] = getattr(self, name)
            _require(bool(values) and min(values) > 0, f"evaluate.{name}", values, "one or more numbers above 0")


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
        _finite(self, "select")
        names = ("warmup_epochs", "warmup_image_rate", "warmup_text_rate", "ground_set", "cluster_sample")
        _positive(**{f"select.{name}": getattr(self, name) for name in names})
        for name in ("pairs", "warmup_batch", "gallery"):
            _require(getattr(self, name) >= 2, f"select.{name}", getattr(self, name), "at least 2 pairs")


@dataclass(frozen=True)
class Config:
    """Everything a run can be told; ``methods`` holds each method's own options by name."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    methods: dict[str, Any] = field(default_factory=dict)
