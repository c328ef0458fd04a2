"""Training data: the inputs of each side, by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


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
    """

    images: Inputs
    texts: Inputs
    caption_image: torch.Tensor
    similarity: torch.Tensor | None = None
    blocks: int = 1

    def __len__(self) -> int:
        return len(self.texts)
