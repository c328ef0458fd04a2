"""``vldistill curve``: recall against the number of pairs, and how many pairs reach 90, 95 and 99 % of the full data.

Real pairs that selectors choose, the distilled sets of the run, and the full data, each by the generic recipe. Random
pairs are nested: those of a smaller budget are the first of a larger one. Every evaluation is kept in RUN/results, so a
stopped curve resumes, and budgets can be added. Written to RUN/curve: curve.json, curve.md and curve.png.
"""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.commands.helptext import KeptLines
from vldistill.commands.shared import DONE, add_json, opened, print_record, say_next
from vldistill.errors import ConfigError
from vldistill.options.words import parse
from vldistill.stages.curve import CurveRequest, curve


def main(argv: Sequence[str]) -> int:
    """The command; prints a table, or one JSON object."""

    def extend(parser: ArgumentParser) -> None:
        parser.description, parser.formatter_class = __doc__, KeptLines
        parser.add_argument("--budgets", type=str, default="20,50,100,200,500", help="numbers of pairs")
        parser.add_argument("--selectors", type=str, default="random,kmeans", help="of real pairs; empty for none")
        about = "distil, by the run's configuration, the budgets that the run has no set of"
        parser.add_argument("--distilled", action="store_true", help=about)
        add_json(parser)

    config, rest = parse("curve", argv, extend)
    run, reporter = opened(rest)
    selectors = tuple(name for name in rest.selectors.split(",") if name)
    text = curve(run, config, reporter, CurveRequest(_budgets(rest.budgets), selectors, rest.distilled))
    if rest.json:
        print_record(run.folder / "curve" / "curve.json", "learning curve")
    else:
        print(text, end="")
    say_next(reporter, "report", rest.run)
    return DONE


def _budgets(text: str) -> tuple[int, ...]:
    words = text.split(",")
    numbers = sorted({int(word) for word in words if word.strip().isdecimal() and int(word) >= 2})
    if len(numbers) < 2 or len(words) > len(numbers):
        raise ConfigError(f"--budgets is {text!r}; expected two or more different numbers of pairs, e.g. 20,50,100.")
    return tuple(numbers)
