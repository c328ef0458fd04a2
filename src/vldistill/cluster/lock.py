"""One comparison at a time in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vldistill.errors import ConfigError


@contextmanager
def only_one(folder: Path, name: str = ".lock") -> Iterator[int | None]:
    """Hold ``folder``, or the part of it that ``name`` stands for, for one comparison.

    Its processes inherit the lock and keep it as long as one lives.

    Raises:
        ConfigError: another comparison, or a process it left behind, is at work there.
    """
    try:
        import fcntl
    except ImportError:  # no such locks here
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{folder} is in use by another `vldistill compare`, or by a process that one left behind. "
                f"Wait for it, or end it."
            ) from None
        yield handle
    finally:
        os.close(handle)
