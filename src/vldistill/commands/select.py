"""``vldistill select``: choose real pairs by a selector."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.commands.shared import DONE, add_json, opened, print_record, say_next
from vldistill.options.words import parse
from vldistill.stages.select import select


def main(argv: Sequence[str]) -> int:
    """The command; prints the set's folder."""

    def extend(parser: ArgumentParser) -> None:
        about = "added to the set's name, to keep variants side by side in one run"
        parser.add_argument("--label", type=str, default="", help=about)
        add_json(parser)

    config, rest = parse("select", argv, extend)
    run, reporter = opened(rest)
    folder = select(run, config, reporter, rest.label)
    print_record(folder / "pairs.json", "coreset", set=str(folder)) if rest.json else print(folder)
    say_next(reporter, "evaluate", "--run", rest.run, "--set", folder.name)
    return DONE
