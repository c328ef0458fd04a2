"""Training data: the inputs of each side, by row."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from vldistill.training.losses import equal_pairs


class Inputs(Protocol):
    """The inputs of one side of the encoder, by row."""

    def __len__(self) -> int: ...

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Inputs of rows ``index`` (B,) on the training device; augmented if a seed is given."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """Pairs as inputs of the trained sides.

    Args:
        images: N image inputs.
        texts: M text inputs.
        caption_image: (M,) int64, the image of each text.
        similarity: (M, M) soft targets, or None.
        blocks: number of blocks of texts; each has one text per image, in image order. A batch is taken from one
            block, because two texts of one image would be each other's negatives.
        captions: of each text what equals that of equal ones: the text itself, or a number; None where all differ.
    """

    images: Inputs
    texts: Inputs
    caption_image: torch.Tensor
    similarity: torch.Tensor | None = None
    blocks: int = 1
    captions: Sequence[Hashable] | None = None

    @cached_property
    def caption_number(self) -> torch.Tensor:
        """(M,) int64, equal for equal captions."""
        if self.captions is None:
            return torch.arange(len(self))
        numbers: dict[Hashable, int] = {}
        return torch.tensor([numbers.setdefault(caption, len(numbers)) for caption in self.captions])

    def equal(self, index: torch.Tensor) -> torch.Tensor | None:
        """Which of the pairs ``index`` (B,) are no negatives of each other, see :func:`~.losses.equal_pairs`."""
        return equal_pairs(self.caption_image[index], self.caption_number[index])

    def __len__(self) -> int:
        return len(self.texts)
