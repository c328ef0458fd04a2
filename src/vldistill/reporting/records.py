"""The contents of run folders as plain values: nothing here trains, decodes or needs torch.

A report is made of whatever is there, so a file that is missing or damaged becomes a note, not an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from vldistill.config.plain import Plain, Record, entry, section
from vldistill.errors import ConfigError
from vldistill.evaluation.data_checks.check import Check
from vldistill.evaluation.measures import ACCURACIES, MEASURES, Figure
from vldistill.reporting.run_files import disk_of, read_config, read_lines, read_mapping, read_plain, read_text
from vldistill.workbench.headline import MEAN_RECALL, TOP1, val_score

RECIPES = ("generic", "own")
OWN = "own"  # the towers of a run, where an evaluation names none
IDENTITY = ("cell", "row", "seed", "set", "setting", "protocol", "towers", "image_tower", "text_tower", "pairs")
TEXTS = ("row", "cell", "setting", "protocol", "towers", "image_tower", "text_tower")
AROUND = ("environment", "making")  # objects around an evaluation that belong to it
MOST = 1e18  # a larger number is not a count
DEPTH = 4  # levels below a JSON file's top at which an evaluation is looked for


@dataclass(frozen=True)
class Row:
    """One evaluated row: a set by one recipe. What its file does not hold is None or empty.

    Args:
        run: name of the run.
        set: name of the set, ``SELECTOR:N`` or ``full``.
        recipe: ``own`` or ``generic``.
        figures: mean and standard deviation by measure, in percent.
        trained_by: the recipe as a JSON object.
        row: its label in a comparison, and ``cell`` its cell, ``seed`` and ``making`` those of its distillation.
        data_kind: ``distilled``, ``subset`` or ``full``.
        seeds: number of students.
        chance: of :attr:`headline`, by a random ranking or guess.
        details: provenance of the set.
        checks: what the numbers can mean, see :mod:`vldistill.evaluation.data_checks`.
        zero_shot: accuracies on other class sources, by source and measure.
        zero_shot_classes: number of classes of each.
        sides: names of the two sides, where they have some of their own.
    """

    run: str
    set: str
    recipe: str
    figures: Mapping[str, Figure]
    trained_by: Record
    row: str | None
    cell: str | None
    seed: float | str | None
    data_kind: str | None
    setting: str | None
    protocol: str | None
    towers: str | None
    image_tower: str | None
    text_tower: str | None
    pairs: float | None
    stored_floats: float | None
    seeds: float | None
    seconds: float | None
    peak_memory_bytes: float | None
    chance: float | None
    details: Record
    environment: Record
    making: Record
    checks: tuple[Check, ...] = ()
    zero_shot: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    zero_shot_classes: Record = field(default_factory=dict)
    sides: tuple[str, ...] = ()

    @classmethod
    def read(cls, run: str, recipe: str, result: Record) -> Row | None:
        """The row of a recipe in a JSON object; None where it has no figures of that recipe."""
        figures = _figures(result.get(recipe))
        classes = _count(result, "classes")
        chance = 100 / classes if classes else section(result, "chance").get("mean_recall")
        if not figures:
            return None
        return cls(
            run=run,
            set=str(result["set"]),
            recipe=recipe,
            figures=figures,
            trained_by=section(section(result, recipe), "recipe"),
            **{name: entry(result, name, str) for name in TEXTS},
            seed=entry(result, "seed", int, float, str),
            data_kind=entry(result, "kind", str),
            pairs=_count(result, "pairs"),
            stored_floats=_count(result, "stored_floats"),
            seeds=_count(result, "seeds"),
            seconds=_count(result, "seconds"),
            peak_memory_bytes=_count(result, "peak_memory_bytes"),
            chance=chance if _percent(chance) else None,
            details=section(result, "details"),
            environment=section(result, "environment"),
            making=section(result, "making"),
            checks=tuple(map(Check.from_json, entry(result, "checks", list) or ())),
            zero_shot={source: _named(value, ACCURACIES) for source, value in _zero_shot(result, recipe).items()},
            zero_shot_classes=section(result, "zero_shot_classes"),
            sides=tuple(map(str, entry(result, "sides", list) or ())),
        )

    @property
    def label(self) -> str:
        """Its name in the table: the row's name in a comparison, else the set's."""
        return self.row or self.set

    @property
    def measure(self) -> str:
        """The measure of :attr:`headline`."""
        return TOP1 if TOP1 in self.figures else MEAN_RECALL

    @property
    def headline(self) -> Figure:
        """What rows are compared by: mean recall, of class sets zero-shot top-1."""
        return self.figures[self.measure]

    @property
    def mean(self) -> float:
        """The mean of :attr:`headline`, percent."""
        return self.headline.mean

    @property
    def kind(self) -> str:
        """``distilled``, ``random``, ``subset`` (of another selector) or ``full``."""
        name, colon, _ = self.set.partition(":")
        if self.set == "full":
            return "full"
        if not colon:
            return "subset" if self.data_kind == "subset" else "distilled"  # a coreset's folder
        return "random" if name == "random" else "subset"

    @property
    def val(self) -> float | None:
        """The score on val by which the set was chosen, percent; None where it was made without validation."""
        value = val_score(section(self.details, "selection"))
        return float(value) if _percent(value) else None

    def condition(self, name: str) -> str | float | None:
        """One of the conditions that rows may have in common, by the field's name."""
        return getattr(self, name)

    def comparable(self, other: Row) -> bool:
        """Whether a ratio of the two means something: same run, setting, protocol and towers."""
        conditions = (self.run, self.setting, self.protocol, self.towers, self.image_tower, self.text_tower)
        others = (other.run, other.setting, other.protocol, other.towers, other.image_tower, other.text_tower)
        return conditions == others


@dataclass(frozen=True)
class SetRecord:
    """A distilled set's folder.

    Args:
        folder: where it is.
        run: name of its run.
        record: ``set.json``; empty while it is not finished.
        metrics: the lines of its ``metrics.jsonl``.
        size: bytes on disk.
    """

    folder: Path
    run: str
    record: Record
    metrics: Sequence[Record]
    size: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def info(self) -> Record:
        """Its provenance."""
        return section(self.record, "info")

    @property
    def finished(self) -> bool:
        """Whether the set is there, not only its checkpoint."""
        return bool(self.record)


@dataclass(frozen=True)
class RunRecord:
    """A run folder.

    Args:
        folder: where it is.
        name: how the report calls it; unique in the report.
        config: the remembered configuration; empty if there is none.
        config_text: the same as it stands in the file.
        environment: ``env.json``.
        rows: its evaluations.
        events: the lines of its ``metrics.jsonl``.
        sets: its distilled sets, finished or not.
        disk: bytes by part of the folder.
        commands: the commands that made it, in order, each once.
        notes: what could not be read.
        curve: what ``vldistill curve`` wrote; empty without it.
    """

    folder: Path
    name: str
    config: Record
    config_text: str
    environment: Record
    rows: Sequence[Row]
    events: Sequence[Record]
    sets: Sequence[SetRecord]
    disk: Mapping[str, int]
    commands: Sequence[str]
    notes: Sequence[str]
    curve: Record = field(default_factory=dict)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs, each under a name of its own.

    Raises:
        ConfigError: a folder that is missing, holds nothing of a run, or is given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ConfigError(f"a run is given twice: {', '.join(map(str, folders))}. Give each once.")
    names = [folder.name or str(folder) for folder in resolved]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in resolved]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in resolved]
    return [read_run(folder, name) for folder, name in zip(folders, names)]


def read_run(folder: Path, name: str) -> RunRecord:
    """One run. Raises ConfigError when the folder is no run."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; expected a run, e.g. runs/demo.")
    notes: list[str] = []
    config_text = read_text(folder / "config.yaml", notes)
    sets = [_read_set(path, name, notes) for path in _set_folders(folder)]
    rows = _read_rows(folder, name, notes)
    if not (config_text or sets or rows):
        raise ConfigError(
            f"{folder} holds no configuration, no distilled set and no result: it is not a run. "
            f"Expected the folder given to --run, e.g. runs/demo."
        )
    environment = read_mapping(folder / "env.json", notes)
    events = read_lines(folder / "metrics.jsonl", notes)
    commands = [place.get("command") for place in (*events, *(row.environment for row in rows), environment)]
    return RunRecord(
        folder=folder,
        name=name,
        config=read_config(config_text, folder, notes),
        config_text=config_text,
        environment=environment,
        rows=rows,
        events=events,
        sets=sets,
        disk=disk_of(folder),
        commands=list(dict.fromkeys(str(command) for command in commands if command)),
        notes=notes,
        curve=read_mapping(folder / "curve" / "curve.json", notes),
    )


def _set_folders(folder: Path) -> list[Path]:
    found = {path.parent for name in ("set.json", "metrics.jsonl") for path in (folder / "sets").glob(f"*/{name}")}
    return sorted(found)


def _read_set(folder: Path, run: str, notes: list[str]) -> SetRecord:
    size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    return SetRecord(
        folder, run, read_mapping(folder / "set.json", notes), read_lines(folder / "metrics.jsonl", notes), size
    )


def _read_rows(folder: Path, run: str, notes: list[str]) -> list[Row]:
    """Every evaluation of the run, or of the cells of a comparison, each once; the newest file wins."""
    places = ("results/**/*.json", "cells/*/result.json", "cross/**/*.json")
    paths = [path for place in places for path in folder.glob(place)]
    paths = paths or [path for path in folder.glob("*.json") if path.name != "env.json"]
    found: dict[tuple[str, ...], Row] = {}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        for result in _evaluations(read_plain(path, notes), {"towers": OWN}, DEPTH):
            for recipe in RECIPES:
                if row := Row.read(run, recipe, result):
                    found[(recipe, *(json.dumps(result.get(key)) for key in IDENTITY))] = row
    return sorted(found.values(), key=_order)


def _evaluations(value: Plain, inherited: Record, depth: int) -> Iterator[Record]:
    """Every object that names a set and has figures, with the plain values of the objects around it."""
    if isinstance(value, list) and depth:
        for item in value:
            yield from _evaluations(item, inherited, depth - 1)
    if not isinstance(value, dict):
        return
    plain = {key: item for key, item in value.items() if not isinstance(item, dict | list) or key in AROUND}
    if isinstance(value.get("set"), str) and any(_figures(value.get(recipe)) for recipe in RECIPES):
        yield {**inherited, **value}
    elif depth:
        for item in value.values():
            yield from _evaluations(item, {**inherited, **plain}, depth - 1)


def _count(result: Record, name: str) -> float | None:
    """A number of an evaluation; None where it is missing, or not of a size that can be printed."""
    found = entry(result, name, int, float)
    return found if found is not None and abs(found) < MOST else None


def _figures(value: Plain) -> dict[str, Figure]:
    """Means and deviations by measure; empty if ``value`` has no mean recall."""
    figures = _named(value, (*MEASURES, *ACCURACIES))
    return figures if "mean_recall" in figures else {}


def _zero_shot(result: Record, recipe: str) -> Record:
    return section(section(result, recipe), "zero_shot")


def _named(value: Plain, names: Sequence[str]) -> dict[str, Figure]:
    """Means and deviations of some measures; those that are no percentages are left out."""
    figures: dict[str, Figure] = {}
    for name in names:
        found = section(value, name) if isinstance(value, Mapping) else {}
        mean, std = found.get("mean"), found.get("std") or 0.0
        if _percent(mean) and _percent(std):
            figures[name] = Figure(float(mean), float(std))
    return figures


def _percent(value: Plain) -> TypeGuard[float]:
    return isinstance(value, int | float) and -1000 <= value <= 1000


def _order(row: Row) -> tuple[int, float, str, int, str]:
    kind = ("distilled", "subset", "random", "full").index(row.kind)
    return kind, row.pairs or 0, row.set, RECIPES.index(row.recipe), str(row.protocol)
