"""The stage that draws learning curves: evaluations at several budgets, each kept and resumed as any other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vldistill.config import Config
from vldistill.config.plain import Plain
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.drawing.figures import draw_curves
from vldistill.errors import ConfigError
from vldistill.evaluation.learning_curve import SHARES, Curve, learning_curves
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.tables import fitted, markdown
from vldistill.runtime.log import Reporter
from vldistill.selection.choose import check_count
from vldistill.selection.selector import SELECTORS
from vldistill.stages.distill import distill
from vldistill.stages.evaluate import evaluate
from vldistill.storage.files import write_record, write_text
from vldistill.workbench.headline import IN_WORDS
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run, environment

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


@dataclass(frozen=True)
class CurveRequest:
    """What is drawn.

    Args:
        budgets: numbers of pairs of the real ones, and of sets that are distilled.
        selectors: of the real pairs.
        distilled: whether to distil, by the run's configuration, the budgets that the run has no set of.
    """

    budgets: tuple[int, ...]
    selectors: tuple[str, ...]
    distilled: bool = False


def curve(run: Run, config: Config, reporter: Reporter, request: CurveRequest) -> str:
    """Evaluate the full data, real pairs and the run's sets at every budget; returns the curves as text.

    Raises:
        ConfigError: what cannot work, before anything is trained.
    """
    _check(run, config, reporter, request)
    if request.distilled:
        for pairs in request.budgets:
            distill(run, replace(config, distill=replace(config.distill, pairs=pairs)), reporter)
    full = evaluate(run, config, reporter, "full")
    by_kind: dict[str, dict[int, list[Evaluation]]] = {}
    for selector in request.selectors:
        for pairs in request.budgets:
            found = evaluate(run, config, reporter, f"{selector}:{pairs}")
            by_kind.setdefault(f"{selector} pairs", {})[pairs] = [found]
    for folder in sorted(path.parent for path in run.sets.glob("*/set.json")):
        made = DistilledSet.load(folder)
        if not made.is_coreset:
            found = evaluate(run, config, reporter, str(folder))
            by_kind.setdefault(_kind(made), {}).setdefault(len(made), []).append(found)
    curves = learning_curves(by_kind, full)
    place = run.folder / "curve"
    _write(place, curves, full)
    reporter.info(f"written: {place}/curve.json, .md and .png; `vldistill report {run.folder}` shows it too")
    return curve_text(curves, full, fitted)


def _check(run: Run, config: Config, reporter: Reporter, request: CurveRequest) -> None:
    if "generic" not in config.evaluate.recipes:
        raise ConfigError("a learning curve compares by the generic recipe: add generic to evaluate.recipes.")
    if config.evaluate.protocol != "last":
        raise ConfigError(f"evaluate.protocol is {config.evaluate.protocol!r}; a learning curve takes last.")
    for selector in request.selectors:
        SELECTORS.find(selector)
    run.check(config)
    bench = open_bench(config, reporter, run=run)
    check_count(bench.pairs("train").count_images, max(request.budgets))


def _kind(made: DistilledSet) -> str:
    """Sets of one method and label are one curve, whatever their pairs and seed."""
    label = re.sub(r"^[\w.]+?-\d+-s\d+-?", "", made.name)
    return f"{made.info.get('method', 'set')}{f' {label}' if label else ''}, distilled"


def _write(place: Path, curves: Sequence[Curve], full: Evaluation) -> None:
    assert full.generic is not None
    place.mkdir(parents=True, exist_ok=True)
    plain: list[Plain] = [one.to_json() for one in curves]
    figure = full.generic.headline
    write_record(
        place / "curve.json", {"curves": plain, "full": figure.to_json(), "set": full.set, "environment": environment()}
    )
    write_text(place / "curve.md", curve_text(curves, full))
    draw_curves(
        {one.name: [(point.pairs, point.mean) for point in one.points] for one in curves},
        place / "curve.png",
        xlabel="pairs",
        ylabel=f"{IN_WORDS[full.generic.measure]} on test, %",
        levels={"full data": figure.mean, "chance": full.chance_headline},
    )


def curve_text(curves: Sequence[Curve], full: Evaluation, table: Table = markdown) -> str:
    """The curves as a table, and how many pairs reach a share of the full data.

    Args:
        table: makes a table of a header and rows.
    """
    assert full.generic is not None
    words = IN_WORDS[full.generic.measure]
    budgets = sorted({point.pairs for one in curves for point in one.points})
    rows = [[one.name, *_cells(one, budgets), *map(str, one.needed)] for one in curves]
    header = ["", *(f"{count:,}" for count in budgets), *(f"pairs until {share:.0%}" for share in SHARES)]
    part = f" {full.part_of_full}." if full.part_of_full else ""
    notes: Mapping[str, str] = {
        "numbers": f"{words[0].upper()}{words[1:]} on test in percent with its 95 % interval, by pairs; generic recipe "
        "chosen on val.",
        "full": f"The full data reach {full.generic.headline}; chance is {full.chance_headline:.2f}.{part}",
        "until": "Pairs until a share of the full data: a monotone fit with its 95 % interval; 'more' is beyond the "
        "largest budget.",
    }
    return "\n".join([table(header, rows), "", *notes.values(), ""])


def _cells(one: Curve, budgets: Sequence[int]) -> list[str]:
    known = {point.pairs: f"{point.mean:.1f} [{point.low:.1f}, {point.high:.1f}]" for point in one.points}
    return [known.get(count, "-") for count in budgets]
