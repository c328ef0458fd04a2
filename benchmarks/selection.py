"""What selectors are worth on Flickr8k (heads), at equal recipes, and whether weights find wrong captions.

    python benchmarks/selection.py --config configs/flickr8k_heads.yaml
    python benchmarks/selection.py --config configs/flickr8k_heads.yaml --only noise

Each selector chooses 100, 500 and 1,000 training pairs; three students are trained on each choice by one recipe for
all selectors, which was chosen on val (:data:`RECIPES`), and tested. A selector that draws chooses anew for every
student. A selector that chooses one pair after the other is asked once: the first of a thousand are its hundred.

``noise``: a fifth of the training captions change places with each other, and ``select --weigh`` has to find them.
Students by one recipe are then trained on all, on those that the weights keep, and on the clean data.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.distillation.pair_weights import caption_losses, right_ones
from vldistill.evaluation.students import score_split, train_student
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.selection.choose import choose_pairs
from vldistill.selection.selector import SELECTORS
from vldistill.storage.files import read_json, write_json
from vldistill.training.data import TrainingData
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs, some_rows
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import environment

OUT = Path(__file__).resolve().parent.parent / "docs/results/selection.json"
BUDGETS = (100, 500, 1000)
STEPS = {100: 60, 500: 120, 1000: 160}
NOISE = {100: 0.0, 500: 0.3, 1000: 0.3}
STUDENTS = 3
SHARE = 0.2  # of captions that change places
FULL = Recipe(
    rates={"image": (0.1,), "text": (0.1,)}, epochs=3, batch=512, dropout=0.0, noise=0.5, negatives="distinct"
)


def recipe_of(pairs: int) -> Recipe:
    """One recipe for all selectors, chosen on val with random and k-means pairs."""
    batch = min(128, pairs)
    per_epoch = pairs // batch + (pairs % batch > 1)
    return Recipe(
        rates={"image": (0.1,), "text": (0.1,)},
        epochs=max(1, round(STEPS.get(pairs, 100) / per_epoch)),
        batch=batch,
        dropout=0.1,
        noise=NOISE.get(pairs, 0.0),
        negatives="distinct",
    )


def data_of(bench: Workbench, images: torch.Tensor, captions: torch.Tensor) -> TrainingData:
    """Chosen pairs as training data."""
    split = bench.split("train")
    keys = [split.pairs.caption_keys[row] for row in captions.tolist()]
    texts = TensorInputs(split.data.texts.rows(captions))
    return TrainingData(some_rows(split.data.images, images), texts, torch.arange(len(images)), captions=keys)


def measure(bench: Workbench, name: str, budgets: list[int], students: int) -> dict[str, Any]:
    """Mean recalls on test by budget."""
    entry, found = SELECTORS.find(name), dict[str, Any]()
    once = choose_pairs(bench, name, max(budgets), 0, SelectConfig()) if entry.nested and not entry.drawn else None
    for pairs in budgets:
        scores, seconds = list[float](), 0.0
        for seed in range(students):
            began = time.perf_counter()
            if once is not None:
                images, captions = (side[:pairs] for side in once)
            elif entry.drawn or not seed:
                images, captions = choose_pairs(bench, name, pairs, seed if entry.drawn else 0, SelectConfig())
            seconds += time.perf_counter() - began
            student = train_student(bench, data_of(bench, images, captions), recipe_of(pairs), seed)
            scores.append(score_split(bench, student, "test"))
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        found[str(pairs)] = {"mean": statistics.fmean(scores), "std": spread, "scores": scores}
        print(f"{name}:{pairs} {found[str(pairs)]}", flush=True)
    return found


def noise(bench: Workbench, students: int) -> dict[str, Any]:
    """Precision and recall of the weights, and what students reach with them."""
    owner = torch.from_numpy(np.array(bench.pixels("train").pairs.caption_image, np.int64))
    draw = torch.Generator().manual_seed(0)
    moved = torch.randperm(len(owner), generator=draw)[: round(SHARE * len(owner))]
    mixed = owner.clone()
    mixed[moved] = owner[moved[torch.randperm(len(moved), generator=draw)]]
    wrong = (mixed != owner).numpy()
    data = bench.frozen_features(None, None, mixed)
    weights = right_ones(caption_losses(data, bench.encoder_config.dim, bench.encoder_config.temperature, bench.device))
    flagged = weights < bench.data_config.min_weight
    kept = torch.from_numpy(np.flatnonzero(~flagged))
    found: dict[str, Any] = {
        "wrong": int(wrong.sum()),
        "flagged": int(flagged.sum()),
        "precision": float(wrong[flagged].mean()),
        "recall": float(flagged[wrong].mean()),
    }
    print(found, flush=True)
    parts = {
        "clean": (owner, torch.arange(len(owner))),
        "weighed": (mixed, kept),
        "mixed": (mixed, torch.arange(len(owner))),
    }
    for name, (mapping, rows) in parts.items():
        texts = some_rows(data.texts, rows)
        keys = [bench.pixels("train").pairs.caption_keys[row] for row in rows.tolist()]
        own = TrainingData(data.images, texts, mapping[rows], captions=keys)
        scores = [score_split(bench, train_student(bench, own, FULL, seed), "test") for seed in range(students)]
        found[name] = {"mean": statistics.fmean(scores), "scores": scores}
        print(name, found[name], flush=True)
    found["share_of_clean"] = found["weighed"]["mean"] / found["clean"]["mean"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/flickr8k_heads.yaml")
    parser.add_argument("--only", nargs="*", default=["random", "kmeans", "learned", "noise"])
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    parser.add_argument("--students", type=int, default=STUDENTS)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    config, _ = parse("select", ["--config", asked.config, "--run", "unused"])
    bench = Workbench(replace(config.data), config.encoder, torch.device("cpu"), Reporter())
    record: dict[str, Any] = read_json(asked.out, "selection") if asked.out.exists() else {"selectors": {}}
    for name in asked.only:
        if name == "noise":
            record["noise"] = noise(bench, asked.students)
        else:
            known = record["selectors"].setdefault(name, {})
            known |= measure(bench, name, asked.budgets, asked.students)
        about = {
            "what": "pairs of selectors on Flickr8k, heads: mean recall on test, one recipe for all selectors",
            "command": shlex.join(["python", "benchmarks/selection.py", *sys.argv[1:]]),
            "environment": environment(),
            "recipes": {str(pairs): recipe_of(pairs).to_dict() for pairs in BUDGETS},
        }
        write_json(asked.out, about | {"selectors": record["selectors"], "noise": record.get("noise")})


if __name__ == "__main__":
    main()
