"""The two sides of a student as one module each, from pixels or token ids to embeddings: what exports are made of.

Shapes: B batch, S image side, L tokens, D width of the embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from vldistill.encoders.clip import ClipTextTower
from vldistill.encoders.dual import DualEncoder
from vldistill.encoders.lora import merge_adapters
from vldistill.encoders.text_towers import TransformersTextTower
from vldistill.encoders.tower import ImageTower
from vldistill.errors import ConfigError
from vldistill.workbench.bench import Workbench

SIDES = ("image", "text")
M = TypeVar("M", bound=nn.Module)
Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class StudentParts:
    """A student to export.

    Args:
        bench: its towers, and the standardisation of their features.
        encoder: the trained dual encoder.
        about: for the record: the set's name, its data's fingerprint, ...
        clean_captions: whether texts are cleaned before they are tokenised.
    """

    bench: Workbench
    encoder: DualEncoder
    about: Mapping[str, object]
    clean_captions: bool = False


class Standardise(nn.Module):
    """Features (B, D) minus their mean, by their scale."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features (B, D)."""
        return (features - self.get_buffer("mean")) / self.get_buffer("scale")


class ImageSide(nn.Module):
    """Normalised images (B, 3, S, S) to embeddings (B, D) of length 1."""

    def __init__(self, tower: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.tower, self.rest = tower, rest

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D)."""
        return F.normalize(self.rest(self.tower(pixel_values)), dim=-1)


class TextSide(nn.Module):
    """Token ids and their mask, both (B, L), to embeddings (B, D) of length 1.

    Args:
        model: a transformers encoder.
        pool: from token vectors and mask to sentence vectors.
        rest: from sentence vectors on.
        embedded: look the input embeddings up first, as a trained text tower reads them.
    """

    def __init__(
        self,
        model: nn.Module,
        pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rest: nn.Module,
        embedded: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.pool, self.rest, self.embedded = model, pool, rest, embedded

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D)."""
        if self.embedded:
            tokens = {"inputs_embeds": self.model.get_input_embeddings()(input_ids)}  # pyright: ignore[reportCallIssue]
        else:
            tokens = {"input_ids": input_ids}
        hidden = self.model(**tokens, attention_mask=attention_mask).last_hidden_state
        return F.normalize(self.rest(self.pool(hidden, attention_mask)), dim=-1)


class ClipTextSide(nn.Module):
    """Token ids (B, L), padded with 0 to the whole context of a CLIP model, to embeddings (B, D) of length 1."""

    def __init__(self, model: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.model, self.rest = model, rest

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D)."""
        return F.normalize(self.rest(self.model.encode_text(input_ids)), dim=-1)  # pyright: ignore[reportCallIssue]


def image_side(student: StudentParts) -> ImageSide:
    """The image side on the CPU, in float32, with adapters merged into the weights."""
    bench, trained = student.bench, student.encoder.image
    if bench.setting == "heads":
        standard = bench.image_standardisation
        tower, rest = bench.image_tower, nn.Sequential(Standardise(standard.mean, standard.scale), trained)
    elif bench.setting == "both":
        tower, rest = trained.get_submodule("tower"), trained.get_submodule("head")
    else:
        assert isinstance(trained, ImageTower)
        tower, rest = merge_adapters(trained) if bench.setting == "lora" else trained, nn.Identity()
    return _still(ImageSide(tower.get_submodule("model"), rest))


def text_side(student: StudentParts) -> TextSide | ClipTextSide:
    """The text side on the CPU, in float32. Raises ConfigError for a text tower that is no network."""
    bench, trained = student.bench, student.encoder.text
    tower = bench.text_tower
    if isinstance(tower, TransformersTextTower) and bench.setting == "both":
        model = trained.get_submodule("tower.model")
        return _still(TextSide(model, tower.pool, trained.get_submodule("head"), embedded=True))
    if not isinstance(tower, TransformersTextTower | ClipTextTower):
        raise ConfigError(
            f"the text side cannot be exported: text tower {tower.name!r} is no network, it counts words. Export the "
            f"image side alone, sides=['image'], or train a student on an encoder of transformers."
        )
    standard = bench.text_standardisation
    rest = nn.Sequential(Standardise(standard.mean, standard.scale), trained)
    if isinstance(tower, ClipTextTower):
        return _still(ClipTextSide(tower.model, rest))
    return _still(TextSide(tower.model, tower.pool, rest))


def example_images(student: StudentParts, count: int) -> Inputs:
    """Normalised images of noise (count, 3, S, S), to compare an export with its student."""
    size = student.bench.image_tower.size
    return (torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count)),)


def example_texts(student: StudentParts, count: int) -> Inputs:
    """The tokens of texts of several lengths, to compare an export with its student."""
    texts, tower = ["a dog " * (1 + 2 * number) for number in range(count)], student.bench.text_tower
    if isinstance(tower, ClipTextTower):
        tokens = tower.tokenizer(texts, context_length=tower.max_tokens)
        return (F.pad(tokens, (0, tower.context - tokens.shape[1])),)
    assert isinstance(tower, TransformersTextTower)
    tokens = tower.tokens(texts)
    return tokens["input_ids"], tokens["attention_mask"]


def _still(module: M) -> M:
    """A copy that nothing trains, on the CPU."""
    return copy.deepcopy(module).to(device="cpu", dtype=torch.float32).requires_grad_(False).eval()
