"""A watch over processes that work together: where one dies, the others end within a minute, with a message.

A dead peer does not end a collective of NCCL: its kernels wait for data that never comes, and the timeout of a process
group (:data:`~vldistill.runtime.processes.PATIENCE`) must be as long as an evaluation. gloo sees that a connection was
closed, but not that a machine is gone. ``torchrun`` ends what it started on one machine, and other launchers nothing.
So every process counts up a number in the group's store, in a thread, and looks at those of the others.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch.distributed as dist
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

EVERY = 3.0  # seconds between two looks
SILENT = 40.0  # seconds after which a process that does not count up is gone
LEFT = 10.0  # seconds between a process's own word that it ends and the end of the others, who may notice by themselves
ENDED = 3  # exit code: stopped, and resumable


@dataclass
class Watch:
    """A thread that counts up this process's number, and ends the process where another one is silent.

    Args:
        store: of the group, on a connection of its own: a thread that waits on one blocks it for all.
        rank: of this process.
        size: number of processes.
        end: what is called with the reason, in place of the end of this process.
        every, silent, left: seconds, see :data:`EVERY`, :data:`SILENT` and :data:`LEFT`.
    """

    store: Store
    rank: int
    size: int
    end: Callable[[str], None] = field(default_factory=lambda: _end)
    every: float = EVERY
    silent: float = SILENT
    left: float = LEFT
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _speaking: threading.Lock = field(default_factory=threading.Lock)
    _heard: float = 0.0  # when the store answered last

    def start(self) -> Watch:
        """Count and look, from now on, until :meth:`stop`."""
        self._heard = time.monotonic()
        self._seen = {rank: ("", self._heard) for rank in range(self.size) if rank != self.rank}
        threading.Thread(target=self._run, name="watch", daemon=True).start()
        return self

    def stop(self, why: str = "") -> None:
        """End the watch, and tell the others: that this process is done, or why it ends early."""
        with self._speaking, contextlib.suppress(RuntimeError):  # the process that held the store is gone
            self._stopped.set()
            self.store.set(self._name(self.rank), f"left {why}" if why else "done")

    def _run(self) -> None:
        count, before = 0, time.monotonic()
        while not self._stopped.wait(self.every if count else 0):
            count += 1
            now = time.monotonic()
            if now - before > self.silent / 2:  # this process itself was asleep: so may the others have been
                self._seen = {rank: (word, now) for rank, (word, _) in self._seen.items()}
                self._heard = now
            before = now
            reason = self._look(count)
            if reason and not self._stopped.is_set():
                self.end(f"process {self.rank} of {self.size}: {reason}")
                return

    def _look(self, count: int) -> str:
        """Why this process has to end; empty if it has not."""
        try:
            with self._speaking:  # no count after the last word
                if self._stopped.is_set():
                    return ""
                self.store.set(self._name(self.rank), str(count))
            for rank in self._seen:
                name = self._name(rank)
                self._hear(rank, self.store.get(name).decode() if self.store.check([name]) else "")
            self._heard = time.monotonic()
        except RuntimeError as error:
            silent = time.monotonic() - self._heard
            if self._seen.get(0, ("", 0.0))[0] == "done":
                return ""  # it held the store
            return f"process 0 does not answer ({_first_line(error)})" if silent > self.left else ""
        now = time.monotonic()
        for rank, (word, since) in self._seen.items():
            if word.startswith("left") and now - since > self.left:
                return f"process {rank} ended: {word.removeprefix('left ')}"
            if word != "done" and now - since > self.silent:
                return f"process {rank} has been silent for {now - since:.0f} s"
        return ""

    @staticmethod
    def _name(rank: int) -> str:
        """The key of a process; torchrun starts them again on the same store."""
        return f"watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"

    def _hear(self, rank: int, word: str) -> None:
        if word != self._seen[rank][0]:
            self._seen[rank] = word, time.monotonic()


def _end(reason: str) -> None:
    """End this process, whose main thread may wait in a collective for ever."""
    print(f"{reason}. This one ends too; what was saved is kept. Run the same command to resume.", file=sys.stderr)
    sys.stderr.flush()
    os._exit(ENDED)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "timed out waiting",
    "socket closed",
    "read error",
)  # what gloo says of a peer that is gone


def is_lost(error: BaseException) -> bool:
    """Whether an error of a collective means that another process is gone."""
    if isinstance(error, dist.DistError):  # of NCCL, of the store and of the network
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in LOST)
