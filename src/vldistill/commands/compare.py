"""``vldistill compare``: run the cells of a sweep file, each in its own process, and write one table.

The run folder holds ``experts/`` and ``cells/`` (see comparison/run_cell.py) and the table as ``table.md``,
``table.tex``, ``table.csv`` and ``table.json``. Finished cells are kept and failed ones are tried again. A cell's name
changes with everything its result depends on, so a sweep file can be extended in place. The table has every finished
cell of the sweep, also after ``--only``; results of ``--smoke`` are in the folder ``smoke`` of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from vldistill.api.comparing import Request, request_of, run_comparison
from vldistill.cluster.options import add_place, place_of
from vldistill.commands.helptext import KeptLines
from vldistill.commands.shared import DONE, SOME_FAILED, add_json, print_record, refuse_problems
from vldistill.comparison import sweepfile
from vldistill.comparison.data_versions import refuse_mixed
from vldistill.comparison.units import UNTIL
from vldistill.config.plain import Plain
from vldistill.config.plain_yaml import parse_yaml
from vldistill.errors import ConfigError
from vldistill.options.merge import merged, nested
from vldistill.options.parser import packaged_config
from vldistill.plan.plans import comparison_plan
from vldistill.runtime.log import Reporter


def main(argv: Sequence[str]) -> int:
    """The command; returns 0, or 4 when some cells, or what they share, failed.

    Raises:
        ConfigError: a sweep, an option or a number of workers that cannot work; finished cells of different data.
        Stopped: the user request to stop.
    """
    request, reporter, as_json = _parse(argv)
    if request.dry_run:
        plan = comparison_plan(request.cells, request.run, request.place.workers)
        print(plan.text)
        refuse_mixed(request.results, request.run)
        return refuse_problems(plan)
    failed = run_comparison(request, reporter)
    if as_json and not request.partial:
        print_record(request.run / "table.json", "comparison")
    elif not request.partial:
        print((request.run / "table.md").read_text(encoding="utf-8"), end="")
    return SOME_FAILED if failed else DONE


def _parse(argv: Sequence[str]) -> tuple[Request, Reporter, bool]:
    parser = ArgumentParser(
        prog="vldistill compare",
        description=f"{__doc__}\n{sweepfile.__doc__}",
        epilog="Any option of a stage holds for every cell, e.g. --data.source photos/ --evaluate.seeds 3.",
        formatter_class=KeptLines,
    )
    parser.add_argument("--config", type=str, required=True, help="the sweep file")
    parser.add_argument("--run", type=str, required=True, help="the comparison's folder")
    parser.add_argument("--base", type=str, default=None, help="another base configuration than the sweep's")
    add_place(parser)
    parser.add_argument(
        "--until", choices=UNTIL, default="cells", help="experts: only what cells share, no cells (for job arrays)"
    )
    parser.add_argument("--only", type=str, default="*", help="run the cells whose names match, e.g. '*bitraj*'")
    parser.add_argument("--pairs", type=str, default=None, help="other budgets than the sweep's, e.g. 20,50")
    parser.add_argument(
        "--published",
        nargs="?",
        const="auto",
        default=None,
        help="show published rows too: flickr8k, flickr30k, coco, or those of the data",
    )
    about = "test that everything runs: a small version on drawn scenes, in RUN/smoke"
    parser.add_argument("--smoke", action="store_true", help=about)
    parser.add_argument("--dry_run", action="store_true", help="validate, show cells, disk and time, and end")
    add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    own, options = _split(argv)
    given = parser.parse_args(own)
    if not given.run:
        raise ConfigError("vldistill compare needs --run FOLDER, e.g. --run runs/board.")
    place = place_of(given)
    sweep = sweepfile.read_sweep(
        Path(packaged_config(given.config)), options, given.base, other_pairs=bool(given.pairs)
    )
    if given.pairs:
        sweep = sweep.with_pairs(_budgets(given.pairs))
    request = request_of(
        sweep, Path(given.run), place,
        only=given.only, until=given.until, published_rows=given.published, smoke=given.smoke, dry_run=given.dry_run,
    )  # fmt: skip
    return request, Reporter(quiet=given.quiet), given.json


def _budgets(text: str) -> tuple[int, ...]:
    try:
        pairs = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--pairs is {text!r}; expected numbers, e.g. 20,50.") from None
    if min(pairs) < 2:
        raise ConfigError(f"--pairs is {text!r}; expected at least 2 pairs (one alone has no contrast).")
    return pairs


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, Plain]]:
    """The command's own words, and ``--section.option VALUE`` as options of every cell."""
    own: list[str] = []
    options: dict[str, Plain] = {}
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
        options = merged(options, nested({name: _value(word, value)}))
    return own, options


def _value(option: str, value: str) -> Plain:
    """What was typed for an option, as YAML. Raises ConfigError."""
    try:
        return parse_yaml(value)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{option} is {value[:80]!r}, which is not YAML ({str(error).splitlines()[0]}).") from None
