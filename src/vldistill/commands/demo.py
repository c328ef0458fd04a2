"""``vldistill demo``: drawn scenes, offline, from nothing to a table, a preview and a report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vldistill.commands.shared import DONE, opened
from vldistill.distillation.method import METHODS
from vldistill.distillation.resume import METRICS_FILE
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.drawing.figures import draw_curves
from vldistill.evaluation.measures import MEASURES, ratio
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
    """20 distilled pairs, and an honest comparison with 20 random pairs and the full data."""
    typed = {word.partition("=")[0] for word in argv}
    usual = {"--config": "configs/scenes.yaml", "--run": "runs/demo"}
    missing = [part for option in usual if option not in typed for part in (option, usual[option])]
    given, rest = parse("demo", [*missing, *argv])
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
    begin("judging: fresh students, tested on scenes nobody has seen")
    targets = (str(folder), f"random:{config.distill.pairs}", "full")
    results = [evaluate(run, given, reporter, target) for target in targets]
    summary = _summary(results, round(time.monotonic() - began, 1))
    write_json(run.folder / "results.json", summary)
    _draw(run, folder, summary)
    print(evaluation_text(results))
    gain, share = summary["gain_over_random"], summary["share_of_full"]
    if gain is not None and share is not None:
        took = summary["seconds"]
        print(f"gain over random pairs x {gain:.1f}, {share:.0%} of the full data's mean recall, {took} s")
    begin("the report: everything above as one page, with the pairs and what students find")
    page = write_report([run.folder], None, ReportOptions(), reporter)
    for path in (run.folder / "results.json", folder / "preview.png", run.folder / "curve.png", page):
        print(path)
    return DONE


def _summary(results: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    distilled, random, full = (result["generic"]["mean_recall"]["mean"] for result in results)
    rows = []
    for result in results:
        row: dict[str, Any] = {"set": result["set"], "pairs": result["pairs"]}
        for recipe in ("own", "generic"):
            figures = result[recipe]
            row[recipe] = {name: figures[name] for name in MEASURES} if figures else None
        rows.append(row)
    return {
        "rows": rows,
        "setting": results[0]["setting"],
        "protocol": results[0]["protocol"],
        "seeds": results[0]["seeds"],
        "chance_mean_recall": results[0]["chance"]["mean_recall"],
        "gain_over_random": ratio(distilled, random),
        "share_of_full": ratio(distilled, full),
        "full_over_chance": full / results[0]["chance"]["mean_recall"],
        "seconds": seconds,
        "environment": environment(),
    }


def _draw(run: Run, folder: Path, summary: dict[str, Any]) -> None:
    """Mean recall on val over the iterations, with the levels the table gives on test."""
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    looks = [json.loads(line) for line in lines if "val_mean_recall" in line]
    points = [(float(look["iteration"]), float(look["val_mean_recall"])) for look in looks]
    figures = {row["set"].split(":")[0]: row["generic"]["mean_recall"]["mean"] for row in summary["rows"][1:]}
    pairs = len(DistilledSet.load(folder))
    draw_curves(
        {f"{pairs} distilled pairs": points},
        run.folder / "curve.png",
        xlabel="outer iteration",
        ylabel="mean recall on val, %",
        title="What students learn from the distilled pairs",
        levels={
            "full data": figures["full"],
            f"{pairs} random pairs": figures["random"],
            "chance": summary["chance_mean_recall"],
        },
    )
