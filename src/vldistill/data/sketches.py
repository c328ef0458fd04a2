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
