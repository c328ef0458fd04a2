"""The type of what a YAML or JSON file can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Plain: TypeAlias = "bool | int | float | str | Sequence[Plain] | Mapping[str, Plain] | None"
Record: TypeAlias = Mapping[str, Plain]
"""A JSON object, e.g. options by section."""


def section(record: Record, name: str) -> Record:
    """The object under ``name``; empty where there is none."""
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}


def expect(value: Plain, kind: type[T]) -> T:
    """``value`` if it is of type ``kind``. Raises TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value


def items(value: Plain) -> Sequence[Plain]:
    """``value`` if it is a list. Raises TypeError."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{value!r} is not a list")
    return value


def number(value: Plain) -> float:
    """``value`` as a float. Raises TypeError."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def entry(record: Record, name: str, *kinds: type[T]) -> T | None:
    """The value under ``name``; None where it is missing or of none of the ``kinds``."""
    found = record.get(name)
    return found if isinstance(found, kinds) else None
