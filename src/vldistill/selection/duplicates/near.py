"""Photos that look the same: resized, recompressed or slightly changed, by their perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vldistill.config import SelectConfig
from vldistill.data.sketches import BITS, LEVELS
from vldistill.selection.duplicate import KEPT, first_of_equal, register, resolved
from vldistill.selection.material import Material

HASH_BITS, MOST_BITS = 128, 15
AT_ONCE = 2_000_000  # pairs of items compared at a time


@register("near", threshold=BITS, limits=(0, MOST_BITS), unit="bits of 128 that may differ")
def near(parts: list[tuple[Material, np.ndarray]], threshold: float, options: SelectConfig) -> np.ndarray:
    """Photos whose 128-bit difference hashes differ in a few bits, and thumbnails of 16 x 16 by little."""
    sketches = [(material.sketches, rows) for material, rows in parts]
    hashes = np.concatenate([one.hashes[rows] for one, rows in sketches])
    thumbnails = np.concatenate([one.thumbnails[rows] for one, rows in sketches])
    return near_hashes(hashes, thumbnails, int(threshold))


def near_hashes(hashes: np.ndarray, thumbnails: np.ndarray, bits: int, levels: float = LEVELS) -> np.ndarray:
    """Who is dropped for whom, (K,) int64, see :mod:`..duplicate`.

    Hashes that differ in at most ``bits`` bits agree in at least one of ``bits`` + 1 bands of bits (Manku et al.,
    "Detecting near-duplicates for web crawling", WWW 2007): only pairs that agree in a band are compared.

    Args:
        hashes: (K, 16) uint8.
        thumbnails: (K, 256) uint8.
        bits: that may differ.
        levels: mean difference of thumbnails, of 255.
    """
    equal = first_of_equal(np.ascontiguousarray(np.concatenate([hashes, thumbnails], 1)).view("V272")[:, 0])
    items = np.flatnonzero(equal == KEPT)  # equal ones are out of the way: a thousand blank photos are one
    words = np.ascontiguousarray(hashes[items]).view(np.uint64)
    edges = [np.zeros((0, 2), np.int64)]
    for band in _bands(hashes[items], bits + 1):
        for first, second in _pairs_in_groups(band):
            differing = np.bitwise_count(words[first] ^ words[second]).sum(1)
            fine = differing <= bits
            first, second = items[first[fine]], items[second[fine]]
            gaps = (
                np.abs(thumbnails[first].astype(np.int16) - thumbnails[second]).mean(1) if len(first) else np.zeros(0)
            )
            edges.append(np.stack([first, second], 1)[gaps <= levels])
    near_ones = resolved(np.unique(np.concatenate(edges), axis=0), len(hashes))
    twins = np.flatnonzero(equal != KEPT)
    owner = near_ones.copy()
    leader = equal[twins]
    owner[twins] = np.where(near_ones[leader] == KEPT, leader, near_ones[leader])
    return owner


def _bands(hashes: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Keys (K,) uint64 of ``count`` bands of nearly as many bits each."""
    for columns in np.array_split(np.arange(HASH_BITS), count):
        first, last = columns[0] // 8, columns[-1] // 8
        bits = np.unpackbits(hashes[:, first : last + 1], axis=1)[:, columns - 8 * first]
        keys = np.zeros(len(hashes), np.uint64)
        for start in range(0, bits.shape[1], 64):
            part = np.packbits(bits[:, start : start + 64], axis=1)
            padded = np.zeros((len(hashes), 8), np.uint8)
            padded[:, : part.shape[1]] = part
            keys = keys * np.uint64(0x9E3779B97F4A7C15) ^ padded.view(np.uint64)[:, 0]
        yield keys


def _pairs_in_groups(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of items with the same key, a few million at a time."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ends = np.searchsorted(ordered, ordered, side="right")  # of each place, where its group ends
    followers = ends - np.arange(len(keys)) - 1
    total = np.cumsum(followers)
    start = 0
    while start < len(keys):
        before = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + AT_ONCE, side="right")))
        counts = followers[start:stop]
        first = np.repeat(np.arange(start, stop), counts)
        offset = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        if len(first):
            yield order[first], order[first + 1 + offset]
        start = stop
