"""``vldistill demo``: drawn scenes, offline, from nothing to a table, a preview and a report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vldistill.commands.shared import DONE, add_json, opened
from vldistill.config.plain import Plain
from vldistill.distillation.method import METHODS
from vldistill.distillation.resume import METRICS_FILE
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.drawing.figures import draw_curves
from vldistill.evaluation.measures import MEASURES, ratio
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.tables import evaluation_text
from vldistill.options.resolve import resolve
from vldistill.options.words import parse
from vldistill.reporting.write import ReportOptions, write_report
from vldistill.stages.distill import distill
from vldistill.stages.evaluate import evaluate
from vldistill.stages.experts import experts
from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import Run, environment


def main(argv: Sequence[str]) -> int:
    """The command: distil 20 pairs, and compare them with 20 random pairs and the full data."""
    typed = {word.partition("=")[0] for word in argv}
    usual = {"--config": "configs/scenes.yaml", "--run": "runs/demo"}
    missing = [part for option in usual if option not in typed for part in (option, usual[option])]
    given, rest = parse("demo", [*missing, *argv], add_json)
    config = resolve(given)
    run, reporter = opened(rest)
    began = time.monotonic()
    if config.why:
        reporter.info(config.why)
    needs_experts = METHODS.find(config.distill.method).needs_experts
    stages = iter(range(1, 5 if needs_experts else 4))

    def begin(what: str) -> None:
        reporter.info(f"{next(stages)}/{4 if needs_experts else 3} {what}")

    if needs_experts:
        begin("experts: students trained on the real data")
        experts(run, given, reporter)
    begin("distilling")
    folder = distill(run, config, reporter)
    begin("evaluation: fresh students, tested on scenes of the test split")
    targets = (str(folder), f"random:{config.distill.pairs}", "full")
    results = [evaluate(run, given, reporter, target) for target in targets]
    seconds = round(time.monotonic() - began, 1)
    distilled, random, full = (result.generic.mean_recall.mean for result in results if result.generic)
    gain, share, chance = ratio(distilled, random), ratio(distilled, full), results[0].chance.mean_recall
    summary = {
        "rows": [_row(result) for result in results],
        "setting": results[0].setting,
        "protocol": results[0].protocol,
        "seeds": results[0].seeds,
        "chance_mean_recall": chance,
        "gain_over_random": gain,
        "share_of_full": share,
        "full_over_chance": full / chance,
        "seconds": seconds,
        "environment": environment(),
    }
    write_json(run.folder / "results.json", summary)
    _draw(run, folder, {"full data": results[2], f"{results[1].pairs} random pairs": results[1]})
    if not rest.json:
        print(evaluation_text(results))
    if gain is not None and share is not None and not rest.json:
        print(f"gain over random pairs x {gain:.1f}, {share:.0%} of the full data's mean recall, {seconds} s")
    begin("report: all results on one page, with the pairs and a retrieval browser")
    page = write_report([run.folder], None, ReportOptions(), reporter)
    made = (run.folder / "results.json", folder / "preview.png", run.folder / "curve.png", page)
    print(json.dumps({**summary, "files": list(map(str, made))}) if rest.json else "\n".join(map(str, made)))
    return DONE


def _row(result: Evaluation) -> dict[str, Plain]:
    """A row of ``results.json``."""
    figures = {
        recipe: scores and {name: scores.figures[name].to_json() for name in MEASURES}
        for recipe, scores in (("own", result.own), ("generic", result.generic))
    }
    return {"set": result.set, "pairs": result.pairs, **figures}


def _draw(run: Run, folder: Path, others: Mapping[str, Evaluation]) -> None:
    """Mean recall on val over the iterations, with the best on val of the searches for ``others``."""
    trials = {name: one.generic.trials or () for name, one in others.items() if one.generic}
    levels = {name: max(trial.val_mean_recall for trial in tried) for name, tried in trials.items() if tried}
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    validations = [json.loads(line) for line in lines if "val_mean_recall" in line]
    points = [(float(one["iteration"]), float(one["val_mean_recall"])) for one in validations]
    draw_curves(
        {f"{len(DistilledSet.load(folder))} distilled pairs": points},
        run.folder / "curve.png",
        xlabel="outer iteration",
        ylabel="mean recall on val, %",
        title="What students learn from the distilled pairs",
        levels=levels,
    )
