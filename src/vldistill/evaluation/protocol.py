"""Evaluate a set: fresh students are trained on it and tested on real pairs.

``own`` trains by the recipe the set carries. ``generic`` is chosen on val in one way for every row of a table: by the
search of :mod:`.generic` (``generic-v2``), or from the grid of :mod:`.fixed_grid` (``generic-v1``). The test split is
used once per student, at the end (protocol ``last``); other protocols are named for the split that chooses the epoch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from vldistill.config import EvaluateConfig, SelectConfig
from vldistill.data.pairs import SPLITS
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import DivergedError
from vldistill.evaluation.data_checks import check_data
from vldistill.evaluation.data_checks.recall_ceiling import recall_ceiling
from vldistill.evaluation.fixed_grid import choose_from_grid, grid_recipe
from vldistill.evaluation.generic import search_generic
from vldistill.evaluation.hits import encoded_class_hits, encoded_counts, encoded_hits
from vldistill.evaluation.measures import ACCURACIES, MEASURES, Figure
from vldistill.evaluation.partial_results import PartialResults
from vldistill.evaluation.results import Evaluation, Scores, Tested
from vldistill.evaluation.retrieval import chance_level, metrics_of
from vldistill.evaluation.students import rank_split, score_recipe, score_split, train_student
from vldistill.evaluation.subjects import Subject, check_target, subject
from vldistill.evaluation.zero_shot import accuracy_of, classify_split, rank_classes
from vldistill.runtime.memory import peak_memory
from vldistill.runtime.processes import ALONE, Processes
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench
from vldistill.workbench.class_sets import check_told_apart, class_bench


def quick_score(bench: Workbench, distilled: DistilledSet, config: EvaluateConfig) -> float:
    """:func:`~.students.score_split` on val for choosing among iterations.

    Heads are quick: the best of the generic grid. Where a tower is trained, one student by the set's own recipe.
    """
    candidate = subject(bench, distilled)
    if bench.setting == "heads":
        epochs, negatives = config.generic_epochs, bench.negatives("all")
        grid = [grid_recipe({"image": rate, "text": rate}, epochs, negatives) for rate in config.head_rates]
        return max(score_recipe(bench, candidate.draw(0), recipe, -1) for recipe in grid)
    assert candidate.own is not None
    return score_recipe(bench, candidate.draw(0), candidate.own, -1)


def evaluate_set(
    bench: Workbench,
    target: str | DistilledSet,
    config: EvaluateConfig,
    select: SelectConfig | None = None,
    answers: PartialResults | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Train ``config.seeds`` students on ``target`` by each recipe and test them.

    Args:
        answers: figures of students, kept so that an interrupted evaluation resumes.
        processes: share the students to test, by seed, through the files of ``answers``; the first one alone searches.
    """
    answers = answers or PartialResults()
    check_target(bench, target, config, select)
    for classes in (bench, *(class_bench(bench, source, config.zero_shot_prompts) for source in config.zero_shot)):
        if classes.has_classes:
            check_told_apart(classes)
    candidate = subject(bench, target, select)
    if "made_from_data" in candidate.details:
        bench.reporter.warn(
            f"{candidate.name} was made from other training data than {bench.data_config.source} holds."
        )
    own = generic = None
    if "own" in config.recipes and candidate.own is not None:
        own = _students(bench, candidate, candidate.own, config, "own", answers, processes)
    if "generic" in config.recipes:
        edges: tuple[str, ...] = ()
        with processes.first_before_others():
            if config.generic == "generic-v1":
                recipe, trials = choose_from_grid(bench, candidate, config, answers)
            else:
                recipe, trials, edges = search_generic(bench, candidate, config, answers)
        generic = _students(bench, candidate, recipe, config, "generic", answers, processes)
        generic = replace(generic, trials=trials, edges=edges, chosen_by=config.generic)
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
        test_captions=encoded_counts(test.data.caption_image),
        checks=check_data(bench),
        sides=bench.data_config.sides,
        classes=None if bench.classes is None else len(bench.classes),
        ceilings={} if bench.classes is None else recall_ceiling(test.pairs).to_json(),
        zero_shot_classes={
            source: len(other.classes or ())
            for source in config.zero_shot
            if (other := class_bench(bench, source, config.zero_shot_prompts))
        },
    )


def _students(
    bench: Workbench,
    candidate: Subject,
    recipe: Recipe,
    config: EvaluateConfig,
    label: str,
    answers: PartialResults,
    processes: Processes,
) -> Scores:
    def test(seed: int) -> Tested:
        find = functools.partial(_one_student, bench, candidate, recipe, config, seed)
        try:
            return answers.answer("test", recipe, seed, lambda: find().to_json(), Tested.from_json)
        except DivergedError as error:
            rates = {side: rate[0] for side, rate in recipe.rates.items()}
            raise DivergedError(
                f"{candidate.name}: student {seed} by the {label} recipe, rates {rates}, diverged ({error}) "
                f"Set evaluate.recipes to leave this recipe out, or use smaller rates."
            ) from None

    steps = candidate.steps(recipe)
    tested: list[Tested] = []
    with bench.reporter.progress(f"{candidate.name}: students by {label}", config.seeds) as bar:
        if processes.size > 1:
            for seed in range(config.seeds)[processes.rank :: processes.size]:
                test(seed)
            processes.wait()  # those of the others are read now
        for seed in range(config.seeds):
            tested.append(test(seed))
            bar.advance(1, **tested[-1].headline)
    students = tuple(one.recalls for one in tested)
    measures = [student.measures() for student in students]
    figures = {name: _figure([values[name] for values in measures]) for name in MEASURES}
    accuracies = tuple(one.accuracy for one in tested if one.accuracy is not None)
    if accuracies:
        figures |= {name: Figure.of([getattr(one, name) for one in accuracies]) for name in ACCURACIES}
    return Scores(
        figures,
        recipe.to_dict(),
        students,
        hits=tuple(one.hits for one in tested),
        steps=steps,
        accuracies=accuracies,
        class_hits=tuple(one.class_hits for one in tested if one.class_hits),
        zero_shot={source: tuple(one.zero_shot[source] for one in tested) for source in config.zero_shot},
    )


def _figure(values: Sequence[float]) -> Figure:
    tensor = torch.tensor(values, dtype=torch.float64)
    return Figure(float(tensor.mean()), float(tensor.std()) if len(values) > 1 else 0.0)


def _one_student(bench: Workbench, candidate: Subject, recipe: Recipe, config: EvaluateConfig, seed: int) -> Tested:
    """Train and test by the protocol. Raises DivergedError when the student's loss is not finite."""
    data = candidate.draw(seed)
    if config.protocol == "last":
        return _test(bench, train_student(bench, data, recipe, seed), config)
    every = math.ceil(recipe.all_epochs / config.max_validations)
    split = "val" if config.protocol == "val-best" else "test"
    best_score, best_state = -1.0, dict[str, torch.Tensor]()

    def validate(student: DualEncoder, epoch: int) -> None:
        nonlocal best_score, best_state
        if epoch % every and epoch != recipe.all_epochs:
            return
        value = score_split(bench, student, split)
        if value > best_score:
            best_score = value
            best_state = {name: tensor.clone() for name, tensor in student.state_dict().items()}

    student = train_student(bench, data, recipe, seed, validate)
    student.load_state_dict(best_state)
    return _test(bench, student, config)


def _test(bench: Workbench, student: DualEncoder, config: EvaluateConfig) -> Tested:
    """Open the test split for a student, and those of other class sources."""
    ranks = rank_split(bench, student, "test")
    tested = Tested(metrics_of(ranks), encoded_hits(ranks, bench.split("test").data.caption_image))
    if bench.has_classes:
        own, labels = rank_classes(bench, student, "test")
        tested = replace(tested, accuracy=accuracy_of(own, labels), class_hits=encoded_class_hits(own))
    others = {source: class_bench(bench, source, config.zero_shot_prompts) for source in config.zero_shot}
    return replace(tested, zero_shot={name: classify_split(other, student, "test") for name, other in others.items()})
