"""``vldistill distill``: distil pairs by a method."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.commands.shared import (
    DONE,
    add_dry_run,
    add_json,
    experts_from,
    opened,
    print_record,
    say_next,
    show_plan,
)
from vldistill.options.resolve import resolve
from vldistill.options.words import parse, refuse_idle_options
from vldistill.runtime.processes import joined
from vldistill.stages.distill import distill


def main(argv: Sequence[str]) -> int:
    """The command; prints the set's folder."""

    def extend(parser: ArgumentParser) -> None:
        parser.add_argument("--experts_from", type=str, default=None, help="another run folder, whose experts are used")
        add_dry_run(parser)
        add_json(parser)

    given, rest = parse("distill", argv, extend)
    config = resolve(given)
    refuse_idle_options(argv, config)
    if rest.dry_run:
        return show_plan("distill", config, rest)
    with joined() as processes:
        run, reporter = opened(rest, mute=not processes.first)
        folder = distill(run, config, reporter, experts_from(rest), processes)
    if processes.first:
        print_record(folder / "set.json", "distilled set", set=str(folder)) if rest.json else print(folder)
        say_next(reporter, "evaluate", "--run", rest.run, "--set", folder.name)
    return DONE
