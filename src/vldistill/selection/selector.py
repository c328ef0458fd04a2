"""The interface of selectors: what they get and return, and how they are registered; see selection/selectors/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.config.plain import Plain
from vldistill.errors import ConfigError, unknown
from vldistill.registry import Registry, summary_of
from vldistill.selection.features import PairFeatures
from vldistill.training.data import TrainingData
from vldistill.workbench.bench import Workbench

WARMUP = ("warmup_epochs", "warmup_image_rate", "warmup_text_rate")


class Candidates(Protocol):
    """The training pairs a selector chooses from; costly values are computed at first use.

    Features are opened again at each access: they take memory only while a selector holds them.
    """

    @property
    def caption_image(self) -> torch.Tensor:
        """The image of each caption, (M,) int64."""
        ...

    @property
    def image_captions(self) -> Sequence[np.ndarray]:
        """The rows of the captions of each of the N images."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each of the N images, int64; None where they are of no class set."""
        ...

    @property
    def towers(self) -> PairFeatures:
        """Standardised features of the frozen towers, L2-normalised on each side."""
        ...

    @property
    def student(self) -> PairFeatures:
        """Normalised embeddings of a student after a warm-up on the real pairs; both sides have the same width."""
        ...

    @property
    def forgotten(self) -> torch.Tensor:
        """How often each pair was forgotten in that warm-up, (M,) integers."""
        ...

    @property
    def data(self) -> TrainingData:
        """Standardised features of the frozen towers as training data of two heads."""
        ...

    @property
    def workbench(self) -> Workbench:
        """Where the pairs come from."""
        ...


Choose = Callable[[Candidates, int, int, SelectConfig], torch.Tensor]
"""``choose(candidates, count, seed, options)`` -> rows of ``count`` captions of distinct images, (count,) int64."""


@dataclass(frozen=True)
class Selector:
    """A registered selector.

    Args:
        choose: the function.
        drawn: whether it is random; otherwise it chooses the same pairs for every seed.
        reads: names of the options in :class:`~vldistill.config.SelectConfig` that it uses.
        summary: one line for listings.
        nested: whether it chooses one pair after the other: the first of many are the choice of few.
        check: refuses a number of pairs and options that cannot work, before any data are read.
    """

    choose: Choose
    drawn: bool
    reads: tuple[str, ...]
    summary: str
    nested: bool = False
    check: Callable[[int, SelectConfig], None] | None = None

    def options(self, config: SelectConfig) -> dict[str, Plain]:
        """The options that determine the choice, by name."""
        return {name: getattr(config, name) for name in self.reads}


SELECTORS: Registry[Selector] = Registry(
    "selector",
    "vldistill.selection.selectors",
    "vldistill.distillation.selectors",  # those that need the mathematics of distillation
    reserved=("full", "real", "noise"),
)


def register(
    name: str,
    *,
    drawn: bool,
    reads: tuple[str, ...] = (),
    nested: bool = False,
    check: Callable[[int, SelectConfig], None] | None = None,
) -> Callable[[Choose], Choose]:
    """Register a selector under ``name``; its docstring's first line is its summary.

    Args:
        name: what a user types.
        drawn: whether it is random.
        reads: the options it uses.
        nested: whether it chooses one pair after the other.
        check: refuses a number of pairs and options that cannot work.

    Raises:
        ConfigError: the name is taken or malformed, an option does not exist, or there is no docstring.
    """

    def add(choose: Choose) -> Choose:
        for option in reads:
            if option not in SelectConfig.__dataclass_fields__:
                raise ConfigError(unknown(f"option of selector {name!r}", option, SelectConfig.__dataclass_fields__))
        SELECTORS.add(name, Selector(choose, drawn, reads, summary_of(choose, name), nested, check))
        return choose

    return add
