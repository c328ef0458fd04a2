"""What a step of the pipeline kept and dropped, with examples: for the command line, the set's record, the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vldistill.config.plain import Plain
from vldistill.data.pairs import Pairs

EXAMPLES = 3


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        name: what was asked for, as the user wrote it.
        seen: pairs before it.
        kept: pairs after it.
        images: images that have a pair after it.
        examples: of what it dropped.
        note: what else there is to know, such as the threshold that a percentile stands for.
    """

    name: str
    seen: int
    kept: int
    images: int
    examples: tuple[str, ...] = ()
    note: str = ""

    @property
    def dropped(self) -> int:
        """Pairs that it dropped."""
        return self.seen - self.kept

    def to_json(self) -> dict[str, Plain]:
        """A JSON object."""
        return {**asdict(self), "dropped": self.dropped, "examples": list(self.examples)}

    def line(self) -> str:
        """For the command line."""
        shown = f"; dropped e.g. {'; '.join(self.examples)}" if self.examples else ""
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.name}{note}: {self.kept:,} of {self.seen:,} pairs kept, {self.images:,} images, "
            f"{self.dropped:,} dropped{shown}"
        )


def shown_pair(pairs: Pairs, row: int, why: str = "") -> str:
    """A caption with its image, to show; ``why`` it was dropped."""
    caption = pairs.captions[row]
    short = caption if len(caption) <= 60 else f"{caption[:60]}…"
    return f"{pairs.images.names[int(pairs.caption_image[row])]} {short!r}" + (f" {why}" if why else "")


def step_of(
    name: str, pairs: Pairs, before: np.ndarray, after: np.ndarray, note: str = "", why: Sequence[str] = ()
) -> Step:
    """The record of a step that turned the mask ``before`` (M,) bool into ``after``.

    Args:
        why: for the first dropped rows, in their order, what is said of each.
    """
    dropped = np.flatnonzero(before & ~after)[:EXAMPLES]
    reasons = [*why[:EXAMPLES], *[""] * EXAMPLES]
    examples = tuple(shown_pair(pairs, int(row), reason) for row, reason in zip(dropped, reasons))
    images = len(np.unique(pairs.caption_image[after]))
    return Step(name, int(before.sum()), int(after.sum()), images, examples, note)
