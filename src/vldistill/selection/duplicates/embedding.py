"""Photos that show the same, by the distance of their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.errors import ConfigError
from vldistill.selection.duplicate import KEPT, register
from vldistill.selection.material import Material

THRESHOLD = 0.95
MOST = 300_000  # items compared all with all; more take hours
BLOCK = 1024


@register("embedding", threshold=THRESHOLD, limits=(-1, 1), unit="cosine from which two photos are one")
def embedding(parts: list[tuple[Material, np.ndarray]], threshold: float, options: SelectConfig) -> np.ndarray:
    """Photos whose standardised features of the frozen tower have a cosine near 1; all are compared with all."""
    count = sum(len(rows) for _, rows in parts)
    if count > MOST:
        raise ConfigError(
            f"select.deduplicate embedding compares all photos with all, and there are {count:,}; expected at most "
            f"{MOST:,}. Use semantic={threshold:g}, which compares within clusters."
        )
    return near_features(Rows.of(parts).take(np.arange(count)), threshold)


@dataclass(frozen=True)
class Rows:
    """Features of items of several materials as those of one list, read when asked for.

    Args:
        parts: of each what gives features (B, D) of rows (B,), and the rows of its items.
    """

    parts: Sequence[tuple[Callable[[torch.Tensor], torch.Tensor], np.ndarray]]

    @staticmethod
    def of(parts: Sequence[tuple[Material, np.ndarray]]) -> Rows:
        """Of images' features."""
        return Rows([(material.image_rows, rows) for material, rows in parts])

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    def take(self, items: np.ndarray) -> torch.Tensor:
        """Features (B, D) float32 of ``items`` (B,), ascending numbers in the list."""
        found, first = list[torch.Tensor](), 0
        for read, rows in self.parts:
            here = items[np.searchsorted(items, first) : np.searchsorted(items, first + len(rows))] - first
            if len(here):
                found.append(read(torch.from_numpy(rows[here])))
            first += len(rows)
        return torch.cat(found)


def near_features(features: torch.Tensor, threshold: float) -> np.ndarray:
    """Who is dropped for whom, (K,) int64, among unit ``features`` (K, D), block by block."""
    owner = np.full(len(features), KEPT, np.int64)
    kept = torch.empty(0, features.shape[1])
    numbers = np.empty(0, np.int64)
    for start in range(0, len(features), BLOCK):
        block = features[start : start + BLOCK].float()
        mine = owner[start : start + BLOCK]
        for at in range(0, len(kept), 16 * BLOCK):
            best, where = (block @ kept[at : at + 16 * BLOCK].T).max(1)
            hit = (best.numpy() >= threshold) & (mine == KEPT)
            mine[hit] = numbers[at + where.numpy()[hit]]
        close = (block @ block.T).numpy() >= threshold
        for row in np.flatnonzero(mine == KEPT):
            earlier = np.flatnonzero(close[row, :row] & (mine[:row] == KEPT))
            if len(earlier):
                mine[row] = start + earlier[0]
        fresh = np.flatnonzero(mine == KEPT)
        kept = torch.cat([kept, block[fresh]])
        numbers = np.concatenate([numbers, start + fresh])
    return owner
