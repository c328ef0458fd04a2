"""A comparison: run the cells of a sweep that are missing, each in its own process, and write its tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch

from vldistill.cluster import Unit, UnitFailed, run_units
from vldistill.cluster.options import Place
from vldistill.cluster.shards import WHOLE
from vldistill.cluster.units import Backend
from vldistill.comparison import table as tables
from vldistill.comparison.cells import Cell
from vldistill.comparison.data_versions import known_data, refuse_mixed
from vldistill.comparison.published import data_of, published
from vldistill.comparison.results import CellResult
from vldistill.comparison.rows import comparison_rows, published_row
from vldistill.comparison.run_cell import failure, finished, note_failure
from vldistill.comparison.sweep import Sweep
from vldistill.comparison.trials import tried_configurations
from vldistill.comparison.units import comparison_units, shared_units
from vldistill.config import expand
from vldistill.data.load import load_pairs
from vldistill.errors import ConfigError, Stopped, VldistillError
from vldistill.plan.plans import check_cell
from vldistill.runtime.log import Reporter
from vldistill.selection.choose import check_count
from vldistill.storage.files import storage_errors, write_record, write_text
from vldistill.storage.locks import held_with_children
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import environment


@dataclass(frozen=True)
class Request:
    """A comparison to run.

    Args:
        sweep: the sweep.
        every: its cells: those of the table.
        cells: those that are run, by ``--only``.
        run: the comparison's folder.
        place: where its units run, and the part of them that this job runs.
        until: the last kind of unit that is run: ``experts`` or ``cells``.
        published: data sets whose published rows are shown.
        dry_run: show the plan alone.
    """

    sweep: Sweep
    every: list[Cell]
    cells: list[Cell]
    run: Path
    place: Place
    until: str
    published: tuple[str, ...]
    dry_run: bool

    @property
    def partial(self) -> bool:
        """Whether this job runs only a part, which has no table."""
        return self.place.shard != WHOLE or self.until == "experts"

    @property
    def results(self) -> list[tuple[Cell, CellResult]]:
        """The cells of the table that are finished."""
        found = ((cell, finished(cell, self.run)) for cell in self.every)
        return [(cell, result) for cell, result in found if result is not None]


def request_of(
    sweep: Sweep,
    run: Path,
    place: Place | None = None,
    *,
    only: str = "*",
    until: str = "cells",
    published_rows: str | None = None,
    smoke: bool = False,
    dry_run: bool = False,
) -> Request:
    """A comparison to run; see Request. Raises ConfigError for cells or published rows that are unknown."""
    every = (sweep.shrunk() if smoke else sweep).cells()
    cells = [cell for cell in every if fnmatch(cell.id, only)]
    if not cells:
        raise ConfigError(f"--only {only!r} matches no cell. Cells: {', '.join(cell.id for cell in every)}.")
    names: tuple[str, ...] = ()
    if published_rows:
        sources = sorted({expand(cell.configs[0].data.source) for cell in every})
        automatic = [name for source in sources for name in data_of(source)]
        names = tuple(dict.fromkeys(automatic if published_rows == "auto" else published_rows.split(",")))
        published(names)  # refuses an unknown one now
    run = run.absolute()
    return Request(sweep, every, cells, run / "smoke" if smoke else run, place or Place(), until, names, dry_run)


def run_comparison(request: Request, reporter: Reporter) -> int:
    """Run what is missing of a comparison and write its tables; returns how many cells, or what they share, failed.

    Raises:
        ConfigError: finished cells of different data, budgets that cannot be.
        Stopped: the user request to stop.
    """
    with storage_errors(request.run):
        refuse_mixed(request.results, request.run)
        missing = [cell for cell in request.cells if finished(cell, request.run) is None]
    _refuse_budgets(missing)
    _warn_of_impossible(missing, request.run, reporter)
    shard = request.place.shard
    name = ".lock" if shard == WHOLE else f".lock-{shard.number}-{shard.count}"
    with held_with_children(request.run / name, str(request.run)) as lock:
        try:
            with request.place.backend(reporter, lock) as backend:
                broken = _run(request, backend, reporter)
            if request.partial:  # the whole comparison's table is the last command's
                return len(broken)
        except Stopped as stop:
            _write_tables(request)
            raise Stopped(f"{stop} Run the same command to resume.") from None
        failed = _write_tables(request)
    failed = {cell.id: failed[cell.id] for cell in request.cells if cell.id in failed}
    for name, why in failed.items():
        reporter.warn(f"{name}: {why}")
    if failed:
        reporter.warn(f"{len(failed)} of {len(request.cells)} cells failed; the same command tries them again.")
    return len(failed) or len(broken)


def _run(request: Request, backend: Backend, reporter: Reporter) -> dict[str, UnitFailed]:
    """Encode, record experts and run every cell that is not finished; returns the failures by unit."""
    wanted = request.place.shard.of(request.cells) if request.until == "cells" else request.cells
    missing = [cell for cell in wanted if finished(cell, request.run) is None]
    done, total = len(wanted) - len(missing), len(wanted)
    status = f"{total} cells, {done} done"
    reporter.info(f"{status}; {request.place.describe(backend.slots)}" if missing else status)
    known = known_data(request.results)
    if request.until == "experts":
        units = shared_units(request.cells, request.run, request.place.shard, known)
    else:
        units = comparison_units(missing, request.run, backend.slots, known)
    began = time.monotonic()
    cells = {f"cell {cell.id}": cell for cell in missing}

    def report(unit: Unit, error: UnitFailed | None) -> None:
        nonlocal done
        if error is not None:
            reporter.warn(f"{unit.name} failed: {error}")
        if unit.name in cells:
            done += error is None
            if error is not None:
                note_failure(cells[unit.name], request.run, str(error))
        seconds = time.monotonic() - began
        reporter.info(f"{unit.name}: {'failed' if error else 'done'} ({done}/{total} cells, {seconds:.0f} s)")

    return run_units(units, backend, report, reporter, request.place.retries)


def _refuse_budgets(cells: Sequence[Cell]) -> None:
    """Refuse cells of more pairs than images, and data that cannot be read, before any cell begins."""
    images: dict[tuple[str, bool], int] = {}
    for cell in cells:
        data = cell.configs[0].data
        if (key := (data.source, data.strict)) not in images:
            images[key] = load_pairs(expand(data.source), "train", strict=data.strict).count_images
        if cell.pairs is not None:
            check_count(images[key], cell.pairs)


def _warn_of_impossible(cells: Sequence[Cell], run: Path, reporter: Reporter) -> None:
    """Warn of cells whose options will make them fail; the other cells run."""
    benches: dict[str, Workbench] = {}
    for cell in cells:
        if cell.data_group not in benches:
            config = cell.configs[0]
            benches[cell.data_group] = Workbench(config.data, config.encoder, torch.device("cpu"), Reporter(quiet=True))
        try:
            check_cell(cell, run, benches[cell.data_group])
        except VldistillError as error:
            reporter.warn(f"{error} This cell will fail.")


def _write_tables(request: Request) -> dict[str, str]:
    """Write the four tables of what is finished; returns the failures by cell.

    Raises:
        ConfigError: cells that are finished are of different data.
    """
    found = request.results
    refuse_mixed(found, request.run)
    done = {cell.id for cell, _ in found}
    failed = {cell.id: why for cell in request.every if cell.id not in done and (why := failure(cell, request.run))}
    missing = [cell.id for cell in request.every if cell.id not in done and cell.id not in failed]
    tried = tried_configurations(request.run)
    rows = comparison_rows([result for _, result in found], tried)
    if request.published:
        budgets = {cell.pairs for cell in request.every if cell.pairs is not None}
        rows += [published_row(entry) for entry in published(request.published, budgets)]
    table = {
        "sweep": request.sweep.path.name,
        "environment": environment(),
        "rows": [row.to_json() for row in rows],
        "failed": failed,
        "missing": missing,
        "cells": [result.record for _, result in found],
        "tried": [[*place, sorted(known)] for place, known in sorted(tried.items())],
    }
    write_record(request.run / "table.json", table)
    if rows:
        sides = next((cell.configs[0].data.sides for cell in request.every), ())
        write_text(request.run / "table.md", tables.comparison_markdown(rows, failed, missing, sides))
        write_text(request.run / "table.tex", tables.comparison_latex(rows, sides))
        write_text(request.run / "table.csv", tables.comparison_csv(rows))
    else:
        listed = "".join(f"- `{name}`: {why}\n" for name, why in failed.items())
        write_text(request.run / "table.md", f"no cell is finished\n{listed}")
    return failed
