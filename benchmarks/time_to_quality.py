"""How many minutes each method needs for a share of what all the data teach.

    python benchmarks/time_to_quality.py --plan benchmarks/time_to_quality.yaml --run runs/time_to_quality \\
        --out docs/results/time_to_quality.json --picture docs/assets/time_to_quality.png

The plan has a configuration, a number of pairs, minutes, methods (options of `vldistill distill` by name) and students
(options of `vldistill evaluate`). Every method is run anew for every number of minutes, because rates fall towards the
end of a run. Minutes are CPU minutes of all processes, user and system, from the start of the command to its end, those
of experts included: what two cores do in half the time, whatever else the machine does. The search for the students'
recipe is not counted, and features of the real data are there before. What a run folder has already is not done again.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ablation import words
from vldistill.drawing.figures import draw_curves
from vldistill.evaluation.learning_curve import pairs_needed
from vldistill.storage.files import read_json, write_json
from vldistill.workbench.run_folder import environment

SHARES = (0.8, 0.9, 0.95)


def timed(stage: str, run: Path, options: dict[str, Any], *more: str) -> float:
    """CPU minutes of one command in a process of its own, with one thread; a failure ends the benchmark."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "vldistill", stage, "--run", str(run), "--quiet", *more, *words(options)]
    code = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode
    if code:
        sys.exit(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


def kept(place: Path, stage: str, run: Path, options: dict[str, Any], *more: str) -> float:
    """The minutes in the file ``place``, else those of the command, written there."""
    if not place.exists():
        write_json(place, {"cpu_minutes": timed(stage, run, options, *more)})
    return float(read_json(place, "minutes")["cpu_minutes"])


def evaluated(run: Path, target: str, options: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of ``target`` in ``run``."""
    timed("evaluate", run, options, "--set", target)
    (result,) = run.glob("results/*.json")
    return read_json(result, "evaluation")


def point(plan: dict[str, Any], run: Path, name: str, minutes: float) -> dict[str, Any]:
    """One method given so many minutes: what it took and what it teaches."""
    options = dict(plan["methods"][name])
    experts = options.pop("experts", None)
    shared = {"config": plan["config"], **plan.get("set", {})}
    spent = 0.0
    if experts is not None:
        teachers = run / name / "experts"
        spent = kept(run / name / "experts.json", "experts", teachers, shared | experts)
        options["experts_from"] = str(teachers)
    folder = run / name / f"{minutes:g}"
    limit = {"distill.pairs": plan["pairs"], "distill.clock": "cpu", "distill.minutes": minutes, "iterations": 10**6}
    spent += kept(folder / "minutes.json", "distill", folder / "run", shared | options | limit)
    made = next((folder / "run").glob("sets/*/set.json")).parent
    found = evaluated(folder / "run", str(made), shared | plan["students"])
    return {
        "minutes": minutes,
        "cpu_minutes": spent,
        **{recipe: found[recipe]["mean_recall"]["mean"] for recipe in ("own", "generic") if found.get(recipe)},
        "stored_floats": found["stored_floats"],
    }


def needed(points: list[dict[str, Any]], full: float) -> dict[str, float | None]:
    """CPU minutes to each share of the full data, by a monotone fit; None is beyond the last."""
    ordered = sorted(points, key=lambda one: one["cpu_minutes"])
    spent = [one["cpu_minutes"] for one in ordered]
    recalls = np.array([one["generic"] for one in ordered])
    reached = {share: pairs_needed(spent, recalls, share * full) for share in SHARES}  # of minutes as of pairs
    return {f"{share:g}": None if math.isinf(minutes) else minutes for share, minutes in reached.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("plan", "run", "out", "picture"):
        parser.add_argument(f"--{name}", type=Path, required=name != "picture")
    asked = parser.parse_args()
    plan = yaml.safe_load(asked.plan.read_text(encoding="utf-8"))
    full = evaluated(asked.run / "full", "full", {"config": plan["config"], **plan.get("set", {}), **plan["students"]})
    bound = full["generic"]["mean_recall"]["mean"]
    methods: dict[str, dict[str, Any]] = {name: {"points": []} for name in plan["methods"]}
    for minutes in plan["minutes"]:  # all methods of one budget first: a stopped run has whole columns
        for name, method in methods.items():
            method["points"].append(point(plan, asked.run, name, minutes))
            method["needed"] = needed(method["points"], bound)
            study = {
                "command": "python benchmarks/time_to_quality.py " + " ".join(sys.argv[1:]),
                "environment": environment(),
                "plan": plan,
                "full": bound,
                "chance": full["chance"],
                "methods": methods,
            }
            write_json(asked.out, study)
    if asked.picture:
        series = {
            name: [(one["cpu_minutes"], one["generic"]) for one in method["points"]] for name, method in methods.items()
        }
        levels = {"full data": bound, **{f"{share:.0%} of it": share * bound for share in SHARES}}
        draw_curves(series, asked.picture, xlabel="CPU minutes", ylabel="mean recall on test, %", levels=levels)
    print(asked.out)


if __name__ == "__main__":
    main()
