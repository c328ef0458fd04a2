"""Distil variants of one configuration and compare them on val; the test split stays closed.

    python benchmarks/ablation.py --config configs/flickr8k_bilevel_20.yaml --run runs/ablation \\
        --variants benchmarks/bilevel_ablation.yaml --out docs/results/bilevel_ablation.json

The file of variants has ``base``: options that every variant gets, and ``variants``: a name and its own options each.
Every variant is distilled in a run folder of its own, then judged by the generic recipe: its rate is chosen on val by
one student, and mean and standard deviation on val are of others. What is there already is not done again, and a set
that was made with other options is refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from vldistill import DistilledSet
from vldistill.cli import main as vldistill
from vldistill.config import Config
from vldistill.evaluation.fixed_grid import choose_from_grid
from vldistill.evaluation.students import score_student, train_student
from vldistill.evaluation.subjects import subject
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.storage.files import read_json, write_json
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import environment, to_plain


def words(options: dict[str, Any]) -> list[str]:
    """Options of a YAML mapping as command-line words."""
    return [word for name, value in options.items() for word in (f"--{name}", json.dumps(value).strip('"'))]


def val_recalls(config: Config, folder: Path, seeds: int) -> dict[str, Any]:
    """Mean recall on val of ``seeds`` students by the generic recipe."""
    bench = open_bench(config, Reporter(quiet=True))
    judged = subject(bench, DistilledSet.load(folder))
    recipe, trials = choose_from_grid(bench, judged, config.evaluate)
    scores = [
        score_student(bench, train_student(bench, judged.draw(seed), recipe, seed), "val").mean_recall
        for seed in range(seeds)
    ]
    return {
        "val": {"mean": statistics.mean(scores), "std": statistics.stdev(scores)},
        "rate": recipe.rates["image"][0],
        "trials": [asdict(trial) for trial in trials],
        "stored_floats": judged.stored_floats,
    }


def run_variant(asked: argparse.Namespace, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Distil and judge one variant, or read what was found before; the command refuses a set of other options."""
    run = asked.run / name
    given = ["--run", str(run), "--config", asked.config, *words(options)]
    began = time.monotonic()
    if code := vldistill(["distill", *given]):
        sys.exit(code)
    config, _ = parse("evaluate", given)
    question = {"options": options, "students": asked.seeds, "evaluate": to_plain(config)["evaluate"]}
    found = run / "ablation.json"
    if found.exists() and question.items() <= (row := read_json(found, "ablation row")).items():
        return row
    (folder,) = (run / "sets").iterdir()
    info = DistilledSet.load(folder).info
    row = {
        "variant": name,
        **question,
        "distill_seconds": info["selection"]["seconds"],
        "iteration": info["iteration"],
        **val_recalls(config, folder, asked.seeds),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(found, row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--variants", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of variants; all without it")
    parser.add_argument("--seeds", type=int, default=3, help="students per variant")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    plan = yaml.safe_load(asked.variants.read_text(encoding="utf-8"))
    rows = []
    for name, own in plan["variants"].items():
        if asked.only and name not in asked.only:
            continue
        row = run_variant(asked, name, {**plan["base"], **(own or {})})
        rows.append(row | {"options": own or {}})
        print(
            f"{name}: val {row['val']['mean']:.2f} +- {row['val']['std']:.2f}, {row['distill_seconds']} s", flush=True
        )
        report = {"command": " ".join(["python", *sys.argv]), "split": "val", "students": asked.seeds}
        report |= {"base": plan["base"], "environment": environment(), "rows": rows}
        write_json(asked.out, report)


if __name__ == "__main__":
    main()
