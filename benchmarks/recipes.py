"""Variants of the recipe that sets carry, compared on val: which student suits what was matched.

    python benchmarks/recipes.py --run runs/f8k-bitraj-views-500 --sets bitraj-500-s0 bitraj-500-s1 \\
        --out docs/results/bitraj_recipes.json

The sets are those of the run folder; only epochs, batch, momentum and schedule of their students change.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from vldistill.distilled.distilled_set import DistilledSet
from vldistill.evaluation.students import score_student, train_student
from vldistill.evaluation.subjects import subject
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.storage.files import write_json
from vldistill.training.recipe import SCHEDULES
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import environment

EPOCHS, BATCHES, MOMENTA = (50, 100), (64, 0), (0.9, 0.0)
"""A batch of 0 takes all pairs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--epochs", nargs="+", type=int, default=EPOCHS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--schedules", nargs="+", default=["constant"], choices=SCHEDULES)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.students < 2:
        parser.error(f"--students {asked.students}: expected 2 or more, whose spread is told.")
    bench = open_bench(parse("distill", ["--run", str(asked.run)])[0], Reporter())
    rows: list[dict[str, Any]] = []
    variants = itertools.product(MOMENTA, asked.batches, asked.epochs, asked.schedules)
    for momentum, batch, epochs, schedule in variants:
        val: dict[str, Any] = {}
        for name in asked.sets:
            made = DistilledSet.load(asked.run / "sets" / name)
            judged = subject(bench, made, None)
            assert judged.own is not None, f"{name} carries no recipe"
            recipe = replace(judged.own, momentum=momentum, batch=batch or len(made.images), epochs=epochs)
            recipe = replace(recipe, schedule=schedule)
            students = (train_student(bench, judged.draw(seed), recipe, seed) for seed in range(asked.students))
            found = [score_student(bench, student, "val").mean_recall for student in students]
            val[name] = {"mean": statistics.mean(found), "std": statistics.stdev(found)}
        told = {"momentum": momentum, "batch": batch, "epochs": epochs, "schedule": schedule}
        rows.append(told | {"own_recipe_val": val})
        print(rows[-1])
    write_json(
        asked.out,
        {
            "command": "python benchmarks/recipes.py " + " ".join(sys.argv[1:]),
            "environment": environment(),
            "students": asked.students,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
