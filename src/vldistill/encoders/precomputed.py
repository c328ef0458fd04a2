"""Towers that have done their work: vectors come from the source, and nothing here can make more of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
import torch
from torch import nn

from vldistill.config import EncoderConfig, ImageTowerConfig, TextTowerConfig
from vldistill.config.plain import Plain, entry
from vldistill.data.vectors import PairVectors, Vectors
from vldistill.encoders.features import FIT_ROWS, FeatureTable
from vldistill.encoders.tower import ImageTower, ProgressHook
from vldistill.errors import ConfigError

PRECOMPUTED = "precomputed"  # the name of both towers in a configuration
SIDE = 1  # pixels that such a tower takes, for records that want a number

Facts = dict[str, Plain]
"""Name, width and fingerprint of a tower: ``options`` in its configuration."""


class PrecomputedImageTower(ImageTower):
    """What made the vectors of the image side."""

    def __init__(self, name: str, width: int, fingerprint: str) -> None:
        super().__init__(nn.Identity(), name, width, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self._fingerprint = fingerprint

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Vectors (B, width) as they are. Raises ConfigError for pictures."""
        if images.ndim != 2 or images.shape[1] != self.width:
            refuse_pixels(self.name)
        return images

    def fingerprint(self) -> str:
        """The hash of what is known of it."""
        return self._fingerprint


class PrecomputedTextTower:
    """What made the vectors of the text side."""

    def __init__(self, name: str, width: int, fingerprint: str) -> None:
        self.name, self.width, self._fingerprint = name, width, fingerprint

    def encode(self, captions: Sequence[str], progress: ProgressHook | None = None) -> torch.Tensor:
        """Refuse: there is nothing that could encode a text."""
        raise ConfigError(f"text tower {self.name} has no network here: give vectors of width {self.width}, no texts.")

    def fingerprint(self) -> str:
        """The hash of what is known of it."""
        return self._fingerprint


def refuse_pixels(name: str, what: str = "this") -> NoReturn:
    """Say that something needs pixels, or texts. Raises ConfigError."""
    raise ConfigError(
        f"{what} needs pixels and texts, and here are vectors of {name}. Leave it out, or use photos and captions."
    )


def is_precomputed(tower: object) -> bool:
    """Whether a tower is one of these."""
    return isinstance(tower, PrecomputedImageTower | PrecomputedTextTower)


def facts_of(vectors: Vectors) -> Facts:
    """What a configuration and a set keep of the tower of some vectors."""
    return {"name": vectors.tower, "width": vectors.width, "fingerprint": vectors.tower_fingerprint}


def with_facts(config: EncoderConfig, image: Mapping[str, object], text: Mapping[str, object]) -> EncoderConfig:
    """The configuration with the facts of both towers, where it has none. Raises ConfigError where others are given."""
    if config.image.name != PRECOMPUTED:
        return config
    known = {"image": _kept(image), "text": _kept(text)}
    for side, options in (("image", config.image.options), ("text", config.text.options)):
        if options and options != known[side]:
            raise ConfigError(
                f"encoder.{side}.options say {options.get('name')!r} of width {options.get('width')}, but the vectors "
                f"are of {known[side].get('name')!r} of width {known[side].get('width')}. Leave them out, or name the "
                f"tower in the source: ?{side}_tower=NAME."
            )
    image_config = replace(config.image, options=known["image"])
    return replace(config, image=image_config, text=replace(config.text, options=known["text"]))


def _kept(tower: Mapping[str, object]) -> Facts:
    return {name: tower[name] for name in ("name", "width", "fingerprint")}  # pyright: ignore[reportReturnType]


def precomputed_image_tower(config: ImageTowerConfig) -> ImageTower:
    """The image tower of a configuration. Raises ConfigError where it has no facts."""
    return PrecomputedImageTower(*_facts(config.options, "image"))


def precomputed_text_tower(config: TextTowerConfig) -> PrecomputedTextTower:
    """The text tower of a configuration. Raises ConfigError where it has no facts."""
    return PrecomputedTextTower(*_facts(config.options, "text"))


def _facts(options: Mapping[str, Plain], side: str) -> tuple[str, int, str]:
    name, width, mark = entry(options, "name", str), entry(options, "width", int), entry(options, "fingerprint", str)
    if not name or not width or width < 1 or not mark:
        raise ConfigError(
            f"encoder.{side}.name is {PRECOMPUTED}, which is for sources of vectors (embeddings:PATH), and "
            f"encoder.{side}.options name no tower. Give such a source, or another tower."
        )
    return name, width, mark


class VectorTable(FeatureTable):
    """Vectors of a source as features: no copy of them is made on disk.

    Args:
        vectors: their rows.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.shards = []
        self.width, self.count = vectors.width, len(vectors)

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Rows ``index`` (B,) int64 as float32 (B, D)."""
        return torch.from_numpy(self.vectors.read(index.cpu().numpy()))

    def all(self) -> torch.Tensor:
        """Every row as one float32 tensor (N, D) in memory."""
        out = np.empty((self.count, self.width), np.float32)
        done = 0
        for rows in self.vectors.chunks():
            out[done : done + len(rows)] = rows
            done += len(rows)
        return torch.from_numpy(out)

    def chunks(self, size: int = FIT_ROWS) -> Iterator[np.ndarray]:
        """All rows in order, ``size`` at a time."""
        return self.vectors.chunks(size)


def vector_table(vectors: PairVectors, side: str) -> VectorTable:
    """The features of one side."""
    return VectorTable(vectors.image if side == "image" else vectors.text)
