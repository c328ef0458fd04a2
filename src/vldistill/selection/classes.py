"""The classes of pairs that were chosen from a class set."""

from __future__ import annotations

from collections.abc import Sequence

from vldistill.distilled.pair_classes import PairClasses
from vldistill.workbench.bench import Workbench


def pair_classes(bench: Workbench, captions: Sequence[str | Sequence[str]]) -> PairClasses | None:
    """The classes of pairs by their captions, which are prompts; None where the data are no class set."""
    if not bench.has_classes:
        return None
    pairs = bench.pixels("train").pairs
    assert pairs.classes is not None
    known = dict(zip(pairs.captions, pairs.classes.labels[pairs.caption_image].tolist()))
    return PairClasses.of_captions(captions, pairs.classes.names, known)
