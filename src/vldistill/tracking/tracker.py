"""What a tracker is, the services there are, and those that a user asks for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vldistill.config.plain import Record
from vldistill.errors import ConfigError, MissingExtraError
from vldistill.registry import Registry


@dataclass(frozen=True)
class Subject:
    """One piece of work that is followed: one line in the list of runs that a service shows.

    Args:
        run: the run folder.
        name: what the service calls it, e.g. ``bilevel-100-s0``.
        stage: ``distill``, ``evaluate``, ``experts``, ...
        id: the same for all processes that work on it one after the other, and for nothing else.
        resumed: whether an earlier process has begun it.
        settings: what it was asked for.
    """

    run: Path
    name: str
    stage: str
    id: str
    resumed: bool = False
    settings: Record = field(default_factory=dict)


class Tracker(Protocol):
    """A service that follows one subject.

    Attributes:
        place: where the user finds it, in words.
    """

    place: str

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show ``values`` at ``step``; they are finite, and no step is given twice with the same names."""

    def picture(self, step: int, path: Path) -> None:
        """Show the PNG file ``path`` at ``step``."""

    def close(self, done: bool) -> None:
        """Write what is left; ``done`` is false where the work was stopped or failed."""


@dataclass(frozen=True)
class Service:
    """A kind of tracker.

    Args:
        name: what ``--log`` calls it, also the package's extra.
        package: the module that it needs.
        follow: opens a tracker.
    """

    name: str
    package: str
    follow: Callable[[Subject], Tracker]

    def check(self) -> None:
        """Raises MissingExtraError where the package is not installed."""
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:  # a folder of that name in the working directory is no package
            raise MissingExtraError(
                f'--log {self.name} needs the package {self.package}: pip install "vldistill[{self.name}]"'
            )


SERVICES: Registry[Service] = Registry("tracker", "vldistill.tracking.services")


def register(name: str, package: str) -> Callable[[type], type]:
    """Register a class whose instances are trackers, made of a :class:`Subject`."""

    def add(follow: type) -> type:
        SERVICES.add(name, Service(name, package, follow))
        return follow

    return add


def services(asked: str | Sequence[str] | None) -> tuple[Service, ...]:
    """The services of ``--log tensorboard,mlflow``, each once.

    Raises:
        ConfigError: an unknown name.
        MissingExtraError: a package that is not installed.
    """
    if asked is not None and not isinstance(asked, str | Sequence):
        raise ConfigError(f"log is {asked!r}; expected names such as {', '.join(SERVICES)}.")
    names = asked.split(",") if isinstance(asked, str) else asked or ()
    found = [SERVICES.find(name) for name in dict.fromkeys(str(name).strip() for name in names) if name]
    for service in found:
        service.check()
    return tuple(found)
