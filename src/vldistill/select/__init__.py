"""Coresets: real pairs chosen by a selector, one file each. A selector registers itself; nothing else is edited.

A selector sees the training pairs as :class:`Candidates` and gives the rows of the captions it chooses, at most one of
each image. Its choice is usable as a set (``--set kcenter:100``), as a start (``distill.start kcenter``), and on its
own (``vldistill select``).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.errors import ConfigError, unknown

if TYPE_CHECKING:
    from vldistill.select.features import PairFeatures
    from vldistill.workbench import Workbench

WARMUP = ("warmup_epochs", "warmup_batch", "warmup_image_rate", "warmup_text_rate", "warmup_seed")


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
class Entry:
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


_SELECTORS: dict[str, Entry] = {}


def register(name: str, *, drawn: bool, reads: tuple[str, ...] = ()) -> Callable[[Choose], Choose]:
    """Register a selector under ``name``; its docstring's first line is its summary.

    Raises:
        ConfigError: a name that is taken or malformed, or an option that does not exist.
    """

    def add(choose: Choose) -> Choose:
        if name in _SELECTORS:
            raise ConfigError(f"selector {name!r} is registered twice: rename one of the two.")
        if not name.isidentifier() or not name.islower() or name in ("full", "real", "noise"):
            raise ConfigError(f"selector name {name!r}: expected a lower-case identifier, not full, real or noise.")
        for option in reads:
            if option not in SelectConfig.__dataclass_fields__:
                raise ConfigError(unknown(f"option of selector {name!r}", option, SelectConfig.__dataclass_fields__))
        _SELECTORS[name] = Entry(choose, drawn, reads, (choose.__doc__ or name).strip().splitlines()[0])
        return choose

    return add


@cache
def selectors() -> Mapping[str, Entry]:
    """Every selector by name: each module of this package is imported once."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_SELECTORS.items()))


def find_selector(name: str) -> Entry:
    """The entry of ``name``. Raises ConfigError with the nearest names."""
    known = selectors()
    if name not in known:
        raise ConfigError(unknown("selector", name, known))
    return known[name]


def check_count(images: int, pairs: int) -> None:
    """Refuse more pairs than there are images. Raises ConfigError."""
    if pairs > images:
        raise ConfigError(
            f"{pairs} pairs were asked for, but the train split has {images} images, "
            f"and the pairs of one set have distinct images. Ask for {images} or fewer."
        )


def check_readable(bench: Workbench, pairs: int) -> None:
    """Refuse more pairs than training images that can be read; they are decoded for that. Raises ConfigError."""
    readable, listed = bench.pixels("train").pairs.count_images, bench.pairs("train").count_images
    if readable < pairs <= listed:
        raise ConfigError(
            f"{pairs} pairs were asked for, but of the {listed} images of the train split {readable} can be read, "
            f"and the pairs of one set have distinct images. Ask for {readable} or fewer, or mend the others."
        )
    check_count(readable, pairs)


def check_ground(name: str, pairs: int, options: SelectConfig) -> None:
    """Refuse more pairs than a selector draws to choose among. Raises ConfigError."""
    for option in ("ground_set", "cluster_sample"):
        if option in find_selector(name).reads and getattr(options, option) < pairs:
            raise ConfigError(
                f"select.{option} is {getattr(options, option)}, fewer than the {pairs} pairs that {name} is to "
                f"choose. Ask for fewer pairs, or set select.{option} to {pairs} or more."
            )


def choose_pairs(
    bench: Workbench, name: str, count: int, seed: int, options: SelectConfig | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` training pairs chosen by the selector ``name``: image rows and caption rows, (count,) int64 each.

    Raises:
        ConfigError: an unknown selector, more pairs than readable images, or more than it draws to choose among.
    """
    from vldistill.select.candidates import TrainingCandidates

    options = options or SelectConfig()
    entry = find_selector(name)
    check_ground(name, count, options)
    check_readable(bench, count)
    candidates = TrainingCandidates(bench, options)
    captions = entry.choose(candidates, count, seed, options)
    return candidates.caption_image[captions], captions
