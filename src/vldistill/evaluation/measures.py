"""The six recalls, and what distilled pairs are worth: named and computed here, read everywhere."""

from __future__ import annotations

RECALLS = ("tr1", "tr5", "tr10", "ir1", "ir5", "ir10")
"""TR@K: an image looks for its captions; IR@K: a caption looks for its image; in percent."""
MEASURES = ("mean_recall", *RECALLS)
TITLES = ("mean recall", "TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10")
"""Of :data:`MEASURES`, in their order."""


def ratio(mean: float | None, reference: float | None) -> float | None:
    """``mean`` over ``reference``: the gain over as many random pairs, or the share of the full data.

    None where one of the two is missing, or the reference found nothing.
    """
    return mean / reference if mean is not None and reference else None
