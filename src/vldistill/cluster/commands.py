"""Commands in separate processes, which are stopped cleanly and end with the process that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vldistill.cluster.units import UnitFailed
from vldistill.errors import Stopped
from vldistill.runtime.interrupts import PARENT

POLL_SECONDS = 0.2
TAIL = 3  # last lines of a log that are shown if a command printed no error


@dataclass
class Commands:
    """Runs commands of ``vldistill``; thread-safe.

    Args:
        threads: CPU threads of each command.
        lock: a file descriptor that the processes inherit.
        environment: variables that are added to, or replace, those of this process.
    """

    threads: int
    lock: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stopping: bool = field(default=False, init=False)
    _live: set[subprocess.Popen] = field(default_factory=set, init=False)
    _mutex: threading.Lock = field(default_factory=threading.Lock, init=False)

    def launch(self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Run ``vldistill WORDS`` to its end and append its output to ``log``.

        Raises:
            UnitFailed: its exit code is not 0.
            Stopped: it was stopped, or :meth:`stop` was called.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "vldistill.cli", *words, "--runtime.threads", str(self.threads)]
        number = str(self.threads)
        own = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, PARENT: str(os.getpid())}
        with log.open("a", encoding="utf-8") as out:
            out.write(f"$ vldistill {' '.join(words)}\n")
            out.flush()
            begin = out.tell()
            with self._mutex:
                if self.stopping:
                    raise Stopped("stopped")
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.environment, **own, **(environment or {})},
                    start_new_session=True,  # Ctrl-C reaches only this process, which forwards it once
                    pass_fds=() if self.lock is None else (self.lock,),
                )
                self._live.add(process)
            code = self._waited(process)
            with self._mutex:
                self._live.discard(process)
        if code == 0:
            return
        if code == 3 or self.stopping:
            raise Stopped("stopped")
        reason = _failure_text(log, begin)
        # the lock is held by the process of a lost worker, which is about to end
        in_use = "in use by another process" in reason
        kind = "lost" if code < 0 or in_use else "refused" if code == 2 else "failed"
        raise UnitFailed(f"`vldistill {words[0]}` {_ending(code)}: {reason}", kind)

    def _waited(self, process: subprocess.Popen) -> int:
        """Wait for the exit code of the process; an interrupt (a cluster cancels its task) stops the process."""
        while True:
            try:  # in short waits: Ray's interrupts arrive only between two lines of Python
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:
                self.stop()

    def stop(self) -> int:
        """Ask every process to stop, and start no more; returns the number of processes."""
        with self._mutex:
            self.stopping = True
            for process in self._live:
                with suppress(OSError):
                    process.terminate()
            return len(self._live)

    def kill(self) -> None:
        """Kill the processes that do not stop."""
        with self._mutex:
            for process in self._live:
                with suppress(OSError):
                    process.kill()


def _ending(code: int) -> str:
    if code < 0:
        memory = " (out of memory?)" if code == -9 else ""
        return f"was ended by signal {-code}{memory}"
    return {1: "hit a bug (exit code 1)", 2: "refused (exit code 2)"}.get(code, f"ended with exit code {code}")


def _failure_text(log: Path, begin: int) -> str:
    """Why a command failed: the error it printed, or the last lines of its output."""
    raw = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    lines = [line for line in raw.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith("error: "):
            return " ".join(part.strip() for part in [line.removeprefix("error: "), *lines[number + 1 :]])
    return " | ".join(lines[-TAIL:]) or f"it printed nothing; see {log}"
