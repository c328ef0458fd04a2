"""One cell of a comparison: its configuration, the stage commands that answer it, and one result file.

A cell is independent of every other one: :func:`run_cell` takes the cell, the comparison's folder and a function that
runs a command, and leaves ``result.json`` in the cell's folder, atomically. Any process that can run commands (here, or
a task on a cluster with the same file system) can run cells.

    RUN/encode/GROUP/       notes on decoding and encoding the data; the results are in the cache
    RUN/experts/GROUP/      a run folder with the experts that all cells of one setting, towers and data share
    RUN/cells/ID/trial-1/   a run folder per trial; made/ has the set; another one its evaluation
    RUN/cells/ID/log.txt    output of the commands
    RUN/cells/ID/result.json, or failed.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path

from vldistill.cluster import Launch, UnitFailed
from vldistill.comparison.results import Answer, CellResult, Making, Trial
from vldistill.config import Config, DataConfig, EvaluateConfig
from vldistill.config.former import as_before, without_neutral
from vldistill.config.plain import Plain, Record, section
from vldistill.distillation.method import METHODS
from vldistill.errors import ArtefactError
from vldistill.evaluation.measures import number_in
from vldistill.evaluation.results import Evaluation
from vldistill.storage.files import digest, read_json, write_record
from vldistill.workbench.run_folder import differences, environment, to_plain, write_config

VAL_OPTIONS = ("head_rates", "generic_epochs")
"""Options of section ``evaluate`` by which a validation trains heads, see :func:`~.protocol.quick_score`."""
SAME_DATA = ("source", "strict", "cache")  # options that do not change the data read from a source


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell.

    Args:
        row: the label of its row.
        kind: ``method`` or ``target``.
        name: the method, or the target as in ``evaluate --set``.
        pairs: the budget; None where the target has none (``full``, a folder).
        setting: of the student.
        towers: the name of the towers.
        seed: of the distillation.
        configs: the configuration; of several, the best on val is kept.
        trial_minutes: limit of each trial; 0 is the limit of the configuration.
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

        Evaluation options are not part of the id, because re-evaluating is cheap; those that choose on val are.
        """
        parts = (self.setting, self.towers, self.row, self.pairs if self.kind == "method" else None)
        slug = re.sub(r"[^\w.]+", "-", "-".join(str(part) for part in parts if part is not None)).strip("-")
        configured = [self.kind, self.name, self.trial_minutes, *(_meaning(config, self) for config in self.configs)]
        key = digest(configured)[:6]
        return f"{slug}-s{self.seed}-{key}" if self.kind == "method" else f"{slug}-{key}"

    @property
    def evaluation_options(self) -> dict[str, Plain]:
        """How its set is evaluated."""
        return to_plain(self.configs[0])["evaluate"]

    @property
    def needs_experts(self) -> bool:
        """Whether its method matches trajectories."""
        return self.kind == "method" and METHODS.find(self.name).needs_experts

    @property
    def source(self) -> str:
        """Equal for cells that read the same source with the same options, even if its data change later."""
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
    """The experts that cells share, by folder name; the number in each is the largest that a cell needs."""
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


def _identity(config: Config) -> dict[str, Plain]:
    """A configuration as ids have it: without later options at their neutral value, under the former names."""
    plain: dict[str, Plain] = {**to_plain(config)}
    for name, part in {**vars(config), **config.methods}.items():
        if is_dataclass(part):
            plain[name] = without_neutral(type(part), section(plain, name))
    return as_before(plain)


def _data(config: Config) -> Plain:
    """The source, with non-default options that change the data read from it."""
    changed = differences(asdict(DataConfig()), asdict(config.data))
    options = {name: value for name, _, value in changed if name not in SAME_DATA}
    return [config.data.source, options] if options else config.data.source


def _meaning(config: Config, cell: Cell) -> dict[str, Plain]:
    """The part of a configuration that a cell's answer depends on."""
    plain = _identity(config)
    excluded = {"runtime", "data", "evaluate", *config.methods}
    excluded -= {cell.name} if cell.kind == "method" else set()
    excluded |= set() if cell.needs_experts else {"experts"}
    excluded |= set() if cell.kind == "method" else {"distill"}
    meaning = {"source": _data(config), **{name: part for name, part in plain.items() if name not in excluded}}
    if cell.kind == "target" and (record := Path(cell.name) / "set.json").is_file():
        meaning["content"] = digest(record.read_bytes())  # it holds the checksum of the tensors
    options = _validation_options(config, cell)
    return {**meaning, "looks": options} if options else meaning  # the key is a part of every id


def _validation_options(config: Config, cell: Cell) -> dict[str, Plain]:
    """Non-default evaluation options that choose the kept iteration or the best trial."""
    chosen = cell.kind == "method" and (config.distill.validate_every > 0 or len(cell.configs) > 1)
    if not chosen or config.encoder.setting != "heads":
        return {}
    given, usual = asdict(config.evaluate), asdict(EvaluateConfig())
    return {name: given[name] for name in VAL_OPTIONS if given[name] != usual[name]}


def run_cell(launch: Launch, run: Path, cell: Cell) -> None:
    """Run one cell, or resume it; writes its result.

    Raises:
        UnitFailed: a command failed; ``failed.json`` has its error.
        Stopped: the user asked to stop.
    """
    folder = run / "cells" / cell.id
    try:
        try:
            if cell.kind == "method":
                answer = _method_answer(cell, run, folder, launch)
            else:
                answer = Answer(_evaluated(cell, folder, launch))
        except ArtefactError as error:  # an unreadable file fails this cell alone
            raise UnitFailed(str(error), "refused") from None
        _refuse_other_data(cell, answer.evaluation, folder)
    except UnitFailed as failure:
        note_failure(cell, run, str(failure))
        raise
    write_record(folder / "result.json", {**_description(cell), **answer.to_json(), "environment": environment()})
    (folder / "failed.json").unlink(missing_ok=True)


def _refuse_other_data(cell: Cell, evaluation: Evaluation, folder: Path) -> None:
    """Refuse a set that was distilled, in an earlier call, from other data than it is evaluated on."""
    if cell.kind == "method" and "made_from_data" in evaluation.details:
        raise UnitFailed(
            f"its set was distilled from other training data than {cell.configs[0].data.source} holds now. Put the "
            f"data back, or delete {folder} to distil it again.",
            "refused",
        )


def note_failure(cell: Cell, run: Path, why: str) -> None:
    """Write the error of a failed cell."""
    write_record(run / "cells" / cell.id / "failed.json", {"cell": cell.id, "row": cell.row, "error": why})


def finished(cell: Cell, run: Path) -> CellResult | None:
    """The result of a cell, if it has one by the configured evaluation."""
    record = _kept(run / "cells" / cell.id / "result.json")
    try:
        result = CellResult.from_json(record) if record else None
    except ArtefactError:  # lacks figures: the cell runs again
        return None
    return result if result and result.evaluation_options == cell.evaluation_options else None


def failure(cell: Cell, run: Path) -> str | None:
    """The error of a cell's last run; None if it did not fail."""
    note = _kept(run / "cells" / cell.id / "failed.json")
    return str(note.get("error")) if note else None


def _kept(path: Path) -> Record | None:
    """A record of a cell; None where it is missing or damaged: the cell runs again."""
    try:
        value = read_json(path, "cell")
    except ArtefactError:
        return None
    return value if isinstance(value, dict) else None


def _description(cell: Cell) -> dict[str, Plain]:
    facts = {name: getattr(cell, name) for name in ("row", "kind", "name", "pairs", "setting", "towers", "seed")}
    return {"cell": cell.id, **facts, "judging": cell.evaluation_options}


def _method_answer(cell: Cell, run: Path, folder: Path, launch: Launch) -> Answer:
    """Distil by every option that is tried, keep the best on val, and evaluate it."""
    if len(cell.configs) == 1:
        making = _distilled(cell, cell.configs[0], run, folder / "made", launch)
        return Answer(_evaluated(cell, folder, launch, making.set), making)
    trials = [_trial(cell, number, config, run, folder, launch) for number, config in enumerate(cell.configs, start=1)]
    scores = [-1.0 if trial.val_mean_recall is None else trial.val_mean_recall for trial in trials]
    if max(scores) < 0:
        raise UnitFailed(f"all {len(trials)} trials failed; the first: {trials[0].error}")
    best = scores.index(max(scores))
    making = trials[best].making
    if cell.trial_minutes or making is None:
        making = _distilled(cell, cell.configs[best], run, folder / "made", launch)
    evaluation = _evaluated(cell, folder, launch, making.set, cell.configs[best])
    return Answer(evaluation, making, tuple(trials), trials[best].options)


def _trial(cell: Cell, number: int, config: Config, run: Path, folder: Path, launch: Launch) -> Trial:
    """One option: its set, and one validation. A failed trial is logged and scores nothing."""
    place = folder / f"trial-{number}"
    limit = cell.trial_minutes or config.distill.minutes
    tried = replace(config, distill=replace(config.distill, minutes=limit))
    options = {name: _lookup(to_plain(config), name) for name in _tried_options(cell)}
    try:
        making = _distilled(cell, tried, run, place, launch)
        found = list((place / "results" / "val").glob("*.json"))
        if not found:
            words = ["evaluate", "--config", str(place.with_suffix(".yaml")), "--run", str(place)]
            launch([*words, "--set", making.set, "--val_only"], folder / "log.txt")
            found = list((place / "results" / "val").glob("*.json"))
        return Trial(options, number_in(read_json(found[0], "validation"), "val_mean_recall"), making)
    except UnitFailed as failed:
        if failed.kind == "lost":  # its process or node is gone, whatever the option
            raise
        return Trial(options, error=str(failed))


def _tried_options(cell: Cell) -> list[str]:
    """The dotted names of the options in which the trials differ."""
    first, *others = map(to_plain, cell.configs)
    return sorted({name for other in others for name, _, _ in differences(first, other)})


def _lookup(plain: Record, name: str) -> Plain:
    head, dot, tail = name.partition(".")
    return _lookup(section(plain, head), tail) if dot else plain.get(head, {})


def _distilled(cell: Cell, config: Config, run: Path, place: Path, launch: Launch) -> Making:
    """Distil in the run folder ``place``, unless its set is there already."""
    if not list(place.glob("sets/*/set.json")):
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


def _evaluated(cell: Cell, folder: Path, launch: Launch, target: str = "", config: Config | None = None) -> Evaluation:
    """The evaluation of a set or target, in a run folder of its own."""
    place = folder / f"judged-{digest(cell.evaluation_options)[:6]}"
    if not _evaluations(place):
        path = write_config(place.with_suffix(".yaml"), config or cell.configs[0])
        words = ["evaluate", "--config", str(path), "--run", str(place), "--set", target or cell.name]
        launch(words, folder / "log.txt")
    return Evaluation.from_json(read_json(_evaluations(place)[0], "evaluation"))


def _evaluations(place: Path) -> list[Path]:
    return sorted((place / "results").glob("*.json"))
