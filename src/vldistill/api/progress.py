"""Where the lines and bars of Python's verbs go: the terminal as for commands, a bar of tqdm in a notebook."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vldistill.runtime.log import Progress, Reporter

if TYPE_CHECKING:
    from tqdm import tqdm


def reporter(quiet: bool) -> Reporter:
    """The reporter that fits where Python runs."""
    return NotebookReporter(quiet=quiet) if in_notebook() else Reporter(quiet=quiet)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookReporter(Reporter):
    """Lines as a cell's output, and bars of ``tqdm.auto`` where tqdm is installed."""

    def info(self, message: str) -> None:
        """Print a message, unless quiet: on stdout, because notebooks show stderr as trouble."""
        if not self.quiet:
            print(message, flush=True)

    @contextmanager
    def progress(self, description: str, total: int, done: int = 0, seconds: float = math.inf) -> Iterator[Progress]:
        """See Reporter."""
        if self.quiet or importlib.util.find_spec("tqdm") is None:
            with super().progress(description, total, done, seconds) as task:
                yield task
            return
        from tqdm.auto import tqdm

        with tqdm(total=total, initial=done, desc=description, leave=self._depth == 0) as bar:
            self._depth += 1
            try:
                yield _Bar(bar)
            finally:
                self._depth -= 1

    _depth = 0


class _Bar(Progress):
    """A bar of tqdm."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        self.bar.update(steps)
