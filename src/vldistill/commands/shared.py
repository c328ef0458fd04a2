"""Shared by the commands of stages: exit codes, opening the run folder, printing a plan."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from vldistill.config import Config
    from vldistill.plan.plans import Plan
    from vldistill.runtime.log import Reporter
    from vldistill.workbench.run_folder import Run

DONE, BUG, WRONG, STOPPED, SOME_FAILED = 0, 1, 2, 3, 4
"""Exit codes."""


def process() -> str:
    """Which of the processes that torchrun started this is, for messages; empty without it."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ
    return "" if alone else f"process {os.environ['RANK']}: "


def add_dry_run(parser: ArgumentParser) -> None:
    """Add ``--dry_run``."""
    parser.add_argument("--dry_run", action="store_true", help="validate, show plan, disk and expected time, and end")


def add_json(parser: ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def print_record(path: Path, what: str, **more: str) -> None:
    """Print a record of the run as one JSON object, without its checksum."""
    from vldistill.storage.files import CHECKSUM, read_json

    record = read_json(path, what)
    record.pop(CHECKSUM, None)
    print(json.dumps(more | record, ensure_ascii=False))


def show_plan(stage: str, config: Config, rest: Namespace) -> int:
    """Print what a stage would do. Raises ConfigError with what would stop it."""
    from vldistill.plan.plans import stage_plan

    return print_plan(stage_plan(stage, config, Path(rest.run), experts_from(rest)))


def print_plan(plan: Plan) -> int:
    """Print a plan. Raises ConfigError with the problems that would stop the command."""
    print(plan.text)
    return refuse_problems(plan)


def refuse_problems(plan: Plan) -> int:
    """Raises ConfigError with the problems of a plan."""
    if plan.problems:
        raise ConfigError("; ".join(plan.problems))
    return DONE


def say_next(reporter: Reporter, *words: str | Path) -> None:
    """The next command to type, ready to paste."""
    reporter.info(f"next: {shlex.join(['vldistill', *map(str, words)])}")


def experts_from(rest: Namespace) -> Path | None:
    """The other run whose experts are used, if the arguments of a stage name one."""
    given = getattr(rest, "experts_from", None)
    return Path(given) if given else None


def opened(rest: Namespace, mute: bool = False) -> tuple[Run, Reporter]:
    """The run folder that the arguments of a stage name, with its trackers, and where its lines go.

    Raises:
        ConfigError: an unknown tracker.
        MissingExtraError: one whose package is not installed.
    """
    from vldistill.runtime.log import Mute, Reporter
    from vldistill.tracking.tracker import services
    from vldistill.workbench.run_folder import Run

    reporter = Mute() if mute else Reporter(quiet=rest.quiet)
    asked = services(getattr(rest, "log", ""))
    return Run(Path(rest.run), () if mute else asked, reporter), reporter
