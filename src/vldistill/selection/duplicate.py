"""The interface of detectors of duplicates, and how they are registered; see selection/duplicates/, one file each.

Items (images, or captions) are gone through in order, those of other splits first: an item that is too near to one that
was kept is dropped. So no two that are kept are near, every dropped one is near to a kept one, and the same data give
the same choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vldistill.config import SelectConfig
from vldistill.registry import Registry, summary_of
from vldistill.selection.material import Material

KEPT = -1

Find = Callable[[list[tuple[Material, np.ndarray]], float, SelectConfig], np.ndarray]
"""``find(parts, threshold, options)``: each part is a material with the rows of its items; the items of all parts in
order are numbered 0..K-1. Returns (K,) int64: :data:`KEPT`, or the number of the kept item that one is too near to."""


@dataclass(frozen=True)
class Detector:
    """A registered detector.

    Args:
        find: the function.
        of: what it compares.
        threshold: the usual one; None where there is nothing to choose.
        limits: lowest and highest threshold.
        unit: what the threshold counts.
        summary: one line for listings.
    """

    find: Find
    of: Literal["image", "caption"]
    threshold: float | None
    limits: tuple[float, float]
    unit: str
    summary: str


DETECTORS: Registry[Detector] = Registry("detector of duplicates", "vldistill.selection.duplicates")


def register(
    name: str,
    *,
    of: Literal["image", "caption"] = "image",
    threshold: float | None = None,
    limits: tuple[float, float] = (0.0, 0.0),
    unit: str = "",
) -> Callable[[Find], Find]:
    """Register a detector under ``name``; its docstring's first line is its summary.

    Raises:
        ConfigError: the name is taken or malformed, or there is no docstring.
    """

    def add(find: Find) -> Find:
        DETECTORS.add(name, Detector(find, of, threshold, limits, unit, summary_of(find, name)))
        return find

    return add


def first_of_equal(keys: np.ndarray) -> np.ndarray:
    """:data:`KEPT` for the first of equal ``keys``, the number of the first for the others, (K,) int64.

    Args:
        keys: (K, B) bytes, B a multiple of 8.
    """
    words = np.ascontiguousarray(keys).view(np.uint64)
    order = np.lexsort(words.T)  # stable: the first of equal ones comes first
    ordered = words[order]
    starts = np.ones(len(keys), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(1)
    first = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    owner = np.empty(len(keys), np.int64)
    owner[order] = np.where(first == order, KEPT, first)
    return owner


def resolved(edges: np.ndarray, count: int) -> np.ndarray:
    """Who is dropped for whom, (K,) int64, from pairs (E, 2) of near items.

    Args:
        edges: numbers of both items, in any order.
        count: K.
    """
    owner = np.full(count, KEPT, np.int64)
    low, high = edges.min(1), edges.max(1)
    order = np.lexsort((low, high))
    for later, earlier in zip(high[order].tolist(), low[order].tolist()):
        if owner[later] == KEPT and owner[earlier] == KEPT and later != earlier:
            owner[later] = earlier
    return owner
