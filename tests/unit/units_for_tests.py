"""Work of units: module-level functions, which another process or node can find by name."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from vldistill.cluster import Launch, UnitFailed
from vldistill.cluster.commands import Commands
from vldistill.cluster.units import Kind
from vldistill.errors import ConfigError, Stopped


def note(place: str, word: str) -> None:
    """Append a word: one write, so that words of several processes do not mix."""
    with Path(place).open("a") as handle:
        handle.write(f"{word}\n")


def works(launch: Launch, notes: str, name: str) -> None:
    note(notes, f"+{name}")
    time.sleep(0.02)
    note(notes, f"-{name}")


def ends(launch: Launch, notes: str, kind: Kind) -> None:
    note(notes, kind)
    raise UnitFailed(f"it is {kind}", kind)


def refused(launch: Launch, notes: str) -> None:
    note(notes, "refused")
    raise ConfigError("never")


def appended(launch: Launch, place: str, enough: int) -> None:
    """Lost until it was tried often enough."""
    with Path(place).open("a") as handle:
        handle.write("x")
    if len(Path(place).read_text()) < enough:
        raise UnitFailed("its worker was lost", "lost")


def waits_for_a_stop(launch: Launch, begun: threading.Event, commands: Commands) -> None:
    begun.set()
    while not commands.stopping:
        time.sleep(0.01)
    raise Stopped("stopped")


def dies(launch: Launch, place: str, enough: int) -> None:
    """Takes its process with it until it was tried often enough."""
    note(place, str(os.getpid()))
    if len(Path(place).read_text().split()) < enough:
        os._exit(1)


def breaks(launch: Launch, notes: str) -> None:
    note(notes, "broke")
    raise ZeroDivisionError("a bug")


def says_version(launch: Launch, log: str) -> None:
    """A command in a process of its own."""
    launch(["--version"], Path(log))
