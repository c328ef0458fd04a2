"""``--dry_run``: the plan of a stage or a comparison, the disk it needs and its expected time.

Nothing is decoded or written, and no weights are downloaded (of a text tower of the hub, its tokenizer and shape are).
Times (plan/estimate.py) are rough: minutes or days. Errors that the command would raise are problems of its plan.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vldistill.comparison.cells import Cell, expert_group, shared_experts
from vldistill.comparison.run_cell import failure, finished
from vldistill.config import Config, ResolvedDistillConfig
from vldistill.distillation.method import METHODS
from vldistill.errors import ConfigError, VldistillError
from vldistill.experts.record import PlannedExpert, expert_files, planned_experts
from vldistill.experts.trajectory import Trajectory
from vldistill.options.resolve import UNTIL_TIME_IS_OVER, ResolvedConfig, resolve
from vldistill.plan.estimate import Estimate, human_time, iterations_of
from vldistill.selection.choose import check_count
from vldistill.stages.distill_checks import check_asked, check_data, check_method, refuse_other_set
from vldistill.storage.files import human_bytes
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import Run

CELL_BYTES = 20_000  # an evaluated cell of a matrix, about


class Plan(NamedTuple):
    """A plan as text, and the problems that would stop the command."""

    text: str
    problems: tuple[str, ...]


def stage_plan(stage: str, config: Config, run: Path, experts_from: Path | None = None) -> Plan:
    """The plan of ``experts`` or ``distill``."""
    config = resolve(config)
    Run(run).check(config.given)
    estimate = Estimate(config)
    lines = [f"plan of `vldistill {stage}` in {run}", *estimate.describe()]
    if estimate.ready and stage == "experts":
        each, missing, count = estimate.experts_bytes(run)
        lines.append(
            f"experts: {count}, {count - missing} done; {human_bytes(each)} each, {_disk(each * missing, run)}"
        )
        lines.append(estimate.time_line(lambda: missing * estimate.expert_seconds() + estimate.encode_seconds))
    elif estimate.ready:
        distill = config.distill
        lines += [config.why] if config.why else []
        tower = estimate.bench.image_tower
        image = tower.width if distill.space == "features" else 3 * (distill.size or tower.size) ** 2
        numbers = distill.pairs * (image + estimate.bench.text_tower.width)
        lines.append(f"{distill.method}: {distill.pairs} pairs, {_length(distill)}")
        # the set, its preview's pictures, and a checkpoint: variables, two moments, the best, the ones before
        lines.append(f"{numbers:,} learned numbers, {_disk(4 * numbers * (7 + len(distill.keep)), run)}")
        lines.append(estimate.time_line(lambda: estimate.distill_seconds(config) + estimate.encode_seconds))
        estimate.check(lambda: check_data(config, estimate.bench))
        experts: Sequence[Trajectory | PlannedExpert] = []
        if METHODS.find(distill.method).needs_experts:
            experts, missing = _experts(Run(experts_from or run).experts, config)
            lines += missing
        estimate.check(lambda: check_method(config, estimate.bench, experts))
    if stage == "distill":
        estimate.check(lambda: check_asked(config, experts_from))
        estimate.check(lambda: refuse_other_set(Run(run), config))
    return Plan("\n".join(lines), tuple(estimate.problems))


def _length(distill: ResolvedDistillConfig) -> str:
    """How long a distillation lasts."""
    iterations = iterations_of(distill)
    if not distill.minutes or not iterations:
        return f"{iterations} iterations"
    if iterations == UNTIL_TIME_IS_OVER:
        return f"as many iterations as {distill.minutes:g} minutes have"
    return f"{iterations} iterations, at most {distill.minutes:g} minutes"


def _experts(folder: Path, config: ResolvedConfig) -> tuple[Sequence[Trajectory | PlannedExpert], list[str]]:
    """The recorded experts; or those to record, and a line that lists this as the first step."""
    try:
        return [Trajectory(path) for path in expert_files(folder, config.distill.experts)], []
    except VldistillError as error:
        return planned_experts(folder, config.experts, config.distill.experts), [f"first: {error}"]


def comparison_plan(cells: Sequence[Cell], run: Path, workers: int) -> Plan:
    """The plan of a comparison."""
    lines = [f"plan of `vldistill compare` in {run}: {len(cells)} cells, {workers} at a time"]
    groups: dict[str, Estimate] = {}
    experts: set[str] = set()
    known: set[str] = set()
    shared = shared_experts(cells)
    seconds, disk = 0.0, 0
    for cell in cells:
        if cell.data_group not in groups:
            estimate = groups[cell.data_group] = Estimate(cell.configs[0])
            lines += [f"  {line}" for line in estimate.describe(known)]
            known |= set(estimate.data_lines())
            seconds += estimate.encode_seconds if estimate.timed else 0.0
        estimate = groups[cell.data_group]
        for group in cell.expert_groups:
            if group not in experts and estimate.ready:
                experts.add(group)
                recorded = estimate.of(shared[group])
                each, missing, count = recorded.experts_bytes(run / "experts" / group)
                disk += each * missing
                needed = missing * recorded.expert_seconds() if recorded.timed else 0.0
                seconds += needed
                lines.append(f"  experts {group}: {count}, {count - missing} done, {human_time(needed)}")
    lines.append("cells:")
    for cell in cells:
        estimate = groups[cell.data_group]
        state, needed = _cell_plan(cell, run, estimate)
        seconds += needed
        lines.append(f"  {cell.id}: {state}")
        if finished(cell, run) is None:
            if cell.pairs is not None and estimate.ready:
                estimate.check(functools.partial(check_count, estimate.counts["train"][0], cell.pairs))
            estimate.check(functools.partial(check_cell, cell, run, estimate.bench))
    problems = list(dict.fromkeys(text for estimate in groups.values() for text in estimate.problems))
    lines.append(f"experts: {_disk(disk, run)}")
    if not problems:
        unknown = sorted({e.config.encoder.setting for e in groups.values() if not e.timed})
        untimed = f", without setting {', '.join(unknown)}" if unknown else ""
        lines.append(f"expected time: {human_time(seconds / workers)} with {workers} at a time{untimed}")
    return Plan("\n".join(lines), tuple(problems))


def check_cell(cell: Cell, run: Path, bench: Workbench) -> None:
    """Refuse a cell whose set cannot be made as configured, before anything is decoded. Raises ConfigError."""
    if cell.kind != "method":
        return
    for config in cell.configs:
        try:
            config = resolve(config)
            check_asked(config)
            folder = run / "experts" / expert_group(cell, config)
            experts = planned_experts(folder, config.experts, config.distill.experts) if cell.needs_experts else []
            check_method(config, bench, experts)
        except ConfigError as error:
            raise ConfigError(f"{cell.id}: {error}") from None


def cross_plan(
    columns: Mapping[str, Config],
    rows: Sequence[tuple[str, int | None]],
    folder: Path,
    done: Container[tuple[str, str]],
) -> Plan:
    """The plan of a matrix.

    Args:
        columns: configuration by the name of its towers.
        rows: names, and pairs (None: the full data).
        folder: where the matrix is kept.
        done: cells that are finished, by row and column.
    """
    lines = [f"plan of `vldistill cross` in {folder}: {len(rows)} rows on {len(columns)} kinds of towers"]
    problems: list[str] = []
    known: set[str] = set()
    seconds = 0.0
    for column, config in columns.items():
        estimate = Estimate(config)
        problems += [text for text in estimate.problems if text not in problems]
        missing = [(name, pairs) for name, pairs in rows if (name, column) not in done]
        needed = 0.0
        if estimate.timed and missing:
            evaluations = (estimate.evaluation_seconds(config, pairs) for _, pairs in missing)
            needed = estimate.encode_seconds + sum(evaluations)
        seconds += needed
        time_said = f", {human_time(needed)}" if needed else ""
        lines.append(f"{column}: {len(rows) - len(missing)} of {len(rows)} done{time_said}")
        lines += [f"  {line}" for line in estimate.describe(known)]
        known |= set(estimate.data_lines())
    lines.append(f"matrix: {_disk(len(rows) * len(columns) * CELL_BYTES, folder)}, beside the caches")
    if not problems:
        lines.append(f"expected time: {human_time(seconds)}")
    return Plan("\n".join(lines), tuple(problems))


def _cell_plan(cell: Cell, run: Path, estimate: Estimate) -> tuple[str, float]:
    """The state of a cell in words, and the seconds it still needs."""
    if finished(cell, run) is not None:
        return "done", 0.0
    failed = f", failed the last time: {why}" if (why := failure(cell, run)) else ""
    if not estimate.timed:
        return f"to do{failed}", 0.0
    seconds = estimate.evaluation_seconds(cell.configs[0], cell.pairs)
    if cell.kind == "method":
        configs = [resolve(config) for config in cell.configs]
        trials = configs if len(configs) > 1 else []
        if cell.trial_minutes or not trials:
            seconds += estimate.distill_seconds(configs[0])
        for config in trials:
            minutes = cell.trial_minutes or config.distill.minutes
            seconds += estimate.distill_seconds(replace(config, distill=replace(config.distill, minutes=minutes)))
    trials_said = f", {len(cell.configs)} trials" if len(cell.configs) > 1 else ""
    return f"to do, {human_time(seconds)}{trials_said}{failed}", seconds


def _disk(needed: int, folder: Path) -> str:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    warning = "" if free >= needed else ": NOT ENOUGH"
    return f"{human_bytes(needed)} of disk, {human_bytes(free)} free{warning}"
