"""Published rows: numbers of others, with source and setting; shown when asked for, always marked as published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from vldistill.errors import ConfigError, unknown

DATA = ("flickr8k", "flickr30k", "coco")
FILE = Path(__file__).with_name("published.yaml")


def published(data: Iterable[str] = DATA, pairs: Iterable[int] | None = None) -> list[dict[str, Any]]:
    """The rows of some data sets, and of some budgets if any are given; rows of the full data always.

    Each row has ``row``, ``data``, ``pairs`` (None: the full data), ``setting``, ``source``, and what its source
    reports: ``tr`` and ``ir`` (recalls at 1, 5, 10; None where not reported), ``mean_recall``, ``towers``,
    ``second_hand``.

    Raises:
        ConfigError: an unknown data set.
    """
    wanted = list(data)
    for name in wanted:
        if name not in DATA:
            raise ConfigError(unknown("data set with published rows", name, DATA))
    budgets = None if pairs is None else set(pairs)
    rows = yaml.safe_load(FILE.read_text(encoding="utf-8"))["rows"]
    return [
        row
        for row in rows
        if row["data"] in wanted and (budgets is None or row["pairs"] is None or row["pairs"] in budgets)
    ]


def data_of(source: str) -> list[str]:
    """The data set that a source's name tells, or all that have published rows."""
    known = [name for name in DATA if name in source.lower()]
    return known or list(DATA)
