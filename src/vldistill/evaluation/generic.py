"""The generic recipe of a row, protocol ``generic-v2``: chosen on val by one search for every row.

The space is declared here and committed before any test split is opened. Rates are per side; in setting ``both`` of the
towers and of the heads. Batches, steps, noise, augmented views, weight decay, dropout and temperature are shared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

from vldistill.config import EvaluateConfig
from vldistill.evaluation.measures import number_in
from vldistill.evaluation.partial_results import PartialResults
from vldistill.evaluation.results import Trial
from vldistill.evaluation.search import Ladder, Point, Search
from vldistill.evaluation.students import score_recipe
from vldistill.evaluation.subjects import Subject
from vldistill.training.data import TrainingData
from vldistill.training.recipe import Recipe
from vldistill.training.steps import steps_in
from vldistill.workbench.bench import Workbench

HEAD_TRIALS, TOWER_TRIALS = 12, 8
HEAD_MORE, TOWER_MORE = 6, 2  # trials beyond the ends of ladders
HEAD_PASSES = 25  # over all training captions, at most
TOWER_PASSES = 10  # over all training images, with one drawn caption each, at most

HEAD_RATES = Ladder((0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32), 2)
TOWER_RATES = Ladder((0.0005, 0.001, 0.002, 0.004, 0.008, 0.016), 2)
SHARED = {
    "batch": Ladder((64, 128, 256, 512, 1024)),
    "steps": Ladder((50, 100, 200, 400, 800, 1600), 2),
    "noise": Ladder((0.0, 0.2, 0.4, 0.7, 1.0), 1.4, lower_limit=True),
    "decay": Ladder((0.0, 5e-4, 2e-3, 8e-3), 4, lower_limit=True),
    "dropout": Ladder((0.0, 0.1, 0.2, 0.4, 0.6)),
    "temperature": Ladder((0.5, 1.0, 2.0), 2),  # over the encoder's
}
TOWER_STEPS = Ladder((25, 50, 100, 200, 400), 2)
VIEWS = Ladder((0, 1))  # whether to train on augmented images
SOFT = Ladder((0, 1))  # whether to train by the loss of a set's similarity matrix

_HEADS_FIRST: tuple[Mapping[str, float], ...] = (
    {"batch": 512, "steps": 1600, "noise": 0.7, "views": 1, "decay": 5e-4, "dropout": 0.0, "rate": 0.04},
    {"batch": 128, "steps": 100, "noise": 0.0, "views": 0, "decay": 5e-4, "dropout": 0.1, "rate": 0.08},
    {"batch": 128, "steps": 400, "noise": 0.4, "views": 1, "decay": 2e-3, "dropout": 0.0, "rate": 0.08},
)
_TOWERS_FIRST: tuple[Mapping[str, float], ...] = (
    {"batch": 128, "steps": 200, "noise": 0.4, "views": 1, "decay": 5e-4, "dropout": 0.0, "rate": 0.08, "tower": 0.004},
    {"batch": 128, "steps": 100, "noise": 0.0, "views": 0, "decay": 5e-4, "dropout": 0.1, "rate": 0.08, "tower": 0.002},
)


class GenericSpace:
    """The space of generic recipes for one row.

    Args:
        bench: the data and towers.
        candidate: what is evaluated.
        config: ``max_steps`` limits the ladder of steps.
        data: the training data of the search.
    """

    def __init__(self, bench: Workbench, candidate: Subject, config: EvaluateConfig, data: TrainingData) -> None:
        self.bench, self.candidate, self.data = bench, candidate, data
        self.trains_towers = bench.setting != "heads"
        self.rates = ("towers", "heads") if bench.setting == "both" else ("image", "text")
        first = TOWER_RATES if self.trains_towers else HEAD_RATES
        self.ladders = {**dict(zip(self.rates, (first, HEAD_RATES))), **SHARED}
        if self.trains_towers:
            self.ladders["steps"] = TOWER_STEPS
        if config.max_steps:
            most = config.max_steps
            self.ladders["steps"] = Ladder(tuple(sorted({max(1, most // 4), max(1, most // 2), most})))
        if candidate.has_views:
            self.ladders["views"] = VIEWS
        if data.similarity is not None:
            self.ladders["soft"] = SOFT

    @property
    def first(self) -> list[Point]:
        """The fixed points that every search begins with."""
        starts = _TOWERS_FIRST if self.trains_towers else _HEADS_FIRST
        return [self._point(start) for start in starts]

    def _point(self, values: Mapping[str, float]) -> Point:
        rates = dict(zip(self.rates, (values.get("tower", values["rate"]), values["rate"])))
        given = {"temperature": 1.0, "soft": 1.0, **values, **rates}
        return {name: _rung(ladder, given[name]) for name, ladder in self.ladders.items()}

    def recipe(self, point: Point) -> Recipe:
        """The recipe at a point."""
        value = {name: self.ladders[name][rung] for name, rung in point.items()}
        image, text = (value[name] for name in self.rates)
        factor = 1.0
        if "towers" in value:
            text, factor = image, value["heads"] / value["towers"]
        own, scale = self.candidate.own, value["temperature"]
        recipe = Recipe(
            rates={"image": (image,), "text": (text,)},
            epochs=1,
            batch=self._batch(int(value["batch"])),
            weight_decay=value["decay"],
            dropout=value["dropout"],
            temperature=0.0 if scale == 1 else scale * self.bench.encoder_config.temperature,
            loss=own.loss if value.get("soft") and own is not None else "infonce",
            head_factor=factor,
            noise=value["noise"],
            negatives="distinct",
            views=bool(value.get("views")),
            one_caption=self.trains_towers and self.candidate.kind == "full",
        )
        return replace(recipe, epochs=self._epochs(recipe, round(value["steps"])))

    def _batch(self, batch: int) -> int:
        """A batch that holds all pairs is one and the same, however large."""
        most = max(2, self.pairs_per_epoch // self.data.blocks)
        return min(batch, max(most, 2))

    @functools.cached_property
    def pairs_per_epoch(self) -> int:
        """Pairs that one epoch passes."""
        one_caption = self.trains_towers and self.candidate.kind == "full"
        return len(self.data.images) if one_caption else len(self.data)

    @property
    def most_epochs(self) -> int:
        """Epochs of the longest training that the search may try."""
        train = self.bench.pairs("train")
        most = TOWER_PASSES * train.count_images if self.trains_towers else HEAD_PASSES * train.count_captions
        return max(1, most // self.pairs_per_epoch)

    def _epochs(self, recipe: Recipe, steps: int) -> int:
        per_epoch = steps_in(self.pairs_per_epoch, replace(recipe, one_caption=False), blocks=self.data.blocks)
        return min(max(1, round(steps / per_epoch)), self.most_epochs)


def _rung(ladder: Ladder, value: float) -> int:
    """The rung of the value nearest to ``value``."""
    return min(range(len(ladder.values)), key=lambda rung: abs(ladder.values[rung] - value))


def search_generic(
    bench: Workbench, candidate: Subject, config: EvaluateConfig, answers: PartialResults | None = None
) -> tuple[Recipe, tuple[Trial, ...], tuple[str, ...]]:
    """The generic recipe that does best on val, every trial, and the dimensions in which it ends at an edge.

    The student of the search has a seed of its own.
    """
    data = candidate.draw(-1)
    space = GenericSpace(bench, candidate, config, data)
    answer = (answers or PartialResults()).answer
    trials: list[Trial] = []
    count = config.trials or (TOWER_TRIALS if space.trains_towers else HEAD_TRIALS)
    more = 0 if config.trials else TOWER_MORE if space.trains_towers else HEAD_MORE
    with bench.reporter.progress(f"{candidate.name}: recipes on val", count) as bar:

        def attempt(point: Point) -> float:
            recipe = space.recipe(point)
            find = functools.partial(score_recipe, bench, data, recipe, -1)
            score = answer("val", recipe, -1, find, lambda value: number_in({"answer": value}, "answer"))
            rates = {name: space.ladders[name][point[name]] for name in space.rates}
            trials.append(Trial(rates, recipe.epochs, score, recipe.to_dict(), bench.measure))
            bar.advance(1, val=score)
            return score

        found = Search(space.ladders, attempt, _effective(space)).run(space.first, count, more)
    recipe = space.recipe(found.best)
    limit = ("passes",) if recipe.epochs == space.most_epochs and candidate.kind == "full" else ()
    return recipe, tuple(trials), (*found.edges, *limit)


def _effective(space: GenericSpace) -> Callable[[Point], object]:
    """What of a point a training depends on: its recipe."""
    return lambda point: str(sorted(space.recipe(point).to_dict().items()))
