"""Towers by name, on their own."""

from __future__ import annotations

from typing import Any

import torch

from vldistill.config import ImageTowerConfig, TextTowerConfig
from vldistill.encoders.build import build_image_tower, build_text_tower
from vldistill.encoders.tower import ImageTower, TextTower
from vldistill.errors import ConfigError, unknown


def image_tower(name: str = "convnet", **options: object) -> ImageTower:
    """A frozen image tower: a module from normalised images (B, 3, size, size) to features (B, width).

    Args:
        name: ``convnet``, any name of timm, or ``open_clip:MODEL``.
        options: ``weights``, ``size``, ``options``, ``mean``, ``std``, ``seed``; see :class:`ImageTowerConfig`.
    """
    return build_image_tower(_config(ImageTowerConfig, name, options)).requires_grad_(False)


def text_tower(name: str = "hashing", *, device: str = "cpu", **options: object) -> TextTower:
    """A frozen text tower; ``encode(captions)`` gives sentence vectors (M, width).

    Args:
        name: ``hashing``, a model of transformers, or ``open_clip:MODEL``.
        device: where it runs.
        options: ``weights``, ``pooling``, ``max_tokens``, ``width``, ``options``, ``seed``; see
            :class:`TextTowerConfig`.
    """
    return build_text_tower(_config(TextTowerConfig, name, options), torch.device(device))


def _config(kind: type[Any], name: str, options: dict[str, Any]) -> Any:
    known = kind.__dataclass_fields__
    for option in options:
        if option not in known:
            raise ConfigError(unknown("tower option", option, known))
    return kind(name=name, **options)
