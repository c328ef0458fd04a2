"""The classes of a set's pairs, as ``set.json`` records them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vldistill.config.plain import Plain, entry
from vldistill.errors import ArtefactError


@dataclass(frozen=True)
class PairClasses:
    """The classes that a class set was made of, and that of each pair, where it started.

    Args:
        names: of the K classes.
        labels: of the N pairs, 0..K-1; None for a pair that started as noise.
    """

    names: tuple[str, ...]
    labels: tuple[int | None, ...]

    @property
    def keys(self) -> list[int]:
        """A number for each pair, equal for pairs of one class alone."""
        return [-1 - row if label is None else label for row, label in enumerate(self.labels)]

    def to_json(self) -> dict[str, Plain]:
        """A JSON object."""
        return {"names": list(self.names), "labels": list(self.labels)}

    @classmethod
    def of(cls, info: Mapping[str, object], pairs: int) -> PairClasses | None:
        """The classes in a set's ``info``; None where it is no class set. Raises ArtefactError for other values."""
        found = info.get("classes")
        if found is None:
            return None
        record = found if isinstance(found, Mapping) else {}
        names, labels = (entry(record, part, list) or [] for part in ("names", "labels"))
        known = bool(names) and all(isinstance(name, str) for name in names)
        if not known or len(labels) != pairs or not all(_is_label(label, len(names)) for label in labels):
            raise ArtefactError(
                f"distilled set: info.classes is {str(found)[:80]!r}; expected names, and the class of each of "
                f"{pairs} pairs. Make the set again."
            )
        return cls(tuple(names), tuple(labels))

    @classmethod
    def of_captions(
        cls, captions: Sequence[str | Sequence[str]], names: Sequence[str], known: Mapping[str, int]
    ) -> PairClasses:
        """The classes of pairs by the captions they start with; ``known`` is the class of every prompt."""
        first = [caption if isinstance(caption, str) else caption[0] for caption in captions]
        return cls(tuple(names), tuple(known.get(text) for text in first))


def _is_label(value: object, count: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count)
