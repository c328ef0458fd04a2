"""Sketches of pictures, by which near duplicates are found: resized, recompressed or slightly changed ones.

Two pictures are near duplicates when at most :data:`BITS` of the 128 bits of their difference hashes differ (whether a
pixel is brighter than its neighbour, on grids of 8 x 9 and 9 x 8 pixels) and grey thumbnails of 16 x 16 pixels differ
by at most :data:`LEVELS` of 255 in the mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

BITS, LEVELS = 6, 6.0
BATCH = 256
MOST_PAIRS = 2_000_000_000  # compared by brute force; beyond, queries are a regular sample
CHUNK = 64  # queries compared at a time
BITS_OF_BYTE = np.array([bin(value).count("1") for value in range(256)], np.uint8)


@dataclass(frozen=True)
class Sketches:
    """Hashes (N, 16) uint8 and grey thumbnails (N, 256) uint8 of the pictures of a split, with their names."""

    hashes: np.ndarray
    thumbnails: np.ndarray
    names: tuple[str, ...]


def sketch(batches: Iterable[np.ndarray], names: Iterable[str]) -> Sketches:
    """Sketches of uint8 pictures (B, 3, S, S), in order."""
    hashes, thumbnails = [np.zeros((0, 16), np.uint8)], [np.zeros((0, 256), np.uint8)]
    for batch in batches:
        grey = torch.from_numpy(np.ascontiguousarray(batch)).float().mean(1, keepdim=True)
        wide, tall = F.adaptive_avg_pool2d(grey, (8, 9)), F.adaptive_avg_pool2d(grey, (9, 8))
        across, down = wide[..., 1:] > wide[..., :-1], tall[:, :, 1:] > tall[:, :, :-1]
        bits = torch.cat([across.flatten(1), down.flatten(1)], dim=1)
        hashes.append(np.packbits(bits.numpy(), axis=1))
        thumbnails.append(F.adaptive_avg_pool2d(grey, (16, 16)).flatten(1).byte().numpy())
    return Sketches(np.concatenate(hashes), np.concatenate(thumbnails), tuple(names))


def near_duplicates(queries: Sketches, known: Sketches) -> tuple[list[tuple[int, int]], int]:
    """Pairs (query, known) that are near duplicates, one for each query that has any; and how many were compared."""
    every = max(1, -(-len(queries.hashes) * len(known.hashes) // MOST_PAIRS))
    rows = np.arange(0, len(queries.hashes), every)
    found: list[tuple[int, int]] = []
    for chunk in np.array_split(rows, max(1, -(-len(rows) // CHUNK))):
        differing = BITS_OF_BYTE[queries.hashes[chunk, None] ^ known.hashes].sum(2, dtype=np.uint16)  # (Q, K)
        for place, candidates in ((place, np.flatnonzero(row <= BITS)) for place, row in enumerate(differing)):
            if not len(candidates):
                continue
            query = int(chunk[place])
            gaps = np.abs(known.thumbnails[candidates] - queries.thumbnails[query].astype(np.int16)).mean(1)
            if gaps.min() <= LEVELS:
                found.append((query, int(candidates[gaps.argmin()])))
    return found, len(rows)
