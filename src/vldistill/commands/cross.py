"""``vldistill cross``: one set on a list of towers, as one matrix.

The list is a YAML file of encoder sections by name; an ``image`` or ``text`` section replaces the run's own as a whole:

    mobilenetv2_050: {image: {name: mobilenetv2_050, size: 128}}
    bert:            {text: {name: bert-base-uncased}}

Learned pictures are resized and normalised for another image tower. Sentence vectors reach another text tower by a
ridge map fitted on training captions, which a note below the matrix reports. The same number of random pairs and the
full data are rows too, because towers differ in what they can learn. The matrix of a set on a list TOWERS.yaml is
written to RUN/cross/SET-on-TOWERS.md, .csv and .json; finished cells are kept and not evaluated again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from vldistill.commands.helptext import KeptLines
from vldistill.commands.shared import DONE, SOME_FAILED, add_json, opened, print_plan, print_record
from vldistill.comparison.matrix import OWN, Matrix, name_of, pairs_of, read_towers
from vldistill.config import Config
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError, Stopped, VldistillError
from vldistill.options.parser import packaged_config
from vldistill.options.words import parse
from vldistill.plan.plans import cross_plan
from vldistill.runtime.log import Reporter
from vldistill.stages.evaluate import set_folder
from vldistill.storage.locks import held
from vldistill.workbench.run_folder import Run


def main(argv: Sequence[str]) -> int:
    """The command; returns 0, or 4 when a tower failed."""

    def extend(parser: ArgumentParser) -> None:
        parser.description, parser.formatter_class = __doc__, KeptLines
        parser.add_argument("--set", type=str, required=True, help="a set's folder, or the name of one of the run's")
        parser.add_argument("--towers", type=str, required=True, help="YAML: encoder sections by name")
        about = "other rows; a bare selector such as random chooses as many pairs"
        parser.add_argument("--also", type=str, nargs="*", default=None, help=f"{about} (default: random full)")
        add_json(parser)
        parser.add_argument("--dry_run", action="store_true", help="validate, show towers, disk and time, and end")

    config, given = parse("cross", argv, extend)
    run, reporter = opened(given)
    run.check(config)
    also, folder = _rows(given.also, config), set_folder(run, given.set)
    towers = read_towers(Path(packaged_config(given.towers, "--towers")), config)
    if given.dry_run:
        return _planned(run, towers, folder, also, reporter)
    distilled = DistilledSet.load(folder)
    matrix = Matrix(run, towers, _targets(distilled, len(distilled), also), reporter)
    run.begin(config)
    try:
        with held(matrix.folder / ".lock", str(matrix.folder)):
            matrix.fill()
    except KeyboardInterrupt:
        raise Stopped("stopped; finished cells of the matrix are kept. Run the same command to resume.") from None
    name = f"{distilled.name}-on-{Path(given.towers).stem}"
    text = matrix.write(name)
    if given.json:
        print_record(matrix.folder / f"{name}.json", "matrix")
    else:
        print(text, end="")
    reporter.info(f"written: {matrix.folder / name}.md, .csv and .json")
    return SOME_FAILED if matrix.failed else DONE


def _rows(also: list[str] | None, config: Config) -> list[str]:
    """The rows of real pairs, which only the generic recipe can train on. Raises ConfigError."""
    if "generic" in config.evaluate.recipes:
        return ["random", "full"] if also is None else also
    if also:
        raise ConfigError(
            f"--also {' '.join(also)}: real pairs have no recipe of their own, and evaluate.recipes is "
            f"{', '.join(config.evaluate.recipes)}. Add generic, or leave --also out."
        )
    return []


def _planned(run: Run, towers: Mapping[str, Config], folder: str, also: Sequence[str], reporter: Reporter) -> int:
    """``--dry_run``: a set that is missing stops the real command, but the plan is still shown."""
    missing: list[str] = []
    subject, pairs = Path(folder).name, towers[OWN].distill.pairs
    try:
        subject = DistilledSet.load(folder)
        pairs = len(subject)
    except VldistillError as error:
        missing.append(str(error))
    targets = _targets(subject, pairs, also)
    matrix = Matrix(run, towers, targets, reporter)
    rows = [(name_of(target), None if target == "full" else pairs_of(target, pairs)) for target in targets]
    plan = cross_plan(towers, rows, matrix.folder, matrix.finished())
    return print_plan(plan._replace(problems=(*missing, *plan.problems)))


def _targets(subject: str | DistilledSet, pairs: int, also: Sequence[str]) -> list[str | DistilledSet]:
    """The rows: the set and the real pairs; a selector without a number gets the set's, as in ``random:100``."""
    return [subject, *(name if name == "full" or ":" in name else f"{name}:{pairs}" for name in also)]
