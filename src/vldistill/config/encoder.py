"""The dual encoder: towers, setting and adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vldistill.config.checks import check_fields, positive, require
from vldistill.errors import ConfigError, unknown

SETTINGS = {
    "heads": "both towers frozen; an image head and a text head are trained",
    "full": "the image tower and a text head are trained; the text tower is frozen",
    "lora": "low-rank adapters of the image tower and a text head are trained; the text tower is frozen",
    "both": "both towers and both heads are trained; distilled texts are input embeddings of the text tower",
}


@dataclass(frozen=True)
class ImageTowerConfig:
    """The image tower.

    Args:
        name: ``convnet``, any name of timm, also ``hf-hub:owner/model``, ``resnet18_gn``, or ``open_clip:MODEL``.
        weights: ``hub`` (downloaded), ``random``, or the path of a .safetensors file.
        size: input side in pixels; 0 means the tower's own.
        options: keyword arguments for the constructor, e.g. ``{pad_type: same}``.
        mean: channel means of the input in [0, 1]; empty means the tower's own.
        std: channel standard deviations; empty is the tower's own.
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
        check_fields(self, "encoder.image")
        require(self.size == 0 or self.size >= 16, "encoder.image.size", self.size, "0 or at least 16 pixels")
        for name in ("mean", "std"):
            value = getattr(self, name)
            require(len(value) in (0, 3), f"encoder.image.{name}", value, "three numbers, one per channel")
        require(all(v > 0 for v in self.std), "encoder.image.std", self.std, "numbers above 0")


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
        check_fields(self, "encoder.text")
        positive(self, "encoder.text", "max_tokens", "width")
        fine = self.weights in ("hub", "random") or self.weights.endswith(".safetensors")
        require(fine, "encoder.text.weights", self.weights, "hub, random, or the path of a .safetensors file")


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
        check_fields(self, "encoder.lora")
        fine = bool(self.patterns) and all(isinstance(pattern, str) and pattern for pattern in self.patterns)
        require(fine, "encoder.lora.patterns", self.patterns, "one or more patterns of module paths")
        positive(self, "encoder.lora", "rank", "alpha")


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
        check_fields(self, "encoder")
        if self.setting not in SETTINGS:
            raise ConfigError(unknown("setting", self.setting, SETTINGS))
        positive(self, "encoder", "dim", "temperature")
