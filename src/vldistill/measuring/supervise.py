"""Measuring in a process of its own, which is killed where a row takes too long, and begun again with the next one."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from vldistill.config.plain import Plain, Record
from vldistill.measuring.worker import plain
from vldistill.measuring.works import Asked, names
from vldistill.storage.files import human_bytes
from vldistill.workbench.run_folder import environment

LONGEST = 4.0  # times its part of the time a row may take, for one call may be longer than that
LEAST = 30.0  # seconds that a row may take in any case while there is time
START = 120.0  # seconds for a process to load torch and find the device
WASTED = 3  # processes that end without a row, after which measuring ends


def measure(asked: Asked, minutes: float, say: Callable[[str], None]) -> dict[str, Plain]:
    """Every row that there is time for, and why the others were left out.

    Args:
        minutes: after which this ends, whatever is running.
        say: given a line about every row.
    """
    began = time.time()
    until = began + 60 * minutes
    left, found, device, wasted = list(names(asked)), dict[str, Record](), dict[str, Plain](), 0
    with tempfile.TemporaryDirectory(prefix="vldistill-bench-") as folder:
        asked = replace(asked, folder=folder)
        while left and time.time() < until and wasted < WASTED:
            before = len(left)
            for name, row in _process(asked, left, until):
                if name == "device":
                    device = dict(row)
                    continue
                found[name] = row
                left.remove(name)
                say(line(name, row))
            wasted = wasted + 1 if len(left) == before else 0
    for name in left:
        found[name] = {"left_out": "the time is over" if wasted < WASTED else "the measuring process ends at once"}
    return {
        "environment": environment(),
        **device,
        "asked": {name: value for name, value in json.loads(plain(asked)).items() if name != "folder"},
        "minutes": minutes,
        "seconds": round(time.time() - began, 1),
        "rows": {name: dict(found[name]) for name in names(asked)},
    }


def _process(asked: Asked, left: list[str], until: float) -> Iterator[tuple[str, Record]]:
    """The rows of one measuring process, until it ends or is killed; the row it ended in has the reason."""
    words = [sys.executable, "-m", "vldistill.measuring.worker", plain(asked), json.dumps(left), str(until)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        running, limit, expected = "", time.time() + START, (until - time.time()) / len(left)
        try:
            while True:
                try:
                    text = lines.get(timeout=max(min(limit, until) - time.time(), 0.01))
                except queue.Empty:
                    why = (
                        "the time is over"
                        if time.time() >= until
                        else f"takes more than {max(LONGEST * expected, LEAST):.0f} s"
                    )
                    if running not in ("", "device"):
                        yield running, {"left_out": why}
                    return
                if text is None:
                    if running not in ("", "device"):
                        yield running, {"left_out": f"the process ended (code {process.wait()}): too little memory?"}
                    return
                told = json.loads(text)
                if "begin" in told:
                    running = told["begin"]
                    limit = time.time() + (START if running == "device" else max(LONGEST * expected, LEAST))
                else:
                    running, name = "", told.pop("row")
                    yield name, told
        finally:
            process.kill()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("{"):
            lines.put(text)
    lines.put(None)


def line(name: str, row: Record) -> str:
    """A row in words."""
    if "left_out" in row:
        return f"{name:<34} left out: {row['left_out']}"
    return f"{name:<34} {'  '.join(_cells(row)).rstrip()}"


def _cells(row: Record) -> Iterator[str]:
    seconds, share, peak = (row.get(name) for name in ("seconds", "share", "peak_bytes"))
    yield f"{float(str(row['a_second'])):>10,.4g} {row['unit']}/s".ljust(24)
    yield f"{_duration(float(str(seconds)))} a call".ljust(18)
    yield ("" if share is None else f"{float(str(share)):.0%} products").ljust(14)
    yield ("" if peak is None else f"peak {human_bytes(float(str(peak)))}").ljust(14)
    waits = row.get("waits")
    yield "" if waits is None else f"{waits} waits"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def table(report: Record) -> str:
    """All rows as text, to paste into an issue."""
    rows = report["rows"]
    assert isinstance(rows, dict)
    head = f"{report.get('device', 'no device')}, {report.get('threads')} threads, {report['seconds']} s"
    return "\n".join([head, *(line(name, row) for name, row in rows.items() if isinstance(row, dict))])
