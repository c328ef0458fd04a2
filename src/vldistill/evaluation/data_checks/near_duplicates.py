"""Photos in two splits, also resized, recompressed or slightly changed; see :mod:`vldistill.data.sketches`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vldistill.data.sketches import BATCH as BATCH
from vldistill.data.sketches import BITS, LEVELS, Sketches
from vldistill.data.sketches import sketch as sketch
from vldistill.evaluation.data_checks.check import Check

EXAMPLES = 3
MOST_PAIRS = 2_000_000_000  # compared by brute force; beyond, queries are a regular sample
CHUNK = 64  # queries compared at a time
BITS_OF_BYTE = np.array([bin(value).count("1") for value in range(256)], np.uint8)


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


def check_near_duplicates(splits: Mapping[str, Sketches]) -> Check:
    """Score: val and test photos that have a near duplicate in train."""
    count, parts, examples, flag = 0, list[str](), list[str](), False
    for name in ("val", "test"):
        found, compared = near_duplicates(splits[name], splits["train"])
        count += len(found)
        flag = flag or bool(found)
        sampled = "" if compared == len(splits[name].names) else f" (of {compared:,} that were compared)"
        parts.append(f"{len(found):,} of {len(splits[name].names):,} {name} photos{sampled}")
        examples += [f"{name}: {splits[name].names[query]} and {splits['train'].names[row]}" for query, row in found]
    summary = (
        f"{' and '.join(parts)} are near duplicates of training photos (difference hashes differ in at most {BITS} of "
        f"128 bits, thumbnails by {LEVELS:g} of 255)."
    )
    return Check("near-duplicate photos across splits", count, flag, summary, tuple(examples[:EXAMPLES]))
