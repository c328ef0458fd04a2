"""Give trackers the records of ``metrics.jsonl``: each once, also where work is stopped, killed and resumed."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vldistill.config.plain import Plain, Record, entry, items, section
from vldistill.errors import ArtefactError, ConfigError
from vldistill.runtime.log import Reporter
from vldistill.storage.files import read_json, write_record
from vldistill.tracking.tracker import Service, Subject, Tracker

NOTE = "trackers.json"  # beside metrics.jsonl: the subject's id, and how many lines each tracker has


@dataclass
class Trackers:
    """The trackers of one subject; none by default.

    One that fails is left out with a warning: the work does not depend on it.

    Args:
        open: by name.
        reporter: receives the warnings.
        lines: that each tracker had when it was opened.
    """

    open: dict[str, Tracker] = field(default_factory=dict)
    reporter: Reporter = field(default_factory=Reporter)
    lines: Mapping[str, int] = field(default_factory=dict)
    line: int = 0
    step: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    def resume(self, path: Path) -> None:
        """Continue after the lines of ``path``, those of the checkpoint; give them to trackers that lack them."""
        self.line = 0
        for record in _records(path) if self.open else ():
            self.record(record)

    def record(self, record: Record) -> None:
        """Give one line of ``metrics.jsonl``, to the trackers that do not have it."""
        self.step = entry(record, "iteration", int) or 0
        values = {name: value for name, value in numbers(record).items() if name != "iteration"}
        new = [name for name in self.open if self.line >= self.lines.get(name, 0)]
        self._give(new, lambda tracker: tracker.metrics(self.step, values))
        self.line += 1

    def event(self, event: Record) -> None:
        """Give the last event of a stage: its lists as curves, then its numbers, named after the stage."""
        named: Record = {entry(event, "stage", str) or "event": event}
        for step, values in [*enumerate(curves(event)), (self.step, numbers(named))]:
            self._give(list(self.open), lambda tracker, step=step, values=values: tracker.metrics(step, values))

    def picture(self, path: Path, step: int) -> None:
        """Give a picture."""
        self._give(list(self.open), lambda tracker: tracker.picture(step, path))

    def close(self, done: bool) -> None:
        """Close all."""
        self._give(list(self.open), lambda tracker: tracker.close(done))

    def _give(self, names: Sequence[str], give: Callable[[Tracker], None]) -> None:
        for name in names:
            try:
                give(self.open[name])
            except Exception as error:  # of a network, a server, a full disk: whatever a foreign library raises
                del self.open[name]
                self.failed[name] = self.line
                self.reporter.warn(f"{name} receives nothing more of this run: {type(error).__name__}: {error}")


@contextmanager
def followed(
    services: Sequence[Service], subject: Subject, metrics: Path, reporter: Reporter, resumed: bool
) -> Iterator[Trackers]:
    """The trackers of work that writes ``metrics``, line by line, and can be resumed.

    Args:
        services: those that are asked for.
        subject: what is followed; its id is that of an earlier process where the work is ``resumed``.
        metrics: the file; how much of it each tracker has is noted beside it.
        reporter: receives where each is found, and what fails.
        resumed: whether there is a checkpoint to resume from.

    Raises:
        ConfigError: a tracker that cannot be opened.
    """
    if not services:
        yield Trackers()
        return
    path = metrics.with_name(NOTE)
    note = _note(path, metrics) if resumed else {}
    identity = entry(note, "id", str)
    lines = {name: count for name, count in section(note, "lines").items() if isinstance(count, int)}
    subject = replace(subject, id=identity or _identity(), resumed=identity is not None)
    trackers = Trackers(_opened(services, subject, reporter), reporter, lines)
    asked = list(trackers.open)
    write_record(path, {"id": subject.id, "lines": lines, "open": asked})
    done = False
    try:
        yield trackers
        done = True
    finally:
        trackers.close(done)
        had = {name: max(trackers.line, lines.get(name, 0)) for name in asked} | trackers.failed
        write_record(path, {"id": subject.id, "lines": lines | had, "open": []})


def give_event(services: Sequence[Service], run: Path, event: Record, reporter: Reporter) -> None:
    """Give one event of a finished stage, as a subject of its own. Its results are kept: what fails is a warning."""
    if not services:
        return
    parts = (entry(event, name, str) for name in ("stage", "set", "protocol"))
    name = "-".join(part.replace(":", "-") for part in parts if part)
    said: Record = {key: value for key, value in event.items() if isinstance(value, str)}
    subject = Subject(run, name, entry(event, "stage", str) or "", _identity(), settings=said)
    try:
        trackers = Trackers(_opened(services, subject, reporter), reporter)
    except ConfigError as error:
        reporter.warn(str(error))
        return
    trackers.event(event)
    trackers.close(True)


def _identity() -> str:
    return uuid.uuid4().hex[:12]


def _opened(services: Sequence[Service], subject: Subject, reporter: Reporter) -> dict[str, Tracker]:
    """A tracker of each service, by name. Raises ConfigError."""
    found: dict[str, Tracker] = {}
    for service in services:
        try:
            tracker = found[service.name] = service.follow(subject)
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(
                f"--log {service.name} cannot be opened ({why}). Correct that, or leave it out."
            ) from error
        reporter.info(f"log of {subject.name}: {tracker.place}")
    return found


def _note(path: Path, metrics: Path) -> Record:
    """What earlier processes noted; trackers that were open when one was killed have what ``metrics`` holds."""
    try:
        note = read_json(path, "note on trackers") if path.exists() else {}
    except ArtefactError:  # then the whole file is given to a new subject
        return {}
    held, lines = len(list(_records(metrics))), section(note, "lines")
    left = {str(name): max(held, entry(lines, str(name), int) or 0) for name in items(note.get("open") or [])}
    return {**note, "lines": {**lines, **left}}


def _records(path: Path) -> Iterator[Record]:
    """The whole lines of a file of JSON objects."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def numbers(record: Record, prefix: str = "") -> dict[str, float]:
    """The finite numbers of a record, on any level, by names such as ``recalls/own/tr1``."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[prefix + name] = value
    return found


def curves(event: Record) -> list[dict[str, float]]:
    """The lists of numbers of a record, and its lists of those, as values by step."""
    steps: list[dict[str, float]] = []
    for name, values in _lists(event):
        steps += [{} for _ in range(len(values) - len(steps))]
        for step, value in zip(steps, values):
            step |= numbers({name: value})
    return steps


def _lists(event: Record) -> Iterator[tuple[str, list[Plain]]]:
    for name, value in event.items():
        if isinstance(value, list):
            inner = [(f"{name}/{number}", item) for number, item in enumerate(value) if isinstance(item, list)]
            yield from inner or [(name, value)]
