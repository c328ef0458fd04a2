"""Judge a set: fresh students are trained on it and tested on real pairs.

``own`` trains by the recipe the set carries. ``generic`` is one recipe for every row of a table, with rates chosen
on val from one grid; rows of real pairs also choose their epochs there. The test split is opened once per student,
at the end (protocol ``last``), unless the protocol's name says otherwise.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from vldistill.config import EvaluateConfig, SelectConfig
from vldistill.data.pairs import SPLITS
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import DivergedError
from vldistill.evaluation.measures import MEASURES
from vldistill.evaluation.partial_results import PartialResults
from vldistill.evaluation.retrieval import chance_level, retrieval_metrics
from vldistill.evaluation.subjects import Subject, check_target, subject
from vldistill.runtime.memory import peak_memory
from vldistill.runtime.randomness import seed_of
from vldistill.training.data import Inputs, TrainingData
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.training.stepper import embed_in_parts
from vldistill.workbench.bench import Split, Workbench

GENERIC = Recipe(epochs=100, batch=128, momentum=0.9, weight_decay=5e-4, schedule="cosine", dropout=0.1)


@torch.no_grad()
def embed_split(bench: Workbench, student: DualEncoder, split: Split, batch: int = 256) -> tuple[torch.Tensor, ...]:
    """Embeddings of a split: images (N, D) and captions (M, D)."""

    def embed(side: str, inputs: Inputs) -> torch.Tensor:
        parts = torch.arange(len(inputs)).split(batch)
        return torch.cat([embed_in_parts(student, side, inputs.rows(rows), bench.compute) for rows in parts])

    student.eval()
    return embed("image", split.data.images), embed("text", split.data.texts)


def score_student(bench: Workbench, student: DualEncoder, split: str) -> dict[str, float]:
    """The six recalls and their mean, in percent, of ``student`` on a split."""
    real = bench.split(split)
    images, captions = embed_split(bench, student, real)
    return retrieval_metrics(images, captions, real.data.caption_image)


def train_student(
    bench: Workbench,
    data: TrainingData,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[DualEncoder, int], None] | None = None,
) -> DualEncoder:
    """A fresh student trained on ``data``."""
    student = bench.student(seed_of("student", seed), recipe.dropout)
    hook = (lambda epoch, loss: on_epoch(student, epoch)) if on_epoch else None
    fit(student, data, recipe, seed=seed, device=bench.device, on_epoch=hook, compute=bench.compute)
    return student


def _try_recipe(bench: Workbench, data: TrainingData, recipe: Recipe, seed: int) -> float:
    """Mean recall on val of one student; a diverged one scores 0."""
    try:
        return score_student(bench, train_student(bench, data, recipe, seed), "val")["mean_recall"]
    except DivergedError:
        return 0.0


def choose_generic(
    bench: Workbench, judged: Subject, config: EvaluateConfig, answers: PartialResults | None = None
) -> tuple[Recipe, list[dict[str, Any]]]:
    """The generic recipe with rates, and for real pairs epochs, that do best on val; and every trial.

    Heads alone: the whole grid. With a trained tower: the tower's rate at a middle rate of the heads, then the heads'
    rate at the best tower rate. The same grids serve every row. The student of the search has a seed of its own.
    """
    names: tuple[str, str] = ("towers", "heads") if bench.setting == "both" else ("image", "text")
    trials: list[dict[str, Any]] = []
    data = judged.draw(-1)
    answer = (answers or PartialResults()).answer
    epochs = {"distilled": (config.generic_epochs,), "subset": config.subset_epochs, "full": config.full_epochs}

    def attempt(pairs: Sequence[tuple[float, float]], epoch_choices: Sequence[int], bar: Any) -> None:
        for pair, count in itertools.product(pairs, epoch_choices):
            rates: dict[str, float] = dict(zip(names, pair))
            if any(t["rates"] == rates and t["epochs"] == count for t in trials):
                continue
            recipe = _generic(rates, count)
            score = answer("val", recipe, -1, lambda recipe=recipe: _try_recipe(bench, data, recipe, -1))
            trials.append({"rates": rates, "epochs": count, "val_mean_recall": score})
            bar.advance(1, val=score)

    choices = epochs[judged.kind]
    middle = choices[len(choices) // 2]
    searched = len(config.head_rates) + len(choices) - 1
    searched += 0 if bench.setting == "heads" else len(config.tower_rates) - 1
    with bench.reporter.progress(f"{judged.name}: rates on val", searched) as bar:
        if bench.setting == "heads":
            attempt([(rate, rate) for rate in config.head_rates], [middle], bar)
        else:
            head = sorted(config.head_rates)[len(config.head_rates) // 2 - 1]
            attempt([(rate, head) for rate in config.tower_rates], [middle], bar)
            attempt([(_best(trials)["rates"][names[0]], rate) for rate in config.head_rates], [middle], bar)
        rates = _best(trials)["rates"]
        attempt([(rates[names[0]], rates[names[1]])], choices, bar)
    best = _best(trials)
    return _generic(best["rates"], best["epochs"]), trials


def _generic(rates: dict[str, float], epochs: int) -> Recipe:
    """The generic recipe at rates of the sides, or in setting ``both`` of the towers and of the heads."""
    if "towers" not in rates:
        return replace(GENERIC, rates={side: (rate,) for side, rate in rates.items()}, epochs=epochs)
    towers = (rates["towers"],)
    factor = rates["heads"] / rates["towers"]
    return replace(GENERIC, rates={"image": towers, "text": towers}, head_factor=factor, epochs=epochs)


def _best(trials: list[dict[str, Any]]) -> dict[str, Any]:
    return max(trials, key=lambda trial: trial["val_mean_recall"])


def quick_score(bench: Workbench, distilled: DistilledSet, config: EvaluateConfig) -> float:
    """Mean recall on val for choosing among iterations.

    Heads are quick: the best of the generic grid. Where a tower is trained, one student by the set's own recipe.
    """
    judged = subject(bench, distilled)
    if bench.setting == "heads":
        grid = [_generic({"image": rate, "text": rate}, config.generic_epochs) for rate in config.head_rates]
        return max(_try_recipe(bench, judged.draw(0), recipe, -1) for recipe in grid)
    assert judged.own is not None
    return _try_recipe(bench, judged.draw(0), judged.own, -1)


def evaluate_set(
    bench: Workbench,
    target: str | DistilledSet,
    config: EvaluateConfig,
    select: SelectConfig | None = None,
    answers: PartialResults | None = None,
) -> dict[str, Any]:
    """Train ``config.seeds`` students on ``target`` by each recipe and test them.

    Args:
        answers: keeps every student's figures as soon as there are any, and has those of an interrupted evaluation.

    Returns:
        ``set``, ``kind`` (``distilled``, ``subset`` of real pairs, ``full``), ``setting``, ``protocol``, ``pairs``,
        ``stored_floats``, ``seeds``; per recipe the mean and the sample standard deviation over students of every
        recall in percent (``own`` is null where the data has no recipe); ``chance``; ``data``, the fingerprints of
        the splits; ``seconds`` and ``peak_memory_bytes`` of this process.
    """
    answers = answers or PartialResults()
    check_target(bench, target, config, select)
    judged = subject(bench, target, select)
    if "made_from_data" in judged.details:
        bench.reporter.warn(f"{judged.name} was made from other training data than {bench.data_config.source} holds.")
    result: dict[str, Any] = {
        "set": judged.name,
        "kind": judged.kind,
        "setting": bench.setting,
        "protocol": config.protocol,
        "pairs": judged.pairs,
        "stored_floats": judged.stored_floats,
        "seeds": config.seeds,
        "own": None,
        "generic": None,
    }
    if "own" in config.recipes and judged.own is not None:
        result["own"] = _students(bench, judged, judged.own, config, "own", answers)
    if "generic" in config.recipes:
        recipe, trials = choose_generic(bench, judged, config, answers)
        result["generic"] = _students(bench, judged, recipe, config, "generic", answers) | {"trials": trials}
    test = bench.split("test")
    if bench.compute.precision != "float32":
        judged.details["precision"] = bench.compute.precision
    return result | {
        "chance": chance_level(test.data.caption_image, test.pairs.count_images),
        "image_tower": bench.image_tower.name,
        "text_tower": bench.text_tower.name,
        "data": {split: bench.pixels(split).pairs.fingerprint for split in SPLITS},
        "details": judged.details,
        "seconds": round(answers.seconds(), 2),
        "peak_memory_bytes": peak_memory(),
    }


def _students(
    bench: Workbench, judged: Subject, recipe: Recipe, config: EvaluateConfig, label: str, answers: PartialResults
) -> dict[str, Any]:
    rows: list[dict[str, float]] = []
    with bench.reporter.progress(f"{judged.name}: students by {label}", config.seeds) as bar:
        for seed in range(config.seeds):
            try:
                student = functools.partial(_one_student, bench, judged, recipe, config, seed)
                rows.append(answers.answer("test", recipe, seed, student))
            except DivergedError as error:
                rates = {side: rate[0] for side, rate in recipe.rates.items()}
                raise DivergedError(
                    f"{judged.name}: student {seed} by the {label} recipe, rates {rates}, diverged ({error}) "
                    f"Set evaluate.recipes to leave this recipe out, or use smaller rates."
                ) from None
            bar.advance(1, mean_recall=rows[-1]["mean_recall"])
    summary: dict[str, Any] = {}
    for name in MEASURES:
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        std = float(values.std()) if len(rows) > 1 else 0.0
        summary[name] = {"mean": float(values.mean()), "std": std}
    return summary | {"recipe": recipe.to_dict(), "students": rows}


def _one_student(
    bench: Workbench, judged: Subject, recipe: Recipe, config: EvaluateConfig, seed: int
) -> dict[str, float]:
    """Train and test by the protocol. Raises DivergedError when the student's loss is not finite."""
    data = judged.draw(seed)
    if config.protocol == "last":
        return score_student(bench, train_student(bench, data, recipe, seed), "test")
    every = math.ceil(recipe.all_epochs / config.max_validations)
    split = "val" if config.protocol == "val-best" else "test"
    best_score, best_state = -1.0, dict[str, torch.Tensor]()

    def look(student: DualEncoder, epoch: int) -> None:
        nonlocal best_score, best_state
        if epoch % every and epoch != recipe.all_epochs:
            return
        value = score_student(bench, student, split)["mean_recall"]
        if value > best_score:
            best_score = value
            best_state = {name: tensor.clone() for name, tensor in student.state_dict().items()}

    student = train_student(bench, data, recipe, seed, look)
    student.load_state_dict(best_state)
    return score_student(bench, student, "test")
