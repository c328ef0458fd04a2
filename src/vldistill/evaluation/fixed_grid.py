"""Protocol ``generic-v1``: one recipe for every row, with rates chosen on val from one grid.

Rows of real pairs also choose their epochs there. Results before ``generic-v2`` were measured by it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from vldistill.config import EvaluateConfig
from vldistill.evaluation.measures import number_in
from vldistill.evaluation.partial_results import PartialResults
from vldistill.evaluation.results import Trial
from vldistill.evaluation.students import score_recipe
from vldistill.evaluation.subjects import Subject
from vldistill.runtime.log import Progress
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench

GENERIC = Recipe(epochs=100, batch=128, momentum=0.9, weight_decay=5e-4, schedule="cosine", dropout=0.1)


def choose_from_grid(
    bench: Workbench, candidate: Subject, config: EvaluateConfig, answers: PartialResults | None = None
) -> tuple[Recipe, tuple[Trial, ...]]:
    """The generic recipe with rates, and for real pairs epochs, that do best on val; and every trial.

    Heads alone: the whole grid. With a trained tower: the tower's rate at a middle rate of the heads, then the heads'
    rate at the best tower rate. The same grids serve every row. The student of the search has a seed of its own.
    """
    names: tuple[str, str] = ("towers", "heads") if bench.setting == "both" else ("image", "text")
    trials: list[Trial] = []
    data = candidate.draw(-1)
    answer = (answers or PartialResults()).answer
    epochs = {"distilled": (config.generic_epochs,), "subset": config.subset_epochs, "full": config.full_epochs}

    def attempt(pairs: Sequence[tuple[float, float]], epoch_choices: Sequence[int], bar: Progress) -> None:
        for pair, count in itertools.product(pairs, epoch_choices):
            rates: dict[str, float] = dict(zip(names, pair))
            if any(trial.rates == rates and trial.epochs == count for trial in trials):
                continue
            recipe = grid_recipe(rates, count, bench.negatives("all"))
            find = functools.partial(score_recipe, bench, data, recipe, -1)
            score = answer("val", recipe, -1, find, lambda value: number_in({"answer": value}, "answer"))
            trials.append(Trial(rates, count, score, measure=bench.measure))
            bar.advance(1, val=score)

    choices = epochs[candidate.kind]
    middle = choices[len(choices) // 2]
    searched = len(config.head_rates) + len(choices) - 1
    searched += 0 if bench.setting == "heads" else len(config.tower_rates) - 1
    with bench.reporter.progress(f"{candidate.name}: rates on val", searched) as bar:
        if bench.setting == "heads":
            attempt([(rate, rate) for rate in config.head_rates], [middle], bar)
        else:
            head = sorted(config.head_rates)[len(config.head_rates) // 2 - 1]
            attempt([(rate, head) for rate in config.tower_rates], [middle], bar)
            attempt([(_best(trials).rates[names[0]], rate) for rate in config.head_rates], [middle], bar)
        rates = _best(trials).rates
        attempt([(rates[names[0]], rates[names[1]])], choices, bar)
    best = _best(trials)
    return grid_recipe(best.rates, best.epochs, bench.negatives("all")), tuple(trials)


def grid_recipe(rates: Mapping[str, float], epochs: int, negatives: Literal["all", "distinct"] = "all") -> Recipe:
    """The recipe of the grid at rates of the sides, or in setting ``both`` of the towers and of the heads."""
    usual = replace(GENERIC, negatives=negatives)
    if "towers" not in rates:
        return replace(usual, rates={side: (rate,) for side, rate in rates.items()}, epochs=epochs)
    towers = (rates["towers"],)
    factor = rates["heads"] / rates["towers"]
    return replace(usual, rates={"image": towers, "text": towers}, head_factor=factor, epochs=epochs)


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.val_mean_recall)
