"""Build a tower from its configuration: the name decides the library."""

from __future__ import annotations

import torch

from vldistill.config import ImageTowerConfig, TextTowerConfig
from vldistill.encoders.clip import ClipTextTower, clip_image_tower
from vldistill.encoders.image_towers import convnet_tower, timm_tower
from vldistill.encoders.precomputed import PRECOMPUTED, precomputed_image_tower, precomputed_text_tower
from vldistill.encoders.text_towers import HashingTextTower, TransformersTextTower
from vldistill.encoders.tower import ImageTower, TextTower


def build_image_tower(config: ImageTowerConfig) -> ImageTower:
    """Build the configured image tower. Raises ConfigError or ArtefactError with the remedy."""
    if config.name == PRECOMPUTED:
        return precomputed_image_tower(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reseed every GPU as well
        if config.name.startswith("open_clip:"):
            return clip_image_tower(config)
        return convnet_tower(config) if config.name == "convnet" else timm_tower(config)


def build_text_tower(config: TextTowerConfig, device: torch.device) -> TextTower:
    """Build the configured text tower. Raises ConfigError with the remedy."""
    if config.name == PRECOMPUTED:
        return precomputed_text_tower(config)
    if config.name == "hashing":
        return HashingTextTower(config.width)
    if config.name.startswith("open_clip:"):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            return ClipTextTower(config, device)
    return TransformersTextTower(config, device)
