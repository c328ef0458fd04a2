"""Training data: what each side consumes, by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class Inputs(Protocol):
    """What one side of the encoder consumes, by row."""

    def __len__(self) -> int: ...

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Inputs of rows ``index`` (B,) on the training device; augmented if a seed is given."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """Pairs as the trained sides see them.

    Args:
        images: N image inputs.
        texts: M text inputs.
        caption_image: (M,) int64, the image of each text.
        similarity: (M, M) soft targets, or None.
        blocks: the texts are so many blocks, each with one text of every image in order. A batch is of one block: two
            texts of one image would be each other's negatives.
    """

    images: Inputs
    texts: Inputs
    caption_image: torch.Tensor
    similarity: torch.Tensor | None = None
    blocks: int = 1

    def __len__(self) -> int:
        return len(self.texts)
