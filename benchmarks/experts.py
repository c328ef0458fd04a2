"""How good experts of frozen towers are after every epoch, on val: noise on their features, and the size of batches.

    python benchmarks/experts.py --config configs/flickr8k_features_100.yaml --out docs/results/expert_noise.json

Everything else is the configuration's. Rates are those of `RATES`, larger for larger batches.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from vldistill.config import ExpertsConfig
from vldistill.encoders.dual import DualEncoder
from vldistill.evaluation.students import score_student
from vldistill.experts.record import augments, expert_recipe
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.runtime.randomness import seed_of
from vldistill.storage.files import write_json
from vldistill.training.fit import fit
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import environment

NOISES = (0.0, 0.7)
RATES = {128: 0.1, 512: 0.4}
"""Rate of both sides by batch."""


def scores(bench: Workbench, config: ExpertsConfig, index: int) -> list[float]:
    """Mean recall on val of one expert after each epoch, in percent."""
    seed = seed_of(config.seed, "expert", index)
    student = bench.student(seed)
    found: list[float] = []

    def look(expert: DualEncoder) -> None:
        found.append(score_student(bench, expert, "val").mean_recall)

    fit(
        student,
        bench.split("train").data,
        expert_recipe(config),
        seed=seed,
        device=bench.device,
        augment=augments(bench, config),
        noise=config.noise,
        steps_per_epoch=config.steps_per_epoch,
        on_epoch=lambda epoch, loss: look(student),
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.experts < 2:
        parser.error(f"--experts {asked.experts}: expected 2 or more, whose spread is told.")
    config = parse("experts", ["--config", asked.config, "--run", "unused"])[0]
    bench = open_bench(config, Reporter())
    rows: list[dict[str, Any]] = []
    for (batch, rate), noise in itertools.product(RATES.items(), NOISES):
        changed = {"batch": batch, "image_rate": rate, "text_rate": rate, "noise": noise}
        own = replace(config.experts, epochs=asked.epochs, snapshots=(), **changed)
        by_epoch: dict[int, list[float]] = defaultdict(list)
        for index in range(asked.experts):
            for epoch, score in enumerate(scores(bench, own, index), start=1):
                by_epoch[epoch].append(score)
        val = {str(e): {"mean": statistics.mean(s), "std": statistics.stdev(s)} for e, s in by_epoch.items()}
        rows.append({"batch": batch, "rate": rate, "noise": noise, "expert_val": val})
        print(rows[-1])
    write_json(
        asked.out,
        {
            "command": "python benchmarks/experts.py " + " ".join(sys.argv[1:]),
            "environment": environment(),
            "experts": asked.experts,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
