"""``vldistill experts``: train experts on the real data and keep their trajectories."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.cluster.options import add_place, place_of
from vldistill.commands.shared import DONE, SOME_FAILED, add_dry_run, opened, say_next, show_plan
from vldistill.options.words import parse
from vldistill.runtime.processes import joined
from vldistill.stages.experts import experts


def main(argv: Sequence[str]) -> int:
    """The command; returns 4 where some experts failed."""

    def extend(parser: ArgumentParser) -> None:
        add_place(parser)
        add_dry_run(parser)

    config, rest = parse("experts", argv, extend)
    place = place_of(rest)
    if rest.dry_run:
        return show_plan("experts", config, rest)
    with joined() as processes:
        run, reporter = opened(rest, mute=not processes.first)
        failed = experts(run, config, reporter, place, processes)
    if failed:
        return SOME_FAILED
    if processes.first:
        say_next(reporter, "distill", "--run", rest.run)
    return DONE
