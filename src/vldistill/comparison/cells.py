"""One cell of a comparison: what is asked, the stage commands that answer it, and one result file.

A cell is independent of every other one: :func:`run_cell` gets the cell, the comparison's folder and a function that
runs a command, and leaves ``result.json`` in the cell's folder, atomically. Whoever can run a command somewhere (a
process here, a task on a cluster with the same file system) can run cells.

    RUN/encode/GROUP/       notes of decoding and encoding the data; the cache has what was made
    RUN/experts/GROUP/      a run folder with the experts that all cells of one setting, towers and data share
    RUN/cells/ID/trial-1/   a run folder per option that is tried; made/ has the set that is judged in judged-*/
    RUN/cells/ID/log.txt    what the commands said
    RUN/cells/ID/result.json, or failed.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vldistill.cluster import Launch, UnitFailed
from vldistill.config import Config, DataConfig, EvaluateConfig
from vldistill.config.former import as_before, without_neutral
from vldistill.distillation.method import METHODS
from vldistill.errors import ArtefactError
from vldistill.storage.files import digest, read_json, write_record
from vldistill.workbench.run_folder import differences, environment, to_plain, write_config

VAL_OPTIONS = ("head_rates", "generic_epochs")
"""Options of section ``evaluate`` by which a look at val judges heads, see :func:`~.protocol.quick_score`."""
SAME_DATA = ("source", "strict", "cache")  # options of the data that change nothing in what is read of a source


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell.

    Args:
        row: the label of its row.
        kind: ``method`` or ``target``.
        name: the method, or what ``evaluate --set`` takes.
        pairs: the budget; None where the target has none (``full``, a folder).
        setting: of the student.
        towers: the name of the towers.
        seed: of the distillation.
        configs: the configuration; several are trials of which the best on val is kept.
        trial_minutes: limit of each trial; 0 is the same as that of the configuration.
    """

    row: str
    kind: str
    name: str
    pairs: int | None
    setting: str
    towers: str
    seed: int
    configs: tuple[Config, ...]
    trial_minutes: float = 0.0

    @cached_property
    def id(self) -> str:
        """Readable, and different whenever its set is.

        How sets are judged is apart, because judging anew is cheap, but for what chooses the set on val.
        """
        parts = (self.setting, self.towers, self.row, self.pairs if self.kind == "method" else None)
        slug = re.sub(r"[^\w.]+", "-", "-".join(str(part) for part in parts if part is not None)).strip("-")
        asked = [self.kind, self.name, self.trial_minutes, *(_meaning(config, self) for config in self.configs)]
        return f"{slug}-s{self.seed}-{digest(asked)[:6]}" if self.kind == "method" else f"{slug}-{digest(asked)[:6]}"

    @property
    def evaluation_options(self) -> dict[str, Any]:
        """How its set is evaluated."""
        return to_plain(self.configs[0])["evaluate"]

    @property
    def needs_experts(self) -> bool:
        """Whether its method matches trajectories."""
        return self.kind == "method" and METHODS.find(self.name).needs_experts

    @property
    def source(self) -> str:
        """The same for cells that read the same source in the same way, whatever becomes of it meanwhile."""
        return digest(_data(self.configs[0]))

    @property
    def data_group(self) -> str:
        """Cells of one group share decoded images and features."""
        config = self.configs[0]
        return f"{self.setting}-{self.towers}-{digest(_data(config), asdict(config.encoder))[:6]}"

    @property
    def expert_groups(self) -> dict[str, Config]:
        """The experts it needs, by the name of their folder."""
        return {expert_group(self, config): config for config in self.configs} if self.needs_experts else {}


def shared_experts(cells: Sequence[Cell]) -> dict[str, Config]:
    """The experts that cells need together, by folder name: of each kind as many as the most demanding cell takes."""
    groups: dict[str, Config] = {}
    for cell in cells:
        for group, config in cell.expert_groups.items():
            if group not in groups or config.experts.count > groups[group].experts.count:
                groups[group] = config
    return groups


def expert_group(cell: Cell, config: Config) -> str:
    """The folder name of the experts that ``config`` needs, whatever their number."""
    experts = _identity(replace(config, experts=replace(config.experts, count=1)))["experts"]
    parts = digest(_data(config), asdict(config.encoder), experts)
    return f"{cell.setting}-{cell.towers}-{parts[:6]}"


def _identity(config: Config) -> dict[str, Any]:
    """A configuration as ids have it: without later options that change nothing, under the names that options had."""
    plain = to_plain(config)
    for name, part in {**vars(config), **config.methods}.items():
        if is_dataclass(part):
            plain[name] = without_neutral(type(part), plain[name])
    return as_before(plain)


def _data(config: Config) -> str | list[Any]:
    """The source, with the options that change what is read of it, where they are not the defaults."""
    changed = differences(asdict(DataConfig()), asdict(config.data))
    options = {name: value for name, _, value in changed if name not in SAME_DATA}
    return [config.data.source, options] if options else config.data.source


def _meaning(config: Config, cell: Cell) -> dict[str, Any]:
    """The part of a configuration that a cell's answer depends on."""
    plain = _identity(config)
    apart = {"runtime", "data", "evaluate", *config.methods}
    apart -= {cell.name} if cell.kind == "method" else set()
    apart |= set() if cell.needs_experts else {"experts"}
    apart |= set() if cell.kind == "method" else {"distill"}
    meaning = {"source": _data(config), **{name: part for name, part in plain.items() if name not in apart}}
    if cell.kind == "target" and (record := Path(cell.name) / "set.json").is_file():
        meaning["content"] = digest(record.read_bytes())  # it holds the checksum of the tensors
    looks = _looks_at_val(config, cell)
    return {**meaning, "looks": looks} if looks else meaning


def _looks_at_val(config: Config, cell: Cell) -> dict[str, Any]:
    """The options of judging that choose the kept iteration or the best trial, where they are not the defaults."""
    chosen = cell.kind == "method" and (config.distill.validate_every > 0 or len(cell.configs) > 1)
    if not chosen or config.encoder.setting != "heads":
        return {}
    asked, usual = asdict(config.evaluate), asdict(EvaluateConfig())
    return {name: asked[name] for name in VAL_OPTIONS if asked[name] != usual[name]}


def run_cell(launch: Launch, run: Path, cell: Cell) -> None:
    """Answer one cell, or go on with it; writes its result.

    Raises:
        UnitFailed: a command failed; ``failed.json`` says which.
        Stopped: the user asked to stop.
    """
    folder = run / "cells" / cell.id
    try:
        try:
            made = _method_result(cell, run, folder, launch) if cell.kind == "method" else _judged(cell, folder, launch)
        except ArtefactError as error:  # what a command left cannot be read: this cell's trouble alone
            raise UnitFailed(str(error), "refused") from None
        _refuse_other_data(cell, made, folder)
    except UnitFailed as failure:
        note_failure(cell, run, str(failure))
        raise
    write_record(folder / "result.json", _description(cell) | made | {"environment": environment()})
    (folder / "failed.json").unlink(missing_ok=True)


def _refuse_other_data(cell: Cell, made: Mapping[str, Any], folder: Path) -> None:
    """Refuse a set that was distilled, in an earlier call, from other data than it is judged on."""
    if cell.kind == "method" and "made_from_data" in made["evaluation"].get("details", {}):
        raise UnitFailed(
            f"its set was distilled from other training data than {cell.configs[0].data.source} holds now. Put the "
            f"data back, or delete {folder} to distil it anew.",
            "refused",
        )


def note_failure(cell: Cell, run: Path, why: str) -> None:
    """Write down why a cell failed."""
    write_record(run / "cells" / cell.id / "failed.json", {"cell": cell.id, "row": cell.row, "error": why})


def finished(cell: Cell, run: Path) -> dict[str, Any] | None:
    """The result of a cell, if it has one of the judging that is asked for."""
    result = _kept(run / "cells" / cell.id / "result.json")
    return result if result and result.get("judging") == cell.evaluation_options else None


def failure(cell: Cell, run: Path) -> str | None:
    """Why a cell failed the last time, if it did and has no result."""
    note = _kept(run / "cells" / cell.id / "failed.json")
    return str(note.get("error")) if note else None


def _kept(path: Path) -> dict[str, Any] | None:
    """A record of a cell; None when it is missing, or damaged and has to be made again."""
    try:
        value = read_json(path, "cell")
    except ArtefactError:
        return None
    return value if isinstance(value, dict) else None


def _description(cell: Cell) -> dict[str, Any]:
    told = {name: getattr(cell, name) for name in ("row", "kind", "name", "pairs", "setting", "towers", "seed")}
    return {"cell": cell.id, **told, "judging": cell.evaluation_options}


def _method_result(cell: Cell, run: Path, folder: Path, launch: Launch) -> dict[str, Any]:
    """Distil by every option that is tried, keep the best on val, and judge it."""
    if len(cell.configs) == 1:
        made = _distilled(cell, cell.configs[0], run, folder / "made", launch)
        return _judged(cell, folder, launch, made["set"]) | {"making": made, "trials": []}
    trials = [_trial(cell, number, config, run, folder, launch) for number, config in enumerate(cell.configs, start=1)]
    scored = [trial for trial in trials if trial["val_mean_recall"] is not None]
    if not scored:
        raise UnitFailed(f"all {len(trials)} trials failed; the first: {trials[0]['error']}")
    best = max(scored, key=lambda trial: trial["val_mean_recall"])
    chosen = cell.configs[trials.index(best)]
    if cell.trial_minutes:
        made = _distilled(cell, chosen, run, folder / "made", launch)
    else:
        made = {key: best[key] for key in ("set", "seconds", "peak_memory_bytes", "selection")}
    result = _judged(cell, folder, launch, made["set"], chosen)
    return result | {"making": made, "trials": trials, "chosen": best["options"]}


def _trial(cell: Cell, number: int, config: Config, run: Path, folder: Path, launch: Launch) -> dict[str, Any]:
    """One option: its set, and one look at val. A failed trial is logged and scores nothing."""
    place = folder / f"trial-{number}"
    limit = cell.trial_minutes or config.distill.minutes
    tried = replace(config, distill=replace(config.distill, minutes=limit))
    options = {name: _lookup(to_plain(config), name) for name in _tried_options(cell)}
    record: dict[str, Any] = {"options": options, "val_mean_recall": None}
    try:
        made = _distilled(cell, tried, run, place, launch)
        found = list((place / "results" / "val").glob("*.json"))
        if not found:
            words = ["evaluate", "--config", str(place.with_suffix(".yaml")), "--run", str(place)]
            launch([*words, "--set", made["set"], "--val_only"], folder / "log.txt")
            found = list((place / "results" / "val").glob("*.json"))
        return record | made | {"val_mean_recall": read_json(found[0], "look at val")["val_mean_recall"]}
    except UnitFailed as failed:
        if failed.kind == "lost":  # says nothing about the option
            raise
        return record | {"error": str(failed)}


def _tried_options(cell: Cell) -> list[str]:
    """The dotted names of the options in which the trials differ."""
    first, *others = map(to_plain, cell.configs)
    return sorted({name for other in others for name, _, _ in differences(first, other)})


def _lookup(plain: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        plain = plain.get(part, {})
    return plain


def _distilled(cell: Cell, config: Config, run: Path, place: Path, launch: Launch) -> dict[str, Any]:
    """Distil in the run folder ``place``, unless it is done, and say what it took."""
    if not list(place.glob("sets/*/set.json")):
        words = ["distill", "--config", str(write_config(place.with_suffix(".yaml"), config)), "--run", str(place)]
        if cell.needs_experts:
            # The group may hold more: it serves the most demanding cell.
            words += ["--experts_from", str(run / "experts" / expert_group(cell, config))]
            words += ["--distill.experts", str(config.distill.experts or config.experts.count)]
        launch(words, place.parent / "log.txt")
    note = next(iter(place.glob("sets/*/set.json")))
    selection = read_json(note, "distilled set")["info"]["selection"]
    seconds = selection.get("seconds")
    return {"set": str(note.parent), "seconds": seconds, "peak_memory_bytes": _peak(place), "selection": selection}


def _peak(place: Path) -> int | None:
    """Peak memory of the last distillation, as its log says; None where a process was killed before it could say so."""
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


def _judged(cell: Cell, folder: Path, launch: Launch, target: str = "", config: Config | None = None) -> dict[str, Any]:
    """The evaluation of a set or target, in a run folder of its own."""
    place = folder / f"judged-{digest(cell.evaluation_options)[:6]}"
    if not _evaluations(place):
        asked = write_config(place.with_suffix(".yaml"), config or cell.configs[0])
        words = ["evaluate", "--config", str(asked), "--run", str(place), "--set", target or cell.name]
        launch(words, folder / "log.txt")
    evaluation = read_json(_evaluations(place)[0], "evaluation")
    for name in ("environment", "question"):
        evaluation.pop(name, None)
    return {"evaluation": evaluation, "protocol": evaluation["protocol"]}


def _evaluations(place: Path) -> list[Path]:
    return sorted((place / "results").glob("*.json"))
