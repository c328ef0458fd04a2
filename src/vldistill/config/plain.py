"""The type of what a YAML or JSON file can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Plain: TypeAlias = "bool | int | float | str | Sequence[Plain] | Mapping[str, Plain] | None"
Record: TypeAlias = Mapping[str, Plain]
"""A JSON object, e.g. options by section."""


def section(record: Record, name: str) -> Record:
    """The object under ``name``; empty where there is none."""
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}
