"""Locks on artefacts: two processes never write the same one, and a lock ends with its process.

A lock is a file beside or in what it guards, held by the operating system (``filelock``) for as long as the process
lives: nothing has to be cleaned up after a crash. Locks are per artefact, not per run folder: stages that write
different things (two sets, two experts, two cells) run side by side.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vldistill.errors import InUseError
from vldistill.storage.files import storage_errors

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)  # of file systems that have none


@contextmanager
def held(path: Path, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` while ``what`` is being written; where a file system has no locks, hold nothing.

    Args:
        path: made when missing, with its folder, and removed at the end.
        what: names the artefact in the error.
        wait_seconds: for another process, before it is refused; infinite waits as long as it takes.

    Raises:
        InUseError: another process holds it; the message names it.
        StorageError: the folder cannot be written.
    """
    lock = FileLock(path, mode=0o644)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if math.isinf(wait_seconds) else wait_seconds)
        except Timeout:
            raise _in_use(path, what) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    _say_who(path)
    try:
        yield
    finally:
        with suppress(OSError):
            _note(path).unlink()
        if os.name == "posix" and lock.is_locked:
            with suppress(OSError):
                path.unlink()  # while it is held: who waits for this file sees that it is gone, and makes a new one
        lock.release()


@contextmanager
def held_with_children(path: Path, what: str) -> Iterator[int | None]:
    """:func:`held`, also by child processes that outlive this one; yields the descriptor that they have to inherit.

    Written by hand: ``filelock`` gives its descriptor to nobody. The file stays, since a child may still hold it. On
    Windows, where children inherit no locks, the descriptor is None.

    Raises:
        InUseError: another process holds it, or a child that another one left behind.
        StorageError: the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        with held(path, what):
            yield None
        return
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(path, what) from None
        except OSError:  # a file system without locks
            yield None
            return
        _say_who(path)
        yield handle
    finally:
        os.close(handle)


def _note(path: Path) -> Path:
    """The file with the holder of a lock: older versions of filelock empty the lock file itself."""
    return path.with_name(f"{path.name}.holder")


def _say_who(path: Path) -> None:
    with suppress(OSError):  # where the disk has room for that
        _note(path).write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")


def _in_use(path: Path, what: str) -> InUseError:
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
        holder = f" (process {note['pid']} on {note['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        holder = ""
    return InUseError(
        f"{what} is in use by another process{holder}, or by one that it left behind. "
        f"Wait for it, or end it: a lock ends with its process."
    )
