"""What a student is chosen by on val: the mean recall, or on a class set the zero-shot top-1 accuracy."""

from __future__ import annotations

from vldistill.config.plain import Record, entry

MEAN_RECALL, TOP1 = "mean_recall", "top1"
IN_WORDS = {MEAN_RECALL: "mean recall", TOP1: "zero-shot top-1"}


def val_key(measure: str) -> str:
    """The name of a measure on val in records."""
    return f"val_{measure}"


def val_score(record: Record) -> float | None:
    """The figure on val in a record, whichever measure it is of."""
    found = (entry(record, val_key(measure), int, float) for measure in IN_WORDS)
    return next((float(score) for score in found if score is not None), None)


def val_measure(record: Record) -> str:
    """The measure that a record has its figure on val of."""
    return next((measure for measure in IN_WORDS if val_key(measure) in record), MEAN_RECALL)
