"""Choose real pairs of a workbench's training split with a selector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.errors import ConfigError
from vldistill.selection.features import PairFeatures
from vldistill.selection.selector import SELECTORS
from vldistill.selection.warmup import open_rows, warm_up
from vldistill.workbench.bench import Workbench


class _TrainingCandidates:
    """The :class:`Candidates` of a workbench; ``options`` configure the warm-up."""

    def __init__(self, bench: Workbench, options: SelectConfig) -> None:
        self.bench, self.options = bench, options
        pairs = bench.pixels("train").pairs
        self.caption_image = torch.from_numpy(np.array(pairs.caption_image, np.int64))
        self.image_captions: Sequence[np.ndarray] = pairs.image_captions
        self.labels = None if pairs.classes is None else pairs.classes.labels

    @property
    def towers(self) -> PairFeatures:
        return PairFeatures(*self.bench.unit_features(), self.caption_image)

    @cached_property
    def _warm_up(self) -> Path:
        return warm_up(self.bench, self.image_captions, self.options)

    def _rows(self, name: str) -> torch.Tensor:
        return open_rows(self._warm_up / f"{name}.npy")

    @property
    def student(self) -> PairFeatures:
        return PairFeatures(self._rows("images"), self._rows("texts"), self.caption_image)

    @property
    def forgotten(self) -> torch.Tensor:
        return self._rows("forgotten")


def check_count(images: int, pairs: int) -> None:
    """Refuse more pairs than there are images. Raises ConfigError."""
    if pairs > images:
        raise ConfigError(
            f"{pairs} pairs were requested, but the train split has {images} images, "
            f"and the pairs of one set have distinct images. Ask for {images} or fewer."
        )


def check_readable(bench: Workbench, pairs: int) -> None:
    """Refuse more pairs than readable training images; decodes the images. Raises ConfigError."""
    readable, listed = bench.pixels("train").pairs.count_images, bench.pairs("train").count_images
    if readable < pairs <= listed:
        raise ConfigError(
            f"{pairs} pairs were requested, but of the {listed} images of the train split {readable} can be read, "
            f"and the pairs of one set have distinct images. Ask for {readable} or fewer, or repair the others."
        )
    check_count(readable, pairs)


def check_ground(name: str, pairs: int, options: SelectConfig) -> None:
    """Refuse more pairs than the selector's random sample holds. Raises ConfigError."""
    for option in ("ground_set", "cluster_sample"):
        if option in SELECTORS.find(name).reads and getattr(options, option) < pairs:
            raise ConfigError(
                f"select.{option} is {getattr(options, option)}, fewer than the {pairs} pairs that {name} must "
                f"choose. Ask for fewer pairs, or set select.{option} to {pairs} or more."
            )


def choose_pairs(
    bench: Workbench, name: str, count: int, seed: int, options: SelectConfig | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose ``count`` training pairs with the selector ``name``: image rows and caption rows, (count,) int64 each.

    Raises:
        ConfigError: an unknown selector, or more pairs than readable images or than the selector's sample.
    """
    options = options or SelectConfig()
    entry = SELECTORS.find(name)
    check_ground(name, count, options)
    check_readable(bench, count)
    candidates = _TrainingCandidates(bench, options)
    captions = entry.choose(candidates, count, seed, options)
    return candidates.caption_image[captions], captions
