"""Stopping politely: Ctrl-C and SIGTERM end the current step, not the file being written."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PARENT = "VLDISTILL_PARENT"  # the process that a unit's command must not outlive
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Signal handler: raise KeyboardInterrupt where the program is."""
    raise KeyboardInterrupt


@contextmanager
def deferred_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for; a second request stops at once.

    Signals reach the main thread alone: in another one the function is always false.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and "TORCHELASTIC_RUN_ID" in os.environ:
            return  # torchrun passes a Ctrl-C on to processes that got it already; it ends them itself after a while
        if asked:
            raise KeyboardInterrupt
        asked = True
        with suppress(OSError):  # not print: the signal may have come in the middle of one
            os.write(2, b"stopping after this step; once more stops at once\n")

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def end_with_parent() -> None:
    """Stop politely when the process that started this one as a unit's command dies (Linux; elsewhere nothing).

    Without it a lost worker's command would go on beside the one that does its unit again.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library: nothing to ask
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before it could be asked for
        raise KeyboardInterrupt
