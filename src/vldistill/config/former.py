"""Option names of earlier versions: files that carry them are read as if they were written today.

Configurations, sets, results and cells keep the names of the version that wrote them. Whoever reads options from a
file passes them through :func:`current`; ids that were made of options are made of :func:`as_before`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from vldistill.errors import ConfigError

T = TypeVar("T")

RENAMED: dict[str, str] = {
    "bitraj.own_steps": "bitraj.persistent_steps",
    "bitraj.walkers": "bitraj.persistent_students",
    "evaluate.looks": "evaluate.max_validations",
}
"""Former dotted names, and today's."""

GONE: dict[str, Any] = {"select.warmup_batch": 128, "select.warmup_seed": 0, "select.gallery": 128}
"""Options that are no more, and the value that is built in."""


def later(default: T, *, neutral: T) -> T:
    """A field for an option that came after others: ids omit it at the value that changes nothing, ``neutral``.

    That is not its default: a default may change, and then the ids of what it is used for have to.
    """
    return field(default=default, metadata={"neutral": neutral})


def without_neutral(section: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """A section's plain values without the options that came later and change nothing."""
    neutral = {option.name: option.metadata["neutral"] for option in fields(section) if "neutral" in option.metadata}
    return {name: value for name, value in plain.items() if name not in neutral or neutral[name] != value}


def current(options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Options by section, read from a file, under today's names.

    Args:
        options: sections as mappings; other values pass.
        where: they stand, for the message.

    Raises:
        ConfigError: an option that is no more had another value than what is built in.
    """
    out: dict[str, Any] = {}
    for section, part in options.items():
        if not isinstance(part, Mapping):
            out[section] = part
            continue
        for name, value in part.items():
            dotted = f"{section}.{name}"
            if dotted in GONE:
                _refuse_gone(dotted, value, where)
                out.setdefault(section, {})
                continue
            new_section, _, new_name = RENAMED.get(dotted, dotted).partition(".")
            out.setdefault(new_section, {})[new_name] = value
        out.setdefault(section, {})
    return out


def _refuse_gone(name: str, value: Any, where: str) -> None:
    if value != GONE[name]:
        raise ConfigError(
            f"{where + ': ' if where else ''}{name} is {value!r}, but it is no option any more: it is always "
            f"{GONE[name]!r}. Leave it out."
        )


def as_before(options: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of :func:`current`, for ids: former names, and options that are gone at their value."""
    former = {new: old for old, new in RENAMED.items()}
    out: dict[str, Any] = {}
    for section, part in options.items():
        if not isinstance(part, Mapping):
            out[section] = part
            continue
        out.setdefault(section, {})
        for name, value in part.items():
            old_section, _, old_name = former.get(f"{section}.{name}", f"{section}.{name}").partition(".")
            out.setdefault(old_section, {})[old_name] = value
    for name, value in GONE.items():
        section, _, option = name.partition(".")
        if section in out:
            out[section][option] = value
    return out


def successor(name: str) -> str:
    """What became of an option that a user typed, as a sentence; empty for a name that never was one."""
    if name in RENAMED:
        return f"{name} is called {RENAMED[name]} now."
    return f"{name} is no option any more: it is always {GONE[name]!r}." if name in GONE else ""
