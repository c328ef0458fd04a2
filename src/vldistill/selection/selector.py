"""What a selector is, what it may use, and how one is registered; see selection/selectors/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.errors import ConfigError, unknown
from vldistill.registry import Registry, summary_of
from vldistill.selection.features import PairFeatures

WARMUP = ("warmup_epochs", "warmup_image_rate", "warmup_text_rate")


class Candidates(Protocol):
    """The training pairs a selector chooses among; what is costly is made when it is first asked for.

    Features are opened anew each time they are asked for: memory is only taken while a selector holds on to them.
    """

    @property
    def caption_image(self) -> torch.Tensor:
        """The image of each caption, (M,) int64."""
        ...

    @property
    def image_captions(self) -> Sequence[np.ndarray]:
        """For each of the N images the rows of its captions."""
        ...

    @property
    def towers(self) -> PairFeatures:
        """Standardised features of the frozen towers, each side L2-normalised."""
        ...

    @property
    def student(self) -> PairFeatures:
        """Normalised embeddings of a student after a warm-up on the real pairs; both sides have one width."""
        ...

    @property
    def forgotten(self) -> torch.Tensor:
        """How often each pair was forgotten in that warm-up, (M,) integers."""
        ...


Choose = Callable[[Candidates, int, int, SelectConfig], torch.Tensor]
"""``choose(candidates, count, seed, options)`` -> rows of ``count`` captions of distinct images, (count,) int64."""


@dataclass(frozen=True)
class Selector:
    """A registered selector.

    Args:
        choose: the function.
        drawn: whether the seed matters; a selector without randomness chooses the same pairs with any.
        reads: names of the options in :class:`~vldistill.config.SelectConfig` that matter to it.
        summary: one line about it.
    """

    choose: Choose
    drawn: bool
    reads: tuple[str, ...]
    summary: str

    def options(self, config: SelectConfig) -> dict[str, Any]:
        """The options that decide the choice, by name."""
        return {name: getattr(config, name) for name in self.reads}


SELECTORS: Registry[Selector] = Registry(
    "selector", "vldistill.selection.selectors", reserved=("full", "real", "noise")
)


def register(name: str, *, drawn: bool, reads: tuple[str, ...] = ()) -> Callable[[Choose], Choose]:
    """Register a selector under ``name``; its docstring's first line is its summary.

    Raises:
        ConfigError: a name that is taken or malformed, an option that does not exist, or no docstring.
    """

    def add(choose: Choose) -> Choose:
        for option in reads:
            if option not in SelectConfig.__dataclass_fields__:
                raise ConfigError(unknown(f"option of selector {name!r}", option, SelectConfig.__dataclass_fields__))
        SELECTORS.add(name, Selector(choose, drawn, reads, summary_of(choose, name)))
        return choose

    return add
