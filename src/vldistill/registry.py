"""One registry for methods, selectors and readers: entries by name, each registered by a file of its own."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from vldistill.errors import ConfigError, unknown

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name, in alphabetical order.

    The first look-up imports every module of the ``packages``, and importing a module registers what it defines: to add
    an entry, add a file.

    Args:
        kind: what is registered, for messages: ``method``, ``selector``, ``reader``.
        packages: the dotted names of the packages whose modules register entries.
        reserved: names that mean something else where a user types one.
    """

    def __init__(self, kind: str, *packages: str, reserved: tuple[str, ...] = ()) -> None:
        self.kind, self.packages, self.reserved = kind, packages, reserved
        self._entries: dict[str, T] = {}
        self._discovered = False

    def add(self, name: str, entry: T) -> None:
        """Register ``entry`` under ``name``.

        Raises:
            ConfigError: the name is taken, reserved, or no lower-case identifier.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in self.reserved:
            but = f", and none of {', '.join(self.reserved)}" if self.reserved else ""
            raise ConfigError(f"{self.kind} name {name!r}: expected lower-case letters, digits and _{but}.")
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is registered twice. Rename one of the two.")
        self._entries[name] = entry

    def find(self, name: str) -> T:
        """The entry of ``name``. Raises ConfigError with the nearest names."""
        if name not in self:
            raise ConfigError(unknown(self.kind, name, self))
        return self[name]

    def __getitem__(self, name: str) -> T:
        self._discover()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True  # first: a module may look up what is registered so far
            for package in self.packages:
                for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                    importlib.import_module(f"{package}.{module.name}")


def summary_of(item: object, name: str) -> str:
    """The first line of the docstring of what is registered as ``name``. Raises ConfigError where it has none."""
    text = (item.__doc__ or "").strip()
    if not text:
        raise ConfigError(f"{name!r} needs a docstring: its first line is what `vldistill ls` shows.")
    return text.splitlines()[0]
