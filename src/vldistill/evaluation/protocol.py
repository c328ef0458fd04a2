"""Evaluate a set: fresh students are trained on it and tested on real pairs.

``own`` trains by the recipe the set carries. ``generic`` is one recipe for every row of a table, with rates chosen
on val from one grid; rows of real pairs also choose their epochs there. The test split is used once per student,
at the end (protocol ``last``); other protocols are named for the split that chooses the epoch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from vldistill.config import EvaluateConfig, SelectConfig
from vldistill.config.plain import Plain
from vldistill.data.pairs import SPLITS
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import DivergedError
from vldistill.evaluation.measures import MEASURES, Figure, Recalls, number_in
from vldistill.evaluation.partial_results import PartialResults
from vldistill.evaluation.results import Evaluation, Scores, Trial
from vldistill.evaluation.retrieval import chance_level, retrieval_metrics
from vldistill.evaluation.subjects import Subject, check_target, subject
from vldistill.runtime.log import Progress
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


def score_student(bench: Workbench, student: DualEncoder, split: str) -> Recalls:
    """The recalls of ``student`` on a split."""
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
        return score_student(bench, train_student(bench, data, recipe, seed), "val").mean_recall
    except DivergedError:
        return 0.0


def choose_generic(
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
            recipe = _generic(rates, count)
            score = answer("val", recipe, -1, functools.partial(_try_recipe, bench, data, recipe, -1), _score)
            trials.append(Trial(rates, count, score))
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
    return _generic(best.rates, best.epochs), tuple(trials)


def _score(value: Plain) -> float:
    return number_in({"answer": value}, "answer")


def _generic(rates: Mapping[str, float], epochs: int) -> Recipe:
    """The generic recipe at rates of the sides, or in setting ``both`` of the towers and of the heads."""
    if "towers" not in rates:
        return replace(GENERIC, rates={side: (rate,) for side, rate in rates.items()}, epochs=epochs)
    towers = (rates["towers"],)
    factor = rates["heads"] / rates["towers"]
    return replace(GENERIC, rates={"image": towers, "text": towers}, head_factor=factor, epochs=epochs)


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.val_mean_recall)


def quick_score(bench: Workbench, distilled: DistilledSet, config: EvaluateConfig) -> float:
    """Mean recall on val for choosing among iterations.

    Heads are quick: the best of the generic grid. Where a tower is trained, one student by the set's own recipe.
    """
    candidate = subject(bench, distilled)
    if bench.setting == "heads":
        grid = [_generic({"image": rate, "text": rate}, config.generic_epochs) for rate in config.head_rates]
        return max(_try_recipe(bench, candidate.draw(0), recipe, -1) for recipe in grid)
    assert candidate.own is not None
    return _try_recipe(bench, candidate.draw(0), candidate.own, -1)


def evaluate_set(
    bench: Workbench,
    target: str | DistilledSet,
    config: EvaluateConfig,
    select: SelectConfig | None = None,
    answers: PartialResults | None = None,
) -> Evaluation:
    """Train ``config.seeds`` students on ``target`` by each recipe and test them.

    Args:
        answers: figures of students, kept so that an interrupted evaluation resumes.
    """
    answers = answers or PartialResults()
    check_target(bench, target, config, select)
    candidate = subject(bench, target, select)
    if "made_from_data" in candidate.details:
        bench.reporter.warn(
            f"{candidate.name} was made from other training data than {bench.data_config.source} holds."
        )
    own = generic = None
    if "own" in config.recipes and candidate.own is not None:
        own = _students(bench, candidate, candidate.own, config, "own", answers)
    if "generic" in config.recipes:
        recipe, trials = choose_generic(bench, candidate, config, answers)
        generic = replace(_students(bench, candidate, recipe, config, "generic", answers), trials=trials)
    test = bench.split("test")
    exact = bench.compute.precision == "float32"
    return Evaluation(
        set=candidate.name,
        kind=candidate.kind,
        setting=bench.setting,
        protocol=config.protocol,
        pairs=candidate.pairs,
        stored_floats=candidate.stored_floats,
        seeds=config.seeds,
        own=own,
        generic=generic,
        chance=chance_level(test.data.caption_image, test.pairs.count_images),
        image_tower=bench.image_tower.name,
        text_tower=bench.text_tower.name,
        data={split: bench.pixels(split).pairs.fingerprint for split in SPLITS},
        details=candidate.details if exact else {**candidate.details, "precision": bench.compute.precision},
        seconds=round(answers.seconds(), 2),
        peak_memory_bytes=peak_memory(),
    )


def _students(
    bench: Workbench, candidate: Subject, recipe: Recipe, config: EvaluateConfig, label: str, answers: PartialResults
) -> Scores:
    def test(seed: int) -> Recalls:
        find = functools.partial(_one_student, bench, candidate, recipe, config, seed)
        return answers.answer("test", recipe, seed, lambda: find().to_json(), Recalls.from_json)

    students: list[Recalls] = []
    with bench.reporter.progress(f"{candidate.name}: students by {label}", config.seeds) as bar:
        for seed in range(config.seeds):
            try:
                students.append(test(seed))
            except DivergedError as error:
                rates = {side: rate[0] for side, rate in recipe.rates.items()}
                raise DivergedError(
                    f"{candidate.name}: student {seed} by the {label} recipe, rates {rates}, diverged ({error}) "
                    f"Set evaluate.recipes to leave this recipe out, or use smaller rates."
                ) from None
            bar.advance(1, mean_recall=students[-1].mean_recall)
    measures = [student.measures() for student in students]
    figures = {name: _figure([values[name] for values in measures]) for name in MEASURES}
    return Scores(figures, recipe.to_dict(), tuple(students))


def _figure(values: Sequence[float]) -> Figure:
    tensor = torch.tensor(values, dtype=torch.float64)
    return Figure(float(tensor.mean()), float(tensor.std()) if len(values) > 1 else 0.0)


def _one_student(bench: Workbench, candidate: Subject, recipe: Recipe, config: EvaluateConfig, seed: int) -> Recalls:
    """Train and test by the protocol. Raises DivergedError when the student's loss is not finite."""
    data = candidate.draw(seed)
    if config.protocol == "last":
        return score_student(bench, train_student(bench, data, recipe, seed), "test")
    every = math.ceil(recipe.all_epochs / config.max_validations)
    split = "val" if config.protocol == "val-best" else "test"
    best_score, best_state = -1.0, dict[str, torch.Tensor]()

    def validate(student: DualEncoder, epoch: int) -> None:
        nonlocal best_score, best_state
        if epoch % every and epoch != recipe.all_epochs:
            return
        value = score_student(bench, student, split).mean_recall
        if value > best_score:
            best_score = value
            best_state = {name: tensor.clone() for name, tensor in student.state_dict().items()}

    student = train_student(bench, data, recipe, seed, validate)
    student.load_state_dict(best_state)
    return score_student(bench, student, "test")
