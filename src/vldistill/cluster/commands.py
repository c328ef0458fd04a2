"""Commands in processes of their own, stopped politely and ended with the process that started them."""

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
TAIL = 3  # lines of a log that are shown where a command said nothing better


@dataclass
class Commands:
    """Runs commands of ``vldistill``; from several threads where that is wanted.

    Args:
        threads: CPU threads of each.
        lock: a file descriptor that they inherit.
        environment: variables beside, or in place of, those of this process.
    """

    threads: int
    lock: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stopping: bool = field(default=False, init=False)
    _live: set[subprocess.Popen] = field(default_factory=set, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)

    def launch(self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Run ``vldistill WORDS`` to its end, its output appended to ``log``.

        Raises:
            UnitFailed: it ended with another code than 0.
            Stopped: it was stopped, or stopping has begun.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "vldistill.cli", *words, "--runtime.threads", str(self.threads)]
        number = str(self.threads)
        own = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, PARENT: str(os.getpid())}
        with log.open("a", encoding="utf-8") as out:
            out.write(f"$ vldistill {' '.join(words)}\n")
            out.flush()
            begin = out.tell()
            with self._guard:
                if self.stopping:
                    raise Stopped("stopped")
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.environment, **own, **(environment or {})},
                    start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on once
                    pass_fds=() if self.lock is None else (self.lock,),
                )
                self._live.add(process)
            code = self._waited(process)
            with self._guard:
                self._live.discard(process)
        if code == 0:
            return
        if code == 3 or self.stopping:
            raise Stopped("stopped")
        said = _last_words(log, begin)
        # held by the process of a lost worker, which is about to end
        in_use = "in use by another process" in said
        kind = "lost" if code < 0 or in_use else "refused" if code == 2 else "failed"
        raise UnitFailed(f"`vldistill {words[0]}` {_ending(code)}: {said}", kind)

    def _waited(self, process: subprocess.Popen) -> int:
        """The exit code, when the process has ended; an interrupt (a cluster takes its task back) stops it."""
        while True:
            try:  # not one long wait: Ray's interrupts are seen between two lines of Python alone
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:
                self.stop()

    def stop(self) -> int:
        """Ask every process to stop, and start no other one; returns how many are asked."""
        with self._guard:
            self.stopping = True
            for process in self._live:
                with suppress(OSError):
                    process.terminate()
            return len(self._live)

    def kill(self) -> None:
        """End what does not want to stop."""
        with self._guard:
            for process in self._live:
                with suppress(OSError):
                    process.kill()


def _ending(code: int) -> str:
    if code < 0:
        memory = " (out of memory?)" if code == -9 else ""
        return f"was ended by signal {-code}{memory}"
    return {1: "met a bug (exit code 1)", 2: "refused (exit code 2)"}.get(code, f"ended with exit code {code}")


def _last_words(log: Path, begin: int) -> str:
    """What a command said about its failure: the error it printed, or its last lines."""
    raw = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    lines = [line for line in raw.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith("error: "):
            return " ".join(part.strip() for part in [line.removeprefix("error: "), *lines[number + 1 :]])
    return " | ".join(lines[-TAIL:]) or f"it said nothing; see {log}"
