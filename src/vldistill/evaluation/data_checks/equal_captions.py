"""Captions that stand in two splits."""

from __future__ import annotations

from collections.abc import Mapping

from vldistill.data.pairs import Pairs
from vldistill.evaluation.data_checks.check import Check

EXAMPLES = 3
SHARE = 0.01  # of a split's captions that may also be in train without a flag


def check_equal_captions(splits: Mapping[str, Pairs]) -> Check:
    """Score: val and test captions that are also in train, whatever their case and white space."""
    train = {_plain(caption) for caption in splits["train"].captions}
    found = {name: [c for c in splits[name].captions if _plain(c) in train] for name in ("val", "test")}
    count = sum(map(len, found.values()))
    flag = any(len(found[name]) > SHARE * splits[name].count_captions for name in found)
    parts = [f"{len(found[name]):,} of {splits[name].count_captions:,} {name} captions" for name in found]
    summary = f"{' and '.join(parts)} are also captions of training images."
    examples = [f"{name}: {caption!r}" for name in found for caption in dict.fromkeys(found[name])][:EXAMPLES]
    return Check("equal captions across splits", count, flag, summary, tuple(examples))


def _plain(caption: str) -> str:
    return " ".join(caption.casefold().split())
