"""The options that a cell tries: each is distilled and validated once, and the best on val is kept.

Every row has the same number of trials: the points of its grid, and ``widen`` more. Those go beyond an edge of the grid
where the best stands at one, and are near the best where it does not.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vldistill.cluster import Launch, UnitFailed
from vldistill.comparison.cells import Cell, expert_group
from vldistill.comparison.results import Making, Trial
from vldistill.config import Config
from vldistill.config.plain import Plain, Record, section
from vldistill.errors import ConfigError
from vldistill.evaluation.measures import number_in
from vldistill.evaluation.search import Ladder, Point, Search
from vldistill.options.merge import merged, nested, resolved
from vldistill.storage.files import digest, read_json
from vldistill.workbench.headline import val_key, val_measure
from vldistill.workbench.run_folder import differences, to_plain, write_config

TRIED = "tried.jsonl"


class Trials:
    """The trials of a cell.

    Args:
        cell: what is tried.
        run: the comparison's folder.
        folder: the cell's.
        launch: runs a command.
    """

    def __init__(self, cell: Cell, run: Path, folder: Path, launch: Launch) -> None:
        self.cell, self.run_folder, self.folder, self.launch = cell, run, folder, launch
        self.found: list[tuple[Trial, Config]] = []

    def run(self) -> list[tuple[Trial, Config]]:
        """Every trial with its configuration. Raises UnitFailed where the process or node of one is lost."""
        cell = self.cell
        if not cell.widen:
            for config in cell.configs:
                self._try(config)
            return self.found
        plain = [to_plain(config) for config in cell.configs]
        points = [{name: _place(cell.grid[name], _lookup(one, name)) for name in cell.grid} for one in plain]
        at = {_key(point): config for point, config in zip(points, cell.configs)}

        def score(point: Point) -> float:
            try:
                config = at.get(_key(point)) or self._config(point)
            except ConfigError as error:
                self.found.append((Trial(self._values(point), error=str(error)), cell.configs[0]))
                return -1.0
            return self._try(config)

        Search({name: _ladder(values) for name, values in cell.grid.items()}, score).run(
            points, len(points), cell.widen, spend=True
        )
        return self.found

    def _try(self, config: Config) -> float:
        trial = _trial(self.cell, len(self.found) + 1, config, self.run_folder, self.folder, self.launch)
        self.found.append((trial, config))
        return -1.0 if trial.val_mean_recall is None else trial.val_mean_recall

    def _values(self, point: Point) -> dict[str, Plain]:
        return {name: _value(self.cell.grid[name], rung) for name, rung in point.items()}

    def _config(self, point: Point) -> Config:
        """The configuration at a point. Raises ConfigError where its values do not work."""
        options = merged(to_plain(self.cell.configs[0]), nested(self._values(point)))
        return resolved(options, f"method {self.cell.row!r}")


def _key(point: Point) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(point.items()))


def _numbers(values: Sequence[Plain]) -> list[float]:
    """The values where all are positive numbers and not switches; else none."""
    found = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v > 0]
    return found if len(found) == len(values) > 1 else []


def _ladder(values: Sequence[Plain]) -> Ladder:
    """Positive numbers continue by the factor of the last two; anything else ends at its ends."""
    numbers = sorted(_numbers(values))
    return Ladder(tuple(numbers), numbers[-1] / numbers[-2]) if numbers else Ladder(tuple(range(len(values))))


def _place(values: Sequence[Plain], value: Plain) -> int:
    numbers = sorted(_numbers(values))
    return numbers.index(float(value)) if numbers and isinstance(value, int | float) else list(values).index(value)


def _value(values: Sequence[Plain], rung: int) -> Plain:
    """The value of a rung: whole numbers stay whole."""
    if not _numbers(values):
        return values[rung]
    number = float(f"{_ladder(values)[rung]:.6g}")
    return max(1, round(number)) if all(isinstance(value, int) for value in values) else number


def _trial(cell: Cell, number: int, config: Config, run: Path, folder: Path, launch: Launch) -> Trial:
    """One option: its set, and one validation. A failed trial is logged and scores nothing."""
    place = folder / f"trial-{number}"
    limit = cell.trial_minutes or config.distill.minutes
    tried = replace(config, distill=replace(config.distill, minutes=limit))
    options = {name: _lookup(to_plain(config), name) for name in cell.grid or _differing(cell)}
    try:
        making = distilled(cell, tried, run, place, launch)
        found = list((place / "results" / "val").glob("*.json"))
        if not found:
            words = ["evaluate", "--config", str(place.with_suffix(".yaml")), "--run", str(place)]
            launch([*words, "--set", making.set, "--val_only"], folder / "log.txt")
            found = list((place / "results" / "val").glob("*.json"))
        record = read_json(found[0], "validation")
        return Trial(options, number_in(record, val_key(val_measure(record))), making, measure=val_measure(record))
    except UnitFailed as failed:
        if failed.kind == "lost":  # its process or node is gone, whatever the option
            raise
        return Trial(options, error=str(failed))


def _differing(cell: Cell) -> list[str]:
    """The dotted names of the options in which the trials differ."""
    first, *others = map(to_plain, cell.configs)
    return sorted({name for other in others for name, _, _ in differences(first, other)})


def _lookup(plain: Record, name: str) -> Plain:
    head, dot, tail = name.partition(".")
    return _lookup(section(plain, head), tail) if dot else plain.get(head, {})


def distilled(cell: Cell, config: Config, run: Path, place: Path, launch: Launch) -> Making:
    """Distil in the run folder ``place``, unless its set is there already.

    Raises:
        UnitFailed: the command failed.
    """
    if not list(place.glob("sets/*/set.json")):
        note_tried(cell, config, run)
        words = ["distill", "--config", str(write_config(place.with_suffix(".yaml"), config)), "--run", str(place)]
        if cell.needs_experts:
            # The group may hold more: it serves the most demanding cell.
            words += ["--experts_from", str(run / "experts" / expert_group(cell, config))]
            words += ["--distill.experts", str(config.distill.experts or config.experts.count)]
        launch(words, place.parent / "log.txt")
    note = next(iter(place.glob("sets/*/set.json")))
    selection = read_json(note, "distilled set")["info"]["selection"]
    return Making(str(note.parent), selection.get("seconds"), _peak(place), selection)


def _peak(place: Path) -> int | None:
    """Peak memory of the last distillation by its log; None where its process was killed before it wrote the line."""
    try:
        lines = (place / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, AttributeError):
            event = json.loads(line)
            if event.get("stage") == "distill":
                return event.get("peak_memory_bytes")
    return None


def tried_row(data: str, row: str) -> str:
    """The row of a configuration in the list: with the name of its data, where there are several."""
    return f"{data}: {row}" if data else row


def note_tried(cell: Cell, config: Config, run: Path) -> None:
    """Add a configuration to the comparison's list of all that were ever distilled, in one write."""
    place = {"setting": cell.setting, "towers": cell.towers, "row": tried_row(cell.data, cell.row)}
    place |= {"pairs": cell.pairs}
    line = (
        "\n" + json.dumps({**place, "config": digest(to_plain(config))}) + "\n"
    )  # alone, also after one cut by a crash
    file = os.open(run / TRIED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def tried_configurations(run: Path) -> dict[tuple[str, str, str, int], set[str]]:
    """Every configuration that was ever distilled in a comparison's folder, by setting, towers, row and pairs."""
    found: dict[tuple[str, str, str, int], set[str]] = defaultdict(set)
    with suppress(FileNotFoundError):
        for line in (run / TRIED).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line cut by a crash
                noted: Mapping[str, Plain] = json.loads(line)
                place = str(noted["setting"]), str(noted["towers"]), str(noted["row"]), int(str(noted["pairs"]))
                found[place].add(str(noted["config"]))
    return found
