"""What every step of several runs cost: time, memory and disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vldistill.config.plain import Record, entry, section
from vldistill.reporting.overview import Table, TableCell
from vldistill.reporting.records import RunRecord
from vldistill.storage.files import human_bytes


def cost_table(runs: Sequence[RunRecord]) -> Table | None:
    """Time, memory and disk of every step that recorded them; None where none did."""
    named = len(runs) > 1
    body: list[list[TableCell]] = []
    for run in runs:
        for stage, what, seconds, memory, disk in _costs(run):
            cells = [TableCell.of(run.name)] if named else []
            cells += [TableCell.of(stage, head=True), TableCell.of(what), TableCell.of(seconds, duration)]
            body.append([*cells, TableCell.of(memory, human_bytes), TableCell.of(disk, human_bytes)])
    if not body:
        return None
    columns = [("run", "", False)] if named else []
    columns += [("stage", "", False), ("what", "", False), ("time", "", True)]
    columns += [("peak memory", "of the process, resident", True), ("disk", "", True)]
    return Table(columns, body, ["Times are wall-clock times on the machine that did the step."])


def _costs(run: RunRecord) -> Iterable[tuple[str, str, float | None, float | None, float | None]]:
    """(stage, what, seconds, bytes of memory, bytes on disk), in the order of the pipeline."""
    experts = [event for event in run.events if event.get("stage") == "experts"]
    if experts or run.disk["experts"]:
        seconds = sum(_seconds(event) or 0.0 for event in experts) if experts else None
        count = experts[-1].get("count") if experts else None
        peak = max((_memory(event) or 0 for event in experts), default=0) or None
        yield "experts", f"{count} experts" if count else "", seconds, peak, run.disk["experts"] or None
    memory = {entry(e, "set", str): _memory(e) for e in run.events if e.get("stage") == "distill"}
    for item in run.sets:
        if item.finished:
            yield "distill", item.name, _seconds(section(item.info, "selection")), memory.get(item.name), item.size
    seen = set()
    for row in run.rows:
        if (key := (row.label, row.protocol, row.cell, row.towers)) in seen:
            continue
        seen.add(key)
        if row.making:
            yield "distill", row.label, _seconds(row.making), _memory(row.making), None
        if row.seconds is not None:
            yield "evaluate", row.label, row.seconds, row.peak_memory_bytes, None
    yield "whole folder", run.name, None, None, sum(run.disk.values())


def _seconds(record: Record) -> float | None:
    return entry(record, "seconds", int, float)


def _memory(record: Record) -> float | None:
    return entry(record, "peak_memory_bytes", int, float)


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
