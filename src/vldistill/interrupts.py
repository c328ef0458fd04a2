"""Stopping politely: Ctrl-C and SIGTERM end the current step, not the file being written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Signal handler: raise KeyboardInterrupt where the program is."""
    raise KeyboardInterrupt


@contextmanager
def deferred_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for; a second request stops at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
