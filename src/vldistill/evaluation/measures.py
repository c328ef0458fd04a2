"""The six recalls, the accuracies, and what distilled pairs are worth: named and computed here, read everywhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from vldistill.config.plain import Plain, Record, entry
from vldistill.errors import ArtefactError

RECALLS = ("tr1", "tr5", "tr10", "ir1", "ir5", "ir10")
"""TR@K: an image is the query for its captions; IR@K: a caption is the query for its image; in percent."""
MEASURES = ("mean_recall", *RECALLS)
TITLES = ("mean recall", "TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10")
"""Of :data:`MEASURES`, in their order."""
ACCURACIES = ("top1", "top5", "balanced")
"""Of zero-shot classification: the nearest class, one of the nearest five, the mean over classes; in percent."""
TITLE_OF = {**dict(zip(MEASURES, TITLES)), **dict(zip(ACCURACIES, ("top-1", "top-5", "balanced")))}
"""Of every measure, by its name."""


def title_of(name: str, sides: Sequence[str] = ()) -> str:
    """The title of a measure; a recall by what is found, where the two sides have names of their own."""
    if len(sides) != 2 or name not in RECALLS:
        return TITLE_OF[name]
    found = sides[1] if name.startswith("tr") else sides[0]
    return f"{found} R@{name[2:]}"


def sides_note(sides: Sequence[str]) -> str:
    """What titles with names of sides mean; empty without any."""
    if len(sides) != 2:
        return ""
    first, second = sides
    return f"{second} R@K: {first} asks and {second} is found; {first} R@K: the other way"


@dataclass(frozen=True)
class Recalls:
    """The six recalls of one ranking and their mean, in percent."""

    tr1: float
    tr5: float
    tr10: float
    ir1: float
    ir5: float
    ir10: float
    mean_recall: float

    @classmethod
    def of(cls, recalls: Mapping[str, float]) -> Recalls:
        """The :data:`RECALLS` by name, with their mean."""
        return cls(**recalls, mean_recall=math.fsum(recalls.values()) / len(RECALLS))

    @classmethod
    def from_json(cls, value: Plain) -> Recalls:
        """The opposite of :meth:`to_json`. Raises ArtefactError where a recall is missing or not a number."""
        record = value if isinstance(value, Mapping) else {}
        return cls(**{name: number_in(record, name) for name in (*RECALLS, "mean_recall")})

    def to_json(self) -> dict[str, float]:
        """A JSON object."""
        return asdict(self)

    def measures(self) -> dict[str, float]:
        """The values of :data:`MEASURES`, in their order."""
        return {"mean_recall": self.mean_recall, **self.to_json()}


@dataclass(frozen=True)
class Accuracy:
    """Accuracies of one student, in percent.

    Args:
        top1: images whose class is nearest.
        top5: images whose class is among the nearest five; with five classes or fewer that is nearly all.
        balanced: the mean of the classes' own top-1.
    """

    top1: float
    top5: float
    balanced: float

    def to_json(self) -> dict[str, float]:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Plain) -> Accuracy:
        """The opposite of :meth:`to_json`. Raises ArtefactError."""
        record = value if isinstance(value, Mapping) else {}
        return cls(**{name: number_in(record, name) for name in ACCURACIES})


@dataclass(frozen=True)
class Figure:
    """Mean and sample standard deviation over students, in percent; a publication may report no deviation."""

    mean: float
    std: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Of the values of students."""
        mean = math.fsum(values) / len(values)
        return cls(mean, statistics.stdev(values) if len(values) > 1 else 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"

    def to_json(self) -> dict[str, float | None]:
        """A JSON object."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_json(cls, value: Plain) -> Figure | None:
        """The opposite of :meth:`to_json`; None where ``value`` holds no mean."""
        record = value if isinstance(value, Mapping) else {}
        mean = entry(record, "mean", int, float)
        return None if mean is None else cls(mean, entry(record, "std", int, float))


def number_in(record: Record, name: str) -> float:
    """A number of a result. Raises ArtefactError where it is missing."""
    found = entry(record, name, int, float)
    if found is None:
        raise ArtefactError(
            f"a result holds {record.get(name)!r} as {name!r}; expected a number. Delete its file and evaluate again."
        )
    return found


def ratio(mean: float | None, reference: float | None) -> float | None:
    """``mean`` over ``reference``: the gain over N random pairs for N pairs, or the share of the full data.

    None where one of the two is missing, or the reference found nothing.
    """
    return mean / reference if mean is not None and reference else None
