"""Locks on artefacts: two processes never write the same one, and a lock dies with its process.

A lock is a file beside or in what it guards, held by the operating system for as long as the process lives
(``flock``): nothing has to be cleaned up after a crash. Locks are per artefact, not per run folder: stages that write
different things (two sets, two experts, two cells) run side by side.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vldistill.errors import InUseError
from vldistill.storage.files import storage_errors

POLL_SECONDS = 0.05


@contextmanager
def held(path: Path, what: str, *, stays: bool = False, wait_seconds: float = 0.0) -> Iterator[int | None]:
    """Hold the lock file ``path`` while ``what`` is being written; yields its descriptor for child processes.

    Where the system or the file system has no such locks, nothing is held and the descriptor is None.

    Args:
        path: made when missing, with its folder.
        what: names the artefact in the error.
        stays: leave the file behind: processes that inherited the descriptor may still hold it.
        wait_seconds: for another process, before it is refused.

    Raises:
        InUseError: another process holds it; the message says which.
        StorageError: the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    patience = time.monotonic() + wait_seconds
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _opened(path)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < patience:
                    time.sleep(POLL_SECONDS)
                    continue
                raise InUseError(
                    f"{what} is in use by another process{_holder(path)}, or by one that it left behind. "
                    f"Wait for it, or end it: a lock ends with its process."
                ) from None
            except OSError:  # a file system without locks
                yield None
                return
            if _still_there(path, handle):
                break
            os.close(handle)  # its holder has just removed it
            handle = _opened(path)
        with suppress(OSError):  # who holds it is told where the disk has room for that
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode(), 0)
        try:
            yield handle
        finally:
            if not stays:
                with suppress(OSError):
                    path.unlink()  # while it is held: nobody can have it already
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _still_there(path: Path, handle: int) -> bool:
    """Whether the open file is the one that ``path`` names now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """Process and machine that hold a lock, as far as it says."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return f" (process {note['pid']} on {note['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
