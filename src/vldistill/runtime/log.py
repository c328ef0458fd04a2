"""Messages and progress on stderr: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

WIDE = 100  # columns of a terminal that has room for figures beside a bar
SILENT_SECONDS = 1.0  # before a line says what is being waited for
PLAIN_SECONDS = 10.0  # between two plain progress lines, so that a log file stays short


@contextmanager
def waiting(words: str, seconds: float = SILENT_SECONDS) -> Iterator[None]:
    """Print ``words`` on stderr, once, if what is inside takes longer than ``seconds``."""
    timer = threading.Timer(seconds, lambda: print(words, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Progress:
    """The progress of one task; this base class shows nothing."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count ``steps`` more as done and show ``figures`` (loss, rate, ...) beside them."""


class Reporter:
    """Messages and progress. ``quiet`` keeps warnings only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bars: RichProgress | None = None  # what the terminal shows now; a nested task adds a line

    def info(self, message: str) -> None:
        """Print a message, unless quiet."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def waiting(self, words: str) -> AbstractContextManager[None]:
        """Say ``words`` if what is inside takes longer than a second, unless quiet."""
        return nullcontext() if self.quiet else waiting(words)

    @contextmanager
    def progress(self, description: str, total: int, done: int = 0, seconds: float = math.inf) -> Iterator[Progress]:
        """Show the progress of ``total`` steps, ``done`` already, of which ``seconds`` may allow only a part."""
        if self.quiet or total < 1:
            yield Progress()
        elif self._bars is not None:
            task = _Bar(self._bars, description, total, done, seconds)
            yield task
            task.remove()
        elif sys.stderr.isatty():
            with _rich_bars() as self._bars:
                try:
                    yield _Bar(self._bars, description, total, done, seconds)
                finally:
                    self._bars = None
        else:
            task = _Plain(description, total, done, seconds)
            yield task
            task.close()

    @contextmanager
    def counter(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """Yield ``count(done, total)``; shows nothing before the first call, as the work may be done already."""
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
    """For processes whose messages another process prints already."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def warn(self, message: str) -> None:
        """Print nothing."""


class _Paced(Progress):
    """Steps done, their rate, and the number of steps expected within the time limit."""

    def __init__(self, total: int, done: int, seconds: float) -> None:
        self.total, self.done, self.first, self.limit = total, done, done, seconds
        self.started = time.monotonic()
        self.figures: dict[str, float] = {}

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.done += steps
        self.figures = figures or self.figures

    def rate(self) -> float:
        """Steps per second."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def expected(self) -> int:
        """Expected number of steps; all steps while there is no estimate."""
        if self.limit == math.inf or self.done == self.first:
            return self.total
        left = max(0.0, self.limit - (time.monotonic() - self.started))
        return min(self.total, self.done + math.ceil(left * self.rate()))


class _Plain(_Paced):
    def __init__(self, description: str, total: int, done: int, seconds: float) -> None:
        super().__init__(total, done, seconds)
        self.description, self.shown, self.said = description, self.started, False

    def advance(self, steps: int = 1, **figures: float) -> None:
        super().advance(steps, **figures)
        self.said = False
        if time.monotonic() - self.shown >= PLAIN_SECONDS:
            self.line()

    def close(self) -> None:
        """The last line, unless it was shown already."""
        if not self.said:
            self.line()

    def line(self) -> None:
        self.shown, self.said = time.monotonic(), True
        done, total, rate = self.done, self.expected(), self.rate()
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        words = f"{self.description}: {done}/{total}, {rate:.3g}/s{left}{_text(self.figures)}"
        print(words, file=sys.stderr, flush=True)


class _Bar(_Paced):
    """One line of a rich display."""

    def __init__(self, bars: RichProgress, description: str, total: int, done: int, seconds: float) -> None:
        super().__init__(total, done, seconds)
        self.bars = bars
        self.task = bars.add_task(description, total=total, completed=done, figures="")

    def advance(self, steps: int = 1, **figures: float) -> None:
        super().advance(steps, **figures)
        shown = f"{self.rate():.3g}/s{_text(self.figures)}"
        self.bars.update(self.task, advance=steps, total=self.expected(), figures=shown)

    def remove(self) -> None:
        self.bars.remove_task(self.task)


def _rich_bars() -> RichProgress:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    console = Console(stderr=True)
    what = Column(no_wrap=True, max_width=max(12, console.width - 46), overflow="ellipsis")
    kept = Column(no_wrap=True, min_width=1)
    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}", markup=False, table_column=what),
        progress.BarColumn(bar_width=40 if console.width >= WIDE else 12),
        progress.MofNCompleteColumn(table_column=kept),
        progress.TimeRemainingColumn(table_column=kept),
    ]
    if console.width >= WIDE:  # in a narrow window the figures go first
        columns.insert(3, progress.TimeElapsedColumn())
        columns.append(progress.TextColumn("{task.fields[figures]}", markup=False))
    return progress.Progress(*columns, console=console)


def _text(figures: dict[str, float]) -> str:
    return "".join(f", {name} {value:.4g}" for name, value in figures.items())
