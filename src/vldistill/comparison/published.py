"""Published rows: numbers of other papers, with source and setting; shown on request, always marked as published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from vldistill.config.plain import Record, entry
from vldistill.errors import ConfigError, unknown
from vldistill.evaluation.measures import RECALLS

DATA = ("flickr8k", "flickr30k", "coco")
FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """A published row; ``recalls`` in percent by name, None where its source does not report them.

    Args:
        pairs: its budget; None for the full data.
        mean_recall: as reported; None where the source reports recalls alone.
        second_hand: whether the source quotes another publication.
        place: where it was read: in the ``paper``, its ``abstract``, or a ``page`` about it.
        note: what it reports in other numbers.
    """

    row: str
    data: str
    pairs: int | None
    setting: str
    source: str
    recalls: Mapping[str, float | None]
    mean_recall: float | None
    towers: str
    second_hand: bool
    place: str = "paper"
    note: str = ""

    @classmethod
    def read(cls, record: Record) -> Published:
        """An entry of the file."""
        values = [*(entry(record, "tr", list) or [None] * 3), *(entry(record, "ir", list) or [None] * 3)]
        texts = {name: entry(record, name, str) or "" for name in ("row", "data", "setting", "source")}
        return cls(
            **texts,
            pairs=entry(record, "pairs", int),
            recalls=dict(zip(RECALLS, values, strict=True)),
            mean_recall=entry(record, "mean_recall", int, float),
            towers=entry(record, "towers", str) or "-",
            second_hand=bool(record.get("second_hand")),
            place=entry(record, "read", str) or "paper",
            note=entry(record, "note", str) or "",
        )

    @property
    def mean(self) -> float | None:
        """Mean recall: as reported, else computed where all six recalls are reported."""
        known = [value for value in self.recalls.values() if value is not None]
        return sum(known) / 6 if self.mean_recall is None and len(known) == 6 else self.mean_recall


def published(data: Iterable[str] = DATA, pairs: Iterable[int] | None = None) -> list[Published]:
    """The rows of some data sets, and of some budgets if any are given; rows of the full data always.

    Raises:
        ConfigError: an unknown data set.
    """
    wanted = list(data)
    for name in wanted:
        if name not in DATA:
            raise ConfigError(unknown("data set with published rows", name, DATA))
    budgets = None if pairs is None else {None, *pairs}
    rows = map(Published.read, yaml.safe_load(FILE.read_text(encoding="utf-8"))["rows"])
    return [row for row in rows if row.data in wanted and (budgets is None or row.pairs in budgets)]


def data_of(source: str) -> list[str]:
    """The data set that a source's name contains, or all that have published rows."""
    known = [name for name in DATA if name in source.lower()]
    return known or list(DATA)
