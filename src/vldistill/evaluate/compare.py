"""``vldistill compare``: a sweep file becomes one table, cell by cell, in processes of their own.

The run folder holds ``experts/`` and ``cells/`` (see evaluate/cells.py) and the table as ``table.md``,
``table.tex``, ``table.csv`` and ``table.json``. A cell that is finished is not done again, one that failed is tried
again, and a cell's name changes with whatever its answer depends on: a sweep file can grow in place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from vldistill.config import expand
from vldistill.errors import ConfigError, Stopped
from vldistill.evaluate.cells import (
    Cell,
    CellFailed,
    Launch,
    failure,
    finished,
    run_cell,
    shared_experts,
    write_config,
)
from vldistill.evaluate.options import merged, nested
from vldistill.evaluate.published import data_of, published
from vldistill.evaluate.sweep import Sweep, read_sweep
from vldistill.evaluate.workers import Job, Workers, cores, only_one
from vldistill.files import write_json, write_text
from vldistill.helptext import KeptLines
from vldistill.log import Reporter
from vldistill.report.comparison import (
    comparison_csv,
    comparison_latex,
    comparison_markdown,
    comparison_rows,
    published_row,
)
from vldistill.runs import environment

DONE, SOME_FAILED = 0, 4
SECTIONS = ("data", "encoder", "experts", "distill", "evaluate", "runtime")


@dataclass(frozen=True)
class Asked:
    """What the command line asked for.

    Args:
        sweep: the sweep.
        cells: its cells, those that ``--only`` leaves.
        run: the comparison's folder.
        workers: processes at a time.
        threads: CPU threads of each.
        published: data sets whose published rows are shown.
        dry_run: show the plan alone.
    """

    sweep: Sweep
    cells: list[Cell]
    run: Path
    workers: int
    threads: int
    published: tuple[str, ...]
    dry_run: bool


def compare(argv: Sequence[str]) -> int:
    """The command; returns 0, or 4 when some cells failed.

    Raises:
        ConfigError: a sweep, an option or a number of workers that cannot work.
        Stopped: the user asked to stop.
    """
    asked, reporter = _parse(argv)
    if asked.dry_run:
        from vldistill.plan import comparison_plan

        text, problems = comparison_plan(asked.cells, asked.run, asked.workers)
        print(text)
        if problems:
            raise ConfigError("; ".join(problems))
        return DONE
    with only_one(asked.run) as lock:
        workers = Workers(asked.workers, asked.threads, lock)
        try:
            _run(asked, workers, reporter)
        except Stopped as stop:
            _write_tables(asked)
            raise Stopped(f"{stop} The same command goes on.") from None
        failed = _write_tables(asked)
    print((asked.run / "table.md").read_text(encoding="utf-8"), end="")
    for name, why in failed.items():
        reporter.warn(f"{name}: {why}")
    if failed:
        reporter.warn(f"{len(failed)} of {len(asked.cells)} cells failed; the same command tries them again.")
    return SOME_FAILED if failed else DONE


def _parse(argv: Sequence[str]) -> tuple[Asked, Reporter]:
    from jsonargparse import ArgumentParser

    from vldistill.evaluate import sweep as sweeps

    parser = ArgumentParser(
        prog="vldistill compare",
        description=f"{__doc__}\n{sweeps.__doc__}",
        epilog="Any option of a stage holds for every cell, e.g. --data.source photos/ --evaluate.seeds 3.",
        formatter_class=KeptLines,
    )
    parser.add_argument("--config", type=str, required=True, help="the sweep file")
    parser.add_argument("--run", type=str, required=True, help="the comparison's folder")
    parser.add_argument("--base", type=str, default=None, help="another base configuration than the sweep's")
    parser.add_argument("--workers", type=int, default=1, help="cells at a time; CPU cores are divided among them")
    parser.add_argument("--only", type=str, default="*", help="a pattern of cell names, e.g. '*bitraj*'")
    parser.add_argument("--pairs", type=str, default=None, help="other budgets than the sweep's, e.g. 20,50")
    parser.add_argument(
        "--published",
        nargs="?",
        const="auto",
        default=None,
        help="show published rows too: flickr8k, flickr30k, coco, or those of the data",
    )
    parser.add_argument("--smoke", action="store_true", help="shrunken to drawn scenes: does everything run?")
    parser.add_argument("--dry_run", action="store_true", help="validate, show cells, disk and time, and end")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    own, options = _split(argv)
    given = parser.parse_args(own)
    from vldistill.parsing import packaged_config

    if given.workers < 1 or given.workers > cores():
        raise ConfigError(
            f"--workers is {given.workers}; expected 1 to {cores()}, the CPU cores that this process may use."
        )
    sweep = read_sweep(Path(packaged_config(given.config)), options, given.base)
    if given.pairs:
        sweep = _with_pairs(sweep, given.pairs)
    every = (sweep.shrunk() if given.smoke else sweep).cells()
    cells = [cell for cell in every if fnmatch(cell.id, given.only)]
    if not cells:
        raise ConfigError(f"--only {given.only!r} fits no cell. Cells: {', '.join(cell.id for cell in every)}.")
    names: tuple[str, ...] = ()
    if given.published:
        sources = sorted({expand(cell.configs[0].data.source) for cell in cells})
        automatic = [name for source in sources for name in data_of(source)]
        names = tuple(dict.fromkeys(automatic if given.published == "auto" else given.published.split(",")))
        published(names)  # refuses an unknown one now
    run, threads = Path(given.run), cores() // given.workers
    asked = Asked(sweep, cells, run, given.workers, threads, names, given.dry_run)
    return asked, Reporter(quiet=given.quiet)


def _with_pairs(sweep: Sweep, text: str) -> Sweep:
    """The sweep with other budgets, also where a row has its own."""
    try:
        pairs = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--pairs is {text!r}; expected numbers, e.g. 20,50.") from None
    if min(pairs) < 2:
        raise ConfigError(f"--pairs is {text!r}; expected at least 2 pairs (one alone has no contrast).")
    methods = {label: {**entry, "pairs": pairs} for label, entry in sweep.methods.items()}
    targets = {name: {**limits, "pairs": pairs} for name, limits in sweep.targets.items()}
    return replace(sweep, pairs=pairs, methods=methods, targets=targets)


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The command's own words, and ``--section.option VALUE`` as options of every cell."""
    own: list[str] = []
    options: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            own.append(word)
            continue
        if not equals:
            if not words:
                raise ConfigError(f"option {word} has no value.")
            value = words.pop(0)
        options = merged(options, nested({name: yaml.safe_load(value)}))
    return own, options


def _run(asked: Asked, workers: Workers, reporter: Reporter) -> None:
    """Encode, record experts and run every cell that is not finished."""
    missing = [cell for cell in asked.cells if finished(cell, asked.run) is None]
    said = f"{len(asked.cells)} cells, {len(asked.cells) - len(missing)} done"
    reporter.info(f"{said}; {asked.workers} at a time, {asked.threads} threads each" if missing else said)
    failed: dict[str, str] = {}
    jobs = _jobs(missing, asked.run, workers.launch, failed)
    done, total = len(asked.cells) - len(missing), len(asked.cells)
    began = time.monotonic()

    def heard(job: Job, error: BaseException | None) -> None:
        nonlocal done
        if error is not None and not isinstance(error, CellFailed | Stopped):
            raise error
        if isinstance(error, CellFailed):
            failed[job.name] = str(error)
            reporter.warn(f"{job.name} failed: {error}")
        if isinstance(error, Stopped):
            return
        if job.name.startswith("cell "):
            done += 1
        seconds = time.monotonic() - began
        reporter.info(f"{job.name}: {'failed' if error else 'done'} ({done}/{total} cells, {seconds:.0f} s)")

    workers.run(jobs, heard)


def _jobs(cells: Sequence[Cell], run: Path, launch: Launch, failed: Mapping[str, str]) -> list[Job]:
    """Jobs in order: what cells share comes first, and is made once."""
    jobs: dict[str, Job] = {}
    experts = shared_experts(cells)
    for cell in cells:
        encode = f"encode {cell.data_group}"
        jobs.setdefault(encode, Job(encode, partial(_encode, cell, run, launch)))
        needs = [encode]
        for group in cell.expert_groups:
            name = f"experts {group}"
            work = partial(_experts, run / "experts" / group, experts[group], launch)
            jobs.setdefault(name, Job(name, work, (encode,)))
            needs.append(name)
        name = f"cell {cell.id}"
        jobs[name] = Job(name, partial(_cell, cell, run, launch, failed), tuple(needs))
    order = {"encode": 0, "experts": 1, "cell": 2}
    return sorted(jobs.values(), key=lambda job: order[job.name.split()[0]])


def _encode(cell: Cell, run: Path, launch: Launch) -> None:
    place = run / "encode" / cell.data_group
    config = write_config(place.with_suffix(".yaml"), cell.configs[0])
    launch(["encode", "--config", str(config), "--run", str(place)], place.with_suffix(".log"))


def _experts(place: Path, config: Any, launch: Launch) -> None:
    asked = write_config(place.with_suffix(".yaml"), config)
    launch(["experts", "--config", str(asked), "--run", str(place)], place.with_suffix(".log"))


def _cell(cell: Cell, run: Path, launch: Launch, failed: Mapping[str, str]) -> None:
    broken = sorted({f"experts {group}" for group in cell.expert_groups}.intersection(failed))
    if broken:
        why = f"{broken[0]} failed: {failed[broken[0]]}"
        write_json(run / "cells" / cell.id / "failed.json", {"cell": cell.id, "row": cell.row, "error": why})
        raise CellFailed(why)
    run_cell(cell, run, launch)


def _write_tables(asked: Asked) -> dict[str, str]:
    """Write the four tables of what is finished; returns the failures by cell."""
    found = [(cell, finished(cell, asked.run)) for cell in asked.cells]
    results = [result for _, result in found if result is not None]
    failed = {cell.id: why for cell, result in found if result is None and (why := failure(cell, asked.run))}
    rows = comparison_rows(results)
    if asked.published:
        budgets = {cell.pairs for cell in asked.cells if cell.pairs is not None}
        rows += [published_row(entry) for entry in published(asked.published, budgets)]
    table = {
        "sweep": str(asked.sweep.path),
        "environment": environment(),
        "rows": rows,
        "failed": failed,
        "missing": [cell.id for cell, result in found if result is None and cell.id not in failed],
        "cells": results,
    }
    write_json(asked.run / "table.json", table)
    if rows:
        write_text(asked.run / "table.md", comparison_markdown(rows, failed))
        write_text(asked.run / "table.tex", comparison_latex(rows))
        write_text(asked.run / "table.csv", comparison_csv(rows))
    else:
        listed = "".join(f"- `{name}`: {why}\n" for name, why in failed.items())
        write_text(asked.run / "table.md", f"no cell is finished\n{listed}")
    return failed
