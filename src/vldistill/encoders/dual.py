"""The dual encoder: what is trained on each side, and the one definition of the logits.

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
    """Tensors by ``side/name`` behind a prefix, as they lie."""
    return {f"{prefix}{side}/{name}": tensor for side, named in groups.items() for name, tensor in named.items()}


def unpacked(tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Groups:
    """The opposite of :func:`packed`; other tensors are left aside."""
    groups: Groups = {side: {} for side in SIDES}
    for full, tensor in tensors.items():
        side, slash, name = full.removeprefix(prefix).partition("/")
        if full.startswith(prefix) and slash and side in groups:
            groups[side][name] = tensor
    return groups


class Head(nn.Module):
    """Linear -> GELU -> Linear -> dropout, + residual, -> LayerNorm (arXiv 2308.07545, its text projection).

    Args:
        width_in: of the features.
        width_out: of the embedding.
        dropout: only in train mode.
    """

    def __init__(self, width_in: int, width_out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(width_in, width_out)
        self.mix = nn.Linear(width_out, width_out)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, features: torch.Tensor, multiplied: bool = False) -> torch.Tensor:
        """Embeddings (B, width_out) of features (B, width_in), or of their products with the first layer's weight."""
        projected = features + self.project.bias if multiplied else self.project(features)
        return self.norm(projected + self.dropout(self.mix(F.gelu(projected))))


def with_head(tower: nn.Module, head: Head) -> nn.Sequential:
    """A trained tower and its head as one side; parameters are named ``tower.*`` and ``head.*``."""
    return nn.Sequential(OrderedDict(tower=tower, head=head))


class DualEncoder(nn.Module):
    """Two trained sides and one logit scale.

    What enters a side is whatever stands before its trained part: in setting ``heads`` features of the frozen
    towers, in ``full`` normalised images and features of the frozen text tower, in ``both`` normalised images and
    input embeddings of the text tower.

    Args:
        image: the trained part of the image side.
        text: the trained part of the text side.
        logit_scale: already exponentiated (1 / temperature).
    """

    def __init__(self, image: nn.Module, text: nn.Module, logit_scale: float) -> None:
        super().__init__()
        self.image, self.text, self.logit_scale = image, text, logit_scale

    def side(self, group: str) -> nn.Module:
        """The trained module of one side."""
        return self.image if group == "image" else self.text

    def trained(self) -> Groups:
        """The trained parameters by side and name; the tensors are the live ones."""
        return {
            group: {name: p for name, p in self.side(group).named_parameters() if p.requires_grad} for group in SIDES
        }

    def tower_and_head(self, group: str) -> dict[bool, list[torch.Tensor]]:
        """Trained parameters of one side: under False its tower, or all of it; under True the head on a tower."""
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
        """L2-normalised embeddings (B, D) of one side, with ``params`` in place of its own if given.

        Args:
            multiplied: of a head: ``inputs`` are products of features with its first layer's weight.
        """
        module, named = self.side(group), {"multiplied": True} if multiplied else {}
        if params is None:
            out = module(inputs, **named)
        else:
            out = functional_call(module, dict(params[group]), (inputs,), named)
        return F.normalize(out, dim=-1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scaled cosine similarities (B, B'): the one definition for training, matching and evaluation."""
        return self.logit_scale * images @ texts.T

    def forward(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        params: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """Logits (B, B') of image inputs against text inputs."""
        return self.logits(self.embed("image", images, params), self.embed("text", texts, params))
