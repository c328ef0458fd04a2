"""What run folders hold, as plain values: nothing here trains, decodes or needs torch.

A report is made of whatever is there, so a file that is missing or damaged becomes a note, not an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from vldistill.config.plain_yaml import parse_yaml
from vldistill.errors import ConfigError
from vldistill.evaluation.measures import MEASURES

RECIPES = ("generic", "own")
OWN = "own"  # the towers of a run, where an evaluation names none
IDENTITY = ("cell", "row", "seed", "set", "setting", "protocol", "towers", "image_tower", "text_tower", "pairs")
TOLD = ("environment", "making")  # mappings around an evaluation that say something of it
MOST_BYTES = 200_000_000  # of a file; a log of a million iterations has less
COUNTS = ("pairs", "stored_floats", "seconds", "peak_memory_bytes", "seeds", "standardisation_floats")
NAMES = ("set", "row", "cell", "setting", "protocol", "towers", "image_tower", "text_tower")
DEPTH = 4  # levels below a JSON file's top at which an evaluation is looked for


@dataclass(frozen=True)
class Row:
    """One evaluated row: a set by one recipe.

    Args:
        run: name of the run.
        set: name of the set, ``random:N`` or ``full``.
        recipe: ``own`` or ``generic``.
        figures: mean and standard deviation by metric, in percent.
        result: everything else of the evaluation.
    """

    run: str
    set: str
    recipe: str
    figures: Mapping[str, Mapping[str, float]]
    result: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What the table calls it: the row's name in a comparison, else the set's."""
        return str(self.told("row") or self.set)

    @property
    def mean(self) -> float:
        """Mean recall, percent."""
        return self.figures["mean_recall"]["mean"]

    @property
    def kind(self) -> str:
        """``distilled``, ``random``, ``subset`` (of another selector) or ``full``."""
        name, colon, _ = self.set.partition(":")
        if self.set == "full":
            return "full"
        if not colon:
            return "subset" if self.told("kind") == "subset" else "distilled"  # a coreset's folder
        return "random" if name == "random" else "subset"

    @property
    def val(self) -> float | None:
        """Mean recall on val by which the set was chosen, percent; None where its making did not look at val."""
        value = _mapping(_mapping(self.told("details")).get("selection")).get("val_mean_recall")
        return float(value) if _percent(value) else None

    def told(self, key: str) -> Any:
        """A value of the evaluation, None where it does not say."""
        return self.result.get(key)

    def comparable(self, other: Row) -> bool:
        """Whether a ratio of the two means something: same run, setting, protocol, towers and recipe."""
        keys = ("setting", "protocol", "towers", "image_tower", "text_tower")
        return self.run == other.run and all(self.told(key) == other.told(key) for key in keys)


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
    record: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    size: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def info(self) -> Mapping[str, Any]:
        """What it says of its making."""
        return self.record.get("info") or {}

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
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    events: Sequence[Mapping[str, Any]]
    sets: Sequence[SetRecord]
    disk: Mapping[str, int]
    commands: Sequence[str]
    notes: Sequence[str]


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
    config_text = _text(folder / "config.yaml", notes)
    sets = [_read_set(path, name, notes) for path in _set_folders(folder)]
    rows = _read_rows(folder, name, notes)
    if not (config_text or sets or rows):
        raise ConfigError(
            f"{folder} holds no configuration, no distilled set and no result: it is not a run. "
            f"Expected the folder given to --run, e.g. runs/demo."
        )
    environment = _mapping(_json(folder / "env.json", notes))
    events = _lines(folder / "metrics.jsonl", notes)
    said = [event.get("command") for event in events]
    said += [_mapping(row.told("environment")).get("command") for row in rows]
    said += [environment.get("command")]
    return RunRecord(
        folder=folder,
        name=name,
        config=_config(config_text, folder, notes),
        config_text=config_text,
        environment=environment,
        rows=rows,
        events=events,
        sets=sets,
        disk=_disk(folder),
        commands=list(dict.fromkeys(str(command) for command in said if command)),
        notes=notes,
    )


def _set_folders(folder: Path) -> list[Path]:
    found = {path.parent for name in ("set.json", "metrics.jsonl") for path in (folder / "sets").glob(f"*/{name}")}
    return sorted(found)


def _read_set(folder: Path, run: str, notes: list[str]) -> SetRecord:
    size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    return SetRecord(
        folder, run, _mapping(_json(folder / "set.json", notes)), _lines(folder / "metrics.jsonl", notes), size
    )


def _read_rows(folder: Path, run: str, notes: list[str]) -> list[Row]:
    """Every evaluation of the run, or of the cells of a comparison, each once; the newest file wins."""
    places = ("results/**/*.json", "cells/*/result.json", "cross/**/*.json")
    paths = [path for place in places for path in folder.glob(place)]
    paths = paths or [path for path in folder.glob("*.json") if path.name != "env.json"]
    found: dict[tuple[Any, ...], Row] = {}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        for result in _evaluations(_json(path, notes), {"towers": OWN}, DEPTH):
            for recipe in RECIPES:
                if figures := _figures(result.get(recipe)):
                    row = Row(run, str(result["set"]), recipe, figures, result)
                    found[(recipe, *(json.dumps(result.get(key)) for key in IDENTITY))] = row
    return sorted(found.values(), key=_order)


def _evaluations(value: Any, inherited: Mapping[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    """Every mapping that names a set and has figures, with what the mappings around it say of all of theirs."""
    if isinstance(value, list) and depth:
        for item in value:
            yield from _evaluations(item, inherited, depth - 1)
    if not isinstance(value, dict):
        return
    plain = {key: item for key, item in value.items() if not isinstance(item, dict | list) or key in TOLD}
    if isinstance(value.get("set"), str) and any(_figures(value.get(recipe)) for recipe in RECIPES):
        yield {key: item for key, item in {**inherited, **value}.items() if _as_written(key, item)}
    elif depth:
        for item in value.values():
            yield from _evaluations(item, {**inherited, **plain}, depth - 1)


def _as_written(key: str, value: Any) -> bool:
    """Whether a value of an evaluation is of the kind that is calculated with or printed as a number."""
    if key in COUNTS:
        return value is None or (isinstance(value, int | float) and abs(value) < 1e18)
    if key == "chance":
        return isinstance(value, Mapping) and _percent(value.get("mean_recall"))
    if key in ("details", *TOLD):
        return isinstance(value, Mapping)
    return key not in NAMES or value is None or isinstance(value, str)


def _figures(value: Any) -> dict[str, dict[str, float]] | None:
    """Means and deviations by metric, if ``value`` has a mean recall."""
    figures: dict[str, dict[str, float]] = {}
    for name in MEASURES:
        figure = _mapping(_mapping(value).get(name))
        mean, std = figure.get("mean"), figure.get("std") or 0.0
        if _percent(mean) and _percent(std):
            figures[name] = {"mean": float(mean), "std": float(std)}
    return figures if "mean_recall" in figures else None


def _percent(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and -1000 <= value <= 1000


def _order(row: Row) -> tuple[Any, ...]:
    kind = ("distilled", "subset", "random", "full").index(row.kind)
    return kind, row.told("pairs") or 0, row.set, RECIPES.index(row.recipe), str(row.told("protocol"))


def _disk(folder: Path) -> dict[str, int]:
    parts = {"experts": 0, "sets": 0, "report": 0, "other": 0}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            part = path.relative_to(folder).parts[0]
            parts[part if part in parts else "other"] += path.stat().st_size
    return parts


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(path: Path, notes: list[str]) -> str:
    if not path.exists():
        return ""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read ({error}).")
        return ""


def _config(text: str, folder: Path, notes: list[str]) -> Mapping[str, Any]:
    try:
        return _mapping(parse_yaml(text))
    except (yaml.YAMLError, ValueError):
        notes.append(f"{folder / 'config.yaml'} is not YAML that can be read.")
        return {}


def _json(path: Path, notes: list[str]) -> Any:
    text = _text(path, notes)
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        notes.append(f"{path} is not readable JSON; it is left out.")
        return None


def _lines(path: Path, notes: list[str]) -> list[Mapping[str, Any]]:
    """A file of one JSON object a line; half a line, left by a crash, is passed over."""
    out = []
    for line in _text(path, notes).splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            out.append(value)
    return out
