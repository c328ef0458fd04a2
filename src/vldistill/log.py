"""What the user sees while work goes on: progress bars on a terminal, plain lines elsewhere (stderr)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0  # between two plain progress lines: enough for a log file to stay readable


class Progress(Protocol):
    """One running task."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count ``steps`` more as done and show ``figures`` (loss, rate, ...) beside them."""
        ...


class Reporter:
    """Messages and progress. ``quiet`` keeps warnings only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bars: RichProgress | None = None  # what is on the terminal now; a task within a task is one more line

    def info(self, message: str) -> None:
        """Say what happens."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Say what went wrong without stopping."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, description: str, total: int, done: int = 0) -> Iterator[Progress]:
        """Show ``description`` while ``total`` steps are done, ``done`` of them already."""
        if self.quiet:
            yield _Silent()
        elif self._bars is not None:
            task = _Bar(self._bars, description, total, done)
            yield task
            task.remove()
        elif sys.stderr.isatty():
            with _rich_bars() as self._bars:
                try:
                    yield _Bar(self._bars, description, total, done)
                finally:
                    self._bars = None
        else:
            task = _Plain(description, total, done)
            yield task
            task.line()

    @contextmanager
    def counter(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """Yield ``count(done, total)``; nothing is shown until the first call, for work that may be done already."""
        with ExitStack() as stack:
            bar: Progress | None = None
            shown = 0

            def count(done: int, total: int) -> None:
                nonlocal bar, shown
                if bar is None:
                    bar = stack.enter_context(self.progress(description, total))
                bar.advance(done - shown)
                shown = done

            yield count


class Mute(Reporter):
    """Of a process whose words another one says already."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def warn(self, message: str) -> None:
        """Say nothing."""


class _Silent:
    def advance(self, steps: int = 1, **figures: float) -> None:
        """Show nothing."""


class _Plain:
    def __init__(self, description: str, total: int, done: int) -> None:
        self.description, self.total, self.done, self.first = description, total, done, done
        self.started = self.shown = time.monotonic()
        self.figures: dict[str, float] = {}

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.done += steps
        self.figures = figures or self.figures
        if time.monotonic() - self.shown >= PLAIN_SECONDS:
            self.line()

    def line(self) -> None:
        self.shown = time.monotonic()
        seconds = max(self.shown - self.started, 1e-9)
        rate = (self.done - self.first) / seconds
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate > 0 and self.done < self.total else ""
        print(
            f"{self.description}: {self.done}/{self.total}, {rate:.3g}/s{left}{_text(self.figures)}",
            file=sys.stderr,
            flush=True,
        )


class _Bar:
    """One line of a rich display."""

    def __init__(self, bars: RichProgress, description: str, total: int, done: int) -> None:
        self.bars, self.count, self.figures = bars, 0, dict[str, float]()
        self.started = time.monotonic()
        self.task = bars.add_task(description, total=total, completed=done, figures="")

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.count += steps
        self.figures = figures or self.figures
        rate = self.count / max(time.monotonic() - self.started, 1e-9)
        self.bars.update(self.task, advance=steps, figures=f"{rate:.3g}/s{_text(self.figures)}")

    def remove(self) -> None:
        self.bars.remove_task(self.task)


def _rich_bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
    )


def _text(figures: dict[str, float]) -> str:
    return "".join(f", {name} {value:.4g}" for name, value in figures.items())
