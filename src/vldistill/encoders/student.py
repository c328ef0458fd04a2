"""A new student: the dual encoder that a setting trains."""

from __future__ import annotations

import copy

from vldistill.config import EncoderConfig
from vldistill.encoders.dual import DualEncoder, Head, with_head
from vldistill.encoders.lora import add_adapters
from vldistill.encoders.tokens import TokenTower, require_trainable
from vldistill.encoders.tower import ImageTower, TextTower


def build_student(config: EncoderConfig, image_tower: ImageTower, text_tower: TextTower, dropout: float) -> DualEncoder:
    """A student with random heads and adapters, from torch's generator; trained towers start as copies.

    Args:
        config: setting, embedding width, adapters, temperature.
        image_tower: frozen or copied, depending on the setting.
        text_tower: frozen or wrapped for training, depending on the setting.
        dropout: of the heads.
    """
    # without a head the tower's features are the embedding
    width = image_tower.width if config.setting in ("full", "lora") else config.dim
    text = Head(text_tower.width, width, dropout)
    if config.setting == "heads":
        image = Head(image_tower.width, width, dropout)
    elif config.setting == "both":
        head = Head(image_tower.width, width, dropout)
        image = with_head(copy.deepcopy(image_tower).requires_grad_(True), head)
        text = with_head(TokenTower(require_trainable(text_tower)), text)
    elif config.setting == "full":
        image = copy.deepcopy(image_tower).requires_grad_(True)
    else:
        image = add_adapters(copy.deepcopy(image_tower), config.lora.patterns, config.lora.rank, config.lora.alpha)
    return DualEncoder(image, text, 1.0 / config.temperature)
