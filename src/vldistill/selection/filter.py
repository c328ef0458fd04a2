"""The interface of filters: what they measure, and how they are registered; see selection/filters/, one file each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vldistill.registry import Registry, summary_of
from vldistill.selection.material import Material

Measure = Callable[[Material], np.ndarray]
"""The values of all images (N,), or of all captions (M,): numbers as float64, or texts."""


@dataclass(frozen=True)
class Filter:
    """A registered filter.

    Args:
        measure: the function.
        of: what has a value.
        texts: whether the values are texts; otherwise they are numbers.
        costly: whether pictures are decoded or a student is trained for it.
        summary: one line for listings.
        check: refuses what cannot be measured, before anything is.
    """

    measure: Measure
    of: Literal["image", "caption"]
    texts: bool
    costly: bool
    summary: str
    check: Callable[[Material], None] | None = None


FILTERS: Registry[Filter] = Registry("filter", "vldistill.selection.filters")


def register(
    name: str,
    *,
    of: Literal["image", "caption"],
    texts: bool = False,
    costly: bool = False,
    check: Callable[[Material], None] | None = None,
) -> Callable[[Measure], Measure]:
    """Register what a function measures under ``name``; its docstring's first line is its summary.

    Raises:
        ConfigError: the name is taken or malformed, or there is no docstring.
    """

    def add(measure: Measure) -> Measure:
        FILTERS.add(name, Filter(measure, of, texts, costly, summary_of(measure, name), check))
        return measure

    return add
