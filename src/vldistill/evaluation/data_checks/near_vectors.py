"""Images that stand in two splits, of pairs that are given by their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vldistill.data.vectors import AT_ONCE, Vectors
from vldistill.evaluation.data_checks.check import Check

COSINE = 0.999  # float16 and another batch change less
EXAMPLES = 3
MOST_PAIRS = 300_000_000  # compared by brute force; beyond, queries are a regular sample


def nearest_twins(queries: Vectors, known: Vectors) -> tuple[list[tuple[int, int]], int]:
    """Pairs (query, known) with nearly the same vector, one for each query that has any; and how many were compared."""
    every = max(1, -(-len(queries) * len(known) // MOST_PAIRS))
    rows = np.arange(0, len(queries), every)
    wanted = _unit(queries.read(rows))
    best, where = np.full(len(rows), -2.0, np.float32), np.zeros(len(rows), np.int64)
    start = 0
    for chunk in known.chunks(AT_ONCE):
        cosines = wanted @ _unit(chunk).T
        here = cosines.argmax(1)
        found = cosines[np.arange(len(rows)), here]
        where = np.where(found > best, here + start, where)
        best = np.maximum(found, best)
        start += len(chunk)
    twins = np.flatnonzero(best >= COSINE)
    return [(int(rows[twin]), int(where[twin])) for twin in twins], len(rows)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check_near_vectors(splits: Mapping[str, Vectors], names: Mapping[str, Sequence[str]]) -> Check:
    """Score: val and test images whose vector is nearly that of a training image."""
    count, parts, examples = 0, list[str](), list[str]()
    for name in ("val", "test"):
        found, compared = nearest_twins(splits[name], splits["train"])
        count += len(found)
        sampled = "" if compared == len(splits[name]) else f" (of {compared:,} that were compared)"
        parts.append(f"{len(found):,} of {len(splits[name]):,} {name} images{sampled}")
        examples += [f"{name}: {names[name][query]} and {names['train'][row]}" for query, row in found[:EXAMPLES]]
    summary = f"{' and '.join(parts)} have nearly the vector of a training image (cosine {COSINE:g} or more)."
    return Check("near-duplicate photos across splits", count, count > 0, summary, tuple(examples[:EXAMPLES]))
