"""The highest recalls that any student can reach, given equal captions: a tie counts against the match."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vldistill.data.pairs import Pairs
from vldistill.evaluation.data_checks.check import Check
from vldistill.evaluation.measures import TITLES, Recalls
from vldistill.evaluation.retrieval import CUTOFFS

LOST = 0.5  # percentage points of the mean recall that equal captions may take without a flag


def recall_ceiling(pairs: Pairs) -> Recalls:
    """The recalls of a perfect student.

    Equal captions have equal embeddings. An image's best caption is behind as many captions as equal ones belong to
    other images. As a query, a text that belongs to n images is one ranking of n right answers, each of which counts
    for its own caption alone: at most K of them are among the first K.
    """
    texts = Counter(pairs.captions)
    own = Counter(zip(pairs.caption_image.tolist(), pairs.captions))
    behind = np.full(pairs.count_images, np.iinfo(np.int64).max)
    for (image, text), count in own.items():
        behind[image] = min(behind[image], texts[text] - count)
    entries: dict[str, list[int]] = {}  # of every text, how many captions of each of its images
    for (_, text), count in own.items():
        entries.setdefault(text, []).append(count)
    recalls = {f"tr{k}": 100.0 * float((behind < k).mean()) for k in CUTOFFS}
    for k in CUTOFFS:
        found = sum(sum(sorted(counts, reverse=True)[:k]) for counts in entries.values())
        recalls[f"ir{k}"] = 100.0 * found / pairs.count_captions
    return Recalls.of(recalls)


def check_recall_ceiling(test: Pairs) -> Check:
    """Score: the mean recall of a perfect student."""
    ceiling = recall_ceiling(test)
    equal = test.count_captions - len(set(test.captions))
    if not equal:
        return Check("recall ceiling", 100.0, False, "All test captions differ: every recall can reach 100.")
    shown = ", ".join(f"{title} {getattr(ceiling, title.lower().replace('@', '')):.0f}" for title in TITLES[1:])
    summary = (
        f"{equal:,} of {test.count_captions:,} test captions repeat another one, and ties count against the match: no "
        f"student can exceed a mean recall of {ceiling.mean_recall:.1f} ({shown})."
    )
    most = [f"{count} x {text!r}" for text, count in Counter(test.captions).most_common(3)]
    return Check("recall ceiling", ceiling.mean_recall, ceiling.mean_recall < 100 - LOST, summary, tuple(most))
