from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import pytest

from vldistill.runtime import log
from vldistill.runtime.log import Reporter


class Terminal(io.StringIO):
    """A place to write that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def on_a_terminal() -> Iterator[Terminal]:
    """What is written to stderr meanwhile; whoever replaced stderr has to put it back."""
    terminal = Terminal()
    with redirect_stderr(terminal):
        yield terminal
        assert sys.stderr is terminal


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().info("hello")
    Reporter().warn("careful")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "hello\nwarning: careful\n"


def test_quiet_keeps_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=True)
    reporter.info("hello")
    reporter.warn("careful")
    with reporter.progress("work", 3) as bar, reporter.counter("more") as count:
        bar.advance(3, loss=1.0)
        count(1, 2)
    assert capsys.readouterr().err == "warning: careful\n"


def test_a_file_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter().progress("expert 0", 20, done=10) as bar:
        bar.advance(4, loss=2.34567, rate=0.1)
        bar.advance()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("expert 0: 15/20, ") and line.endswith(", loss 2.346, rate 0.1")
    assert "/s" in line and " s left" in line and "\x1b" not in line


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    with Reporter().progress("work", 100) as bar:
        for _ in range(100):
            now += 0.5
            bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"work: {n}/100" for n in (20, 40, 60, 80, 100)]
    assert lines[0] == "work: 20/100, 2/s, 40 s left"
    assert lines[-1] == "work: 100/100, 2/s"


def test_work_of_limited_time_expects_what_the_time_allows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    with Reporter().progress("distilling", 1000, done=100, seconds=60) as bar:
        for _ in range(30):
            now += 2
            bar.advance(1)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "distilling: 105/130, 0.5/s, 50 s left" and last == "distilling: 130/130, 0.5/s"
    with on_a_terminal() as terminal, Reporter().progress("distilling", 1000, seconds=60) as bar:
        for _ in range(30):
            now += 2
            bar.advance(1)
    assert "30/30" in terminal.getvalue()


def test_a_counter_is_silent_until_there_is_something_to_count(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter().counter("decoded"):
        pass
    assert capsys.readouterr().err == ""
    with Reporter().counter("decoded") as count:
        count(3, 10)
        count(10, 10)
    assert capsys.readouterr().err.startswith("decoded: 10/10")


def test_a_terminal_gets_a_bar() -> None:
    with on_a_terminal() as terminal, Reporter().progress("distilling [red]", 10, done=4) as bar:
        bar.advance(6, loss=1.5)
    shown = terminal.getvalue()
    assert "distilling [red]" in shown and "10/10" in shown and "loss 1.5" in shown and "/s" in shown


def test_work_within_work_shares_the_display() -> None:
    reporter = Reporter()
    with on_a_terminal() as terminal:
        with reporter.progress("outer", 2) as outer:
            outer.advance(1)
            with reporter.counter("inner") as count:
                count(5, 5)
                reporter.info("a message")
            with reporter.progress("second", 1) as second:
                second.advance(1)
            outer.advance(1)
        with reporter.progress("after", 1) as after:
            after.advance(1)
    shown = terminal.getvalue()
    for said in ("outer", "inner", "a message", "second", "2/2", "after"):
        assert said in shown, said


def test_a_failure_within_a_bar_leaves_the_terminal_in_order() -> None:
    reporter = Reporter()
    with on_a_terminal() as terminal:
        with pytest.raises(KeyboardInterrupt), reporter.progress("outer", 2), reporter.progress("inner", 2):
            raise KeyboardInterrupt
        with reporter.progress("again", 1) as bar:
            bar.advance(1)
    shown = terminal.getvalue()
    assert "again" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 2  # the cursor is hidden and shown again
