"""The dual encoder: the trained module of each side, and the only definition of the logits.

Shapes: B batch, D embedding width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

Groups = dict[str, dict[str, torch.Tensor]]
"""Trained tensors by side (``image``, ``text``) and name."""

SIDES = ("image", "text")


def packed(groups: Mapping[str, Mapping[str, torch.Tensor]], prefix: str = "") -> dict[str, torch.Tensor]:
    """The same tensors by ``{prefix}side/name``."""
    return {f"{prefix}{side}/{name}": tensor for side, named in groups.items() for name, tensor in named.items()}


def unpacked(tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Groups:
    """The inverse of :func:`packed`; other tensors are ignored."""
    groups: Groups = {side: {} for side in SIDES}
    for full, tensor in tensors.items():
        side, slash, name = full.removeprefix(prefix).partition("/")
        if full.startswith(prefix) and slash and side in groups:
            groups[side][name] = tensor
    return groups


class Head(nn.Module):
    """Linear -> GELU -> Linear -> dropout, + residual, -> LayerNorm (arXiv 2308.07545, its text projection).

    Args:
        width_in: width of the features.
        width_out: width of the embedding.
        dropout: probability, in train mode only.
    """

    def __init__(self, width_in: int, width_out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(width_in, width_out)
        self.mix = nn.Linear(width_out, width_out)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, features: torch.Tensor, multiplied: bool = False) -> torch.Tensor:
        """Embeddings (B, width_out) of features (B, width_in), or of products with its weight (``multiplied``)."""
        projected = features + self.project.bias if multiplied else self.project(features)
        return self.norm(projected + self.dropout(self.mix(F.gelu(projected))))


def with_head(tower: nn.Module, head: Head) -> nn.Sequential:
    """A trained tower and its head as one module; parameters are named ``tower.*`` and ``head.*``."""
    return nn.Sequential(OrderedDict(tower=tower, head=head))


class DualEncoder(nn.Module):
    """Two trained sides and one logit scale.

    The inputs of a side depend on what is trained: in setting ``heads`` features of the frozen towers, in ``full`` and
    ``lora`` normalised images and features of the frozen text tower, in ``both`` normalised images and input embeddings
    of the text tower.

    Args:
        image: trained module of the image side.
        text: trained module of the text side.
        logit_scale: 1 / temperature, already exponentiated.
    """

    def __init__(self, image: nn.Module, text: nn.Module, logit_scale: float) -> None:
        super().__init__()
        self.image, self.text, self.logit_scale = image, text, logit_scale

    def side(self, group: str) -> nn.Module:
        """The trained module of one side."""
        return self.image if group == "image" else self.text

    def trained(self) -> Groups:
        """The trained parameters by side and name: the live tensors, not copies."""
        return {
            group: {name: p for name, p in self.side(group).named_parameters() if p.requires_grad} for group in SIDES
        }

    def tower_and_head(self, group: str) -> dict[bool, list[torch.Tensor]]:
        """Trained parameters of one side: True: the head on a trained tower; False: all others."""
        parts: dict[bool, list[torch.Tensor]] = {}
        for name, parameter in self.trained()[group].items():
            parts.setdefault(name.startswith("head."), []).append(parameter)
        return parts

    def embed(
        self,
        group: str,
        inputs: torch.Tensor,
        params: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
        *,
        multiplied: bool = False,
    ) -> torch.Tensor:
        """L2-normalised embeddings (B, D) of one side, with ``params`` instead of its own parameters if given.

        Args:
            multiplied: for heads: ``inputs`` are features already multiplied by the first layer's weight.
        """
        module, named = self.side(group), {"multiplied": True} if multiplied else {}
        if params is None:
            out = module(inputs, **named)
        else:
            out = functional_call(module, dict(params[group]), (inputs,), named)
        return F.normalize(out, dim=-1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scaled cosine similarities (B, B'): the only definition, for training, matching and evaluation."""
        return self.logit_scale * images @ texts.T

    def forward(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        params: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """Logits (B, B') of image inputs against text inputs."""
        return self.logits(self.embed("image", images, params), self.embed("text", texts, params))
