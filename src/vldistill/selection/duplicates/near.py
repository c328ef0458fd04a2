"""Photos that look the same: resized, recompressed or slightly changed, by their perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from vldistill.config import SelectConfig
from vldistill.data.sketches import BITS, LEVELS
from vldistill.selection.duplicate import KEPT, first_of_equal, register, resolved
from vldistill.selection.material import Material

HASH_BITS, MOST_BITS = 128, 15
AT_ONCE = 2_000_000  # pairs of items compared at a time
DIGESTS_AT_ONCE = 65_536


@register("near", threshold=BITS, limits=(0, MOST_BITS), unit="bits of 128 that may differ")
def near(parts: list[tuple[Material, np.ndarray]], threshold: float, options: SelectConfig) -> np.ndarray:
    """Photos whose 128-bit difference hashes differ in a few bits, and thumbnails of 16 x 16 by little."""
    sketches = [(material.sketches, rows) for material, rows in parts]
    hashes = np.concatenate([one.hashes[rows] for one, rows in sketches])
    return near_hashes(hashes, Thumbnails([(one.thumbnails, rows) for one, rows in sketches]), int(threshold))


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails (N, 256) uint8 of several splits, with the rows of each, as one list that is not copied."""

    parts: Sequence[tuple[np.ndarray, np.ndarray]]

    def take(self, items: np.ndarray) -> np.ndarray:
        """Those of ``items`` (B,) in any order, (B, 256) int16."""
        out, first = np.empty((len(items), 256), np.int16), 0
        for array, rows in self.parts:
            here = (items >= first) & (items < first + len(rows))
            out[here] = array[rows[items[here] - first]]
            first += len(rows)
        return out

    def digests(self) -> np.ndarray:
        """A hash of each, (K, 16) bytes."""
        found = [np.zeros((0, 16), np.uint8)]
        for array, rows in self.parts:
            for at in range(0, len(rows), DIGESTS_AT_ONCE):
                block = array[rows[at : at + DIGESTS_AT_ONCE]]
                raw = b"".join(blake2b(row, digest_size=16).digest() for row in block)
                found.append(np.frombuffer(raw, np.uint8).reshape(-1, 16))
        return np.concatenate(found)


def near_hashes(hashes: np.ndarray, thumbnails: Thumbnails, bits: int, levels: float = LEVELS) -> np.ndarray:
    """Who is dropped for whom, (K,) int64, see :mod:`..duplicate`.

    Hashes that differ in at most ``bits`` bits agree in at least one of ``bits`` + 1 bands of bits (Manku et al.,
    "Detecting near-duplicates for web crawling", WWW 2007): only pairs that agree in a band are compared.

    Args:
        hashes: (K, 16) uint8.
        thumbnails: of the same K items.
        bits: that may differ.
        levels: mean difference of thumbnails, of 255.
    """
    equal = first_of_equal(np.concatenate([hashes, thumbnails.digests()], 1))
    items = np.flatnonzero(equal == KEPT)  # equal ones are out of the way: a thousand blank photos are one
    words = np.ascontiguousarray(hashes[items]).view(np.uint64)
    edges = [np.zeros((0, 2), np.int64)]
    for band in _bands(hashes[items], bits + 1):
        for first, second in _pairs_in_groups(band):
            differing = np.bitwise_count(words[first] ^ words[second]).sum(1)
            fine = differing <= bits
            first, second = items[first[fine]], items[second[fine]]
            gaps = np.abs(thumbnails.take(first) - thumbnails.take(second)).mean(1) if len(first) else np.zeros(0)
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
