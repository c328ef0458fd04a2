"""Option names of earlier versions: files that carry them are read as if they were written today.

Configurations, sets, results and cells keep the names of the version that wrote them. Whoever reads options from a
file passes them through :func:`current`; ids that were made of options are made of :func:`as_before`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import TypeVar

from vldistill.config.plain import Plain, Record
from vldistill.errors import ConfigError

T = TypeVar("T")

RENAMED: dict[str, str] = {
    "bitraj.own_steps": "bitraj.persistent_steps",
    "bitraj.walkers": "bitraj.persistent_students",
    "evaluate.looks": "evaluate.max_validations",
}
"""Former dotted names, and today's."""

GONE: dict[str, Plain] = {"select.warmup_batch": 128, "select.warmup_seed": 0, "select.gallery": 128}
"""Options that are no more, and the value that is built in."""


def later(default: T, *, neutral: T) -> T:
    """A field for an option that came after others: ids omit it at the value that changes nothing, ``neutral``.

    That is not its default: a default may change, and then the ids of what it is used for have to.
    """
    return field(default=default, metadata={"neutral": neutral})


def before_it_came(section: type) -> dict[str, Plain]:
    """The options of a section that came later, at the value that changes nothing: what files without them meant."""
    return {option.name: option.metadata["neutral"] for option in fields(section) if "neutral" in option.metadata}


def without_neutral(section: type, plain: Record) -> dict[str, Plain]:
    """A section's plain values without the options that came later and change nothing."""
    neutral = {name: _listed(value) for name, value in before_it_came(section).items()}
    same = {name for name, value in plain.items() if name in neutral and neutral[name] == _listed(value)}
    return {name: value for name, value in plain.items() if name not in same}


def _listed(value: Plain) -> Plain:
    """A value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def without_empty(section: type, plain: Record) -> dict[str, Plain]:
    """A section's plain values without lists that came later and are empty: files and keys hold no trace of them."""
    lists = {name for name, neutral in before_it_came(section).items() if neutral == ()}
    return {name: value for name, value in plain.items() if name not in lists or value}


def current(options: Record, where: str = "") -> dict[str, Plain]:
    """Options by section, read from a file, under today's names.

    Args:
        options: sections as mappings; other values pass.
        where: they stand, for the message.

    Raises:
        ConfigError: an option that is no more had another value than what is built in.
    """
    renamed = _Sections()
    for section, part in options.items():
        if not isinstance(part, Mapping):
            renamed.options[section] = part
            continue
        for name, value in part.items():
            dotted = f"{section}.{name}"
            if dotted in GONE:
                _refuse_gone(dotted, value, where)
            else:
                renamed.put(RENAMED.get(dotted, dotted), value)
        renamed.section(section)
    return renamed.options


class _Sections:
    """Options by section, put by dotted name, in that order."""

    def __init__(self) -> None:
        self.options: dict[str, Plain] = {}
        self._sections: dict[str, dict[str, Plain]] = {}

    def section(self, name: str) -> dict[str, Plain]:
        if name not in self._sections:
            self.options[name] = self._sections[name] = {}
        return self._sections[name]

    def put(self, dotted: str, value: Plain) -> None:
        section, _, name = dotted.partition(".")
        self.section(section)[name] = value


def _refuse_gone(name: str, value: Plain, where: str) -> None:
    if value != GONE[name]:
        raise ConfigError(
            f"{where + ': ' if where else ''}{name} is {value!r}, but it is no option any more: it is always "
            f"{GONE[name]!r}. Leave it out."
        )


def as_before(options: Record) -> dict[str, Plain]:
    """The opposite of :func:`current`, for ids: former names, and options that are gone at their value."""
    former = {new: old for old, new in RENAMED.items()}
    renamed = _Sections()
    for section, part in options.items():
        if not isinstance(part, Mapping):
            renamed.options[section] = part
            continue
        renamed.section(section)
        for name, value in part.items():
            renamed.put(former.get(f"{section}.{name}", f"{section}.{name}"), value)
    for name, value in GONE.items():
        if name.partition(".")[0] in renamed.options:
            renamed.put(name, value)
    return renamed.options


def successor(name: str) -> str:
    """What became of an option that a user typed, as a sentence; empty for a name that never was one."""
    if name in RENAMED:
        return f"{name} is called {RENAMED[name]} now."
    return f"{name} is no option any more: it is always {GONE[name]!r}." if name in GONE else ""
