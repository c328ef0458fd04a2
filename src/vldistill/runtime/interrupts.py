"""Clean stops: after Ctrl-C or SIGTERM the current step is finished, and no file is left half written."""

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
PARENT = "VLDISTILL_PARENT"  # id of the process that a unit's command must not outlive
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Signal handler: raise KeyboardInterrupt at once."""
    raise KeyboardInterrupt


@contextmanager
def deferred_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a stop was requested; a second request stops at once.

    Only the main thread receives signals: in other threads the function always returns false.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and "TORCHELASTIC_RUN_ID" in os.environ:
            return  # torchrun sends Ctrl-C again to processes that received it; it kills them after a while
        if asked:
            raise KeyboardInterrupt
        asked = True
        with suppress(OSError):  # not print: the signal may have interrupted a print
            os.write(2, b"stopping after this step; a second request stops at once\n")

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def end_with_parent() -> None:
    """Stop this process cleanly when the process that started it as a unit's command dies (Linux only).

    Otherwise the command of a lost worker would keep running beside the retry of its unit.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library: not available
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):  # the parent died before prctl was called
        raise KeyboardInterrupt
