"""Photos in two splits, also resized, recompressed or slightly changed; see :mod:`vldistill.data.sketches`."""

from __future__ import annotations

from collections.abc import Mapping

from vldistill.data.sketches import BATCH as BATCH
from vldistill.data.sketches import BITS, LEVELS, Sketches, near_duplicates
from vldistill.data.sketches import sketch as sketch
from vldistill.evaluation.data_checks.check import Check

EXAMPLES = 3


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
