"""Commands in processes of their own: a few at a time, stopped politely, never two comparisons in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.errors import Stopped
from vldistill.evaluate.cells import CellFailed
from vldistill.interrupts import deferred_stop
from vldistill.locks import held

POLL_SECONDS = 0.2
TAIL = 3  # lines of a log that are shown where a command said nothing better


@dataclass(frozen=True)
class Job:
    """A piece of work with a name, which starts once the jobs it needs have ended, well or not.

    Args:
        name: unique.
        work: called in a thread; raises CellFailed or Stopped.
        needs: names of other jobs.
    """

    name: str
    work: Callable[[], Any]
    needs: tuple[str, ...] = ()


@dataclass
class Workers:
    """``count`` processes at a time.

    Args:
        count: processes.
        threads: CPU threads of each.
    """

    count: int
    threads: int
    lock: int | None = None
    _live: set[subprocess.Popen] = field(default_factory=set)
    stopping: bool = field(default=False, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def launch(self, words: Sequence[str], log: Path) -> None:
        """Run ``vldistill WORDS`` to its end, its output appended to ``log``.

        Raises:
            CellFailed: it ended with another code than 0.
            Stopped: it was stopped, or stopping has begun.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "vldistill.cli", *words, "--runtime.threads", str(self.threads)]
        number = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
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
                    env=environment,
                    start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on once
                    pass_fds=() if self.lock is None else (self.lock,),
                )
                self._live.add(process)
            code = process.wait()
            with self._guard:
                self._live.discard(process)
        if code == 0:
            return
        if code == 3 or self.stopping:
            raise Stopped("stopped")
        raise CellFailed(f"`vldistill {words[0]}` {_ending(code)}: {_last_words(log, begin)}")

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

    def run(self, jobs: Sequence[Job], done: Callable[[Job, BaseException | None], None]) -> None:
        """Run ``jobs``, ``count`` at a time, in order as far as needs allow; ``done`` hears of each in this thread.

        Raises:
            Stopped: after a Ctrl-C, once all processes have ended.
        """
        waiting, running = list(jobs), dict[Future, Job]()
        open_names, pressed, stopped = {job.name for job in jobs}, 0, False
        with ThreadPoolExecutor(max_workers=self.count) as pool, deferred_stop() as stop_asked:
            while waiting or running:
                try:
                    if stop_asked() and not self.stopping:
                        self.stop()
                    for job in [job for job in waiting if not open_names.intersection(job.needs)]:
                        if len(running) < self.count and not self.stopping:
                            running[pool.submit(job.work)] = job
                            waiting.remove(job)
                    ended, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                    for future in ended:
                        job = running.pop(future)
                        open_names.discard(job.name)
                        stopped = stopped or isinstance(future.exception(), Stopped)
                        done(job, future.exception())
                    if self.stopping and not running:
                        break
                except KeyboardInterrupt:  # the second time, and any after it
                    pressed += 1
                    if pressed == 1:
                        self.stop()  # told twice, a process stops in the middle of its step
                    else:
                        self.kill()
        if stopped or self.stopping:
            raise Stopped("stopped; finished cells are kept and begun ones go on from where they are.")


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def only_one(folder: Path) -> Iterator[int | None]:
    """Hold ``folder`` for one comparison; its processes inherit the lock and keep it as long as one lives.

    Raises:
        InUseError: another comparison, or a process it left behind, is at work there.
    """
    with held(folder / ".lock", str(folder), stays=True) as handle:
        yield handle


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
