"""A student of vldistill as a model of transformers. This file is copied beside the weights, and needs timm alone.

    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    model.get_image_features(pixel_values), model.get_text_features(input_ids, attention_mask)

Shapes: B batch, S image side, L tokens, D width of the embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput


class VldistillConfig(PretrainedConfig):
    """What a student consists of.

    Args:
        image: ``architecture`` and ``options`` of timm, ``size``, ``native_size`` in pixels, ``width`` of the features.
        text: the configuration of the text tower by name, with its ``model_type``.
        pooling: of token vectors: ``mean`` or ``cls``.
        embedded: the text tower reads input embeddings that are looked up first.
        standardised: the sides whose features are standardised: ``image``, ``text``.
        heads: the sides that have a head.
        dim: width of the embedding.
        logit_scale: of the cosine similarities.
    """

    model_type = "vldistill"

    def __init__(
        self,
        image: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        pooling: str = "mean",
        embedded: bool = False,
        standardised: tuple[str, ...] = ("image", "text"),
        heads: tuple[str, ...] = ("image", "text"),
        dim: int = 512,
        logit_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.image, self.text, self.pooling, self.embedded = image or {}, text or {}, pooling, embedded
        self.standardised, self.heads = list(standardised), list(heads)
        self.dim, self.logit_scale = dim, logit_scale
        super().__init__(**kwargs)


@dataclass
class VldistillOutput(ModelOutput):
    """Scaled cosine similarities (B, B') and (B', B), and the embeddings (B, D) of both sides."""

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


class Head(nn.Module):
    """Linear -> GELU -> Linear, + residual, -> LayerNorm."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.project = nn.Linear(width_in, width_out)
        self.mix = nn.Linear(width_out, width_out)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, width_out)."""
        projected = self.project(features)
        return self.norm(projected + self.mix(F.gelu(projected)))


class Standardise(nn.Module):
    """Features (B, D) minus their mean, by their scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features (B, D)."""
        return (features - self.mean) / self.scale


class VldistillModel(PreTrainedModel):
    """A dual encoder of images and texts."""

    config_class = VldistillConfig
    base_model_prefix = "vldistill"
    main_input_name = "pixel_values"

    def __init__(self, config: VldistillConfig) -> None:
        super().__init__(config)
        image = config.image
        self.image_tower = timm.create_model(image["architecture"], pretrained=False, num_classes=0, **image["options"])
        if image["size"] != image["native_size"] and hasattr(self.image_tower, "set_input_size"):
            self.image_tower.set_input_size(img_size=image["size"])  # pyright: ignore[reportCallIssue]
        self.text_tower = AutoModel.from_config(AutoConfig.for_model(**config.text))
        self.image_rest = self._rest("image", image["width"])
        self.text_rest = self._rest("text", self.text_tower.config.hidden_size)
        self.post_init()

    def _rest(self, side: str, width: int) -> nn.Sequential:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if side in self.config.standardised:
            parts["standardise"] = Standardise(width)
        if side in self.config.heads:
            parts["head"] = Head(width, self.config.dim)
        return nn.Sequential(parts)

    def _init_weights(self, module: nn.Module) -> None:
        """Weights come from the file."""

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of length 1 of normalised images (B, 3, S, S)."""
        return F.normalize(self.image_rest(self.image_tower(pixel_values)), dim=-1)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: torch.Tensor
    ) -> torch.Tensor:
        """Embeddings (B, D) of length 1 of token ids (B, L) with their mask."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.config.embedded:
            tokens = {"inputs_embeds": self.text_tower.get_input_embeddings()(input_ids)}
        else:
            tokens = {"input_ids": input_ids}
        hidden = self.text_tower(**tokens, attention_mask=mask).last_hidden_state
        return F.normalize(self.text_rest(self._pooled(hidden, mask)), dim=-1)

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "cls":
            return hidden[:, 0]
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> VldistillOutput:
        """Embeddings of what is given, and their similarities where both are."""
        images = None if pixel_values is None else self.get_image_features(pixel_values)
        texts = None if input_ids is None else self.get_text_features(input_ids, attention_mask)
        if images is None or texts is None:
            return VldistillOutput(image_embeds=images, text_embeds=texts)
        logits = self.config.logit_scale * images @ texts.T
        return VldistillOutput(logits, logits.T, images, texts)
