"""The training pairs of a workbench as candidates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.selection.features import PairFeatures
from vldistill.selection.warmup import open_rows, warm_up
from vldistill.workbench.bench import Workbench


class TrainingCandidates:
    """See :class:`vldistill.selection.selector.Candidates`.

    Args:
        bench: towers, features and splits.
        options: of the warm-up.
    """

    def __init__(self, bench: Workbench, options: SelectConfig) -> None:
        self.bench, self.options = bench, options
        pairs = bench.pixels("train").pairs
        self.caption_image = torch.from_numpy(np.array(pairs.caption_image, np.int64))
        self.image_captions: Sequence[np.ndarray] = pairs.image_captions

    @property
    def towers(self) -> PairFeatures:
        """Standardised features of the frozen towers, each side L2-normalised, in float16."""
        return PairFeatures(*self.bench.unit_features(), self.caption_image)

    @cached_property
    def _warm_up(self) -> Path:
        return warm_up(self.bench, self.image_captions, self.options)

    def _rows(self, name: str) -> torch.Tensor:
        return open_rows(self._warm_up / f"{name}.npy")

    @property
    def student(self) -> PairFeatures:
        """Normalised embeddings of a student after the warm-up."""
        return PairFeatures(self._rows("images"), self._rows("texts"), self.caption_image)

    @property
    def forgotten(self) -> torch.Tensor:
        """How often each pair was forgotten in the warm-up."""
        return self._rows("forgotten")
