"""How sets are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vldistill.config.checks import check_fields, check_prompts, positive, require
from vldistill.config.former import later
from vldistill.errors import ConfigError, unknown

PROTOCOLS = {
    "last": "test the student after its last epoch (the default)",
    "val-best": "test the epoch that did best on val",
    "test-best-legacy": "report the best epoch on test: biased, only to compare with published rows",
}


@dataclass(frozen=True)
class EvaluateConfig:
    """How a set is evaluated: fresh students, trained on it and tested on real pairs.

    Args:
        protocol: when a student is tested: ``last`` (after its last epoch), ``val-best`` (at the epoch that did best on
            val), or ``test-best-legacy`` (at the best on test: biased, only to compare with published rows).
        seeds: number of students.
        recipes: ``own`` (the set's recipe), ``generic`` (one for every row), or both.
        generic: how the generic recipe is chosen on val: ``generic-v2`` by one search for every row, ``generic-v1``
            from the fixed grid that the next five options have, as results of early versions did.
        trials: recipes that the search tries; 0 is 12 for heads and 8 where a tower is trained, and a few more where
            the best is at an edge of the space.
        max_steps: optimiser steps of the longest recipe that the search tries; 0 is the space's own.
        generic_epochs: epochs of the generic recipe on a distilled set.
        subset_epochs: epochs to choose from, on val, for random real pairs.
        full_epochs: epochs to choose from, on val, for the full data.
        head_rates: rates to choose from, on val, for heads.
        tower_rates: rates to choose from, on val, for trained towers.
        max_validations: at most, in one training, for ``val-best`` and ``test-best-legacy``.
        text_map: for a set made with another text tower: ``none`` refuses it, ``ridge`` maps its sentence vectors by a
            ridge regression fitted on training captions, which the result records.
        zero_shot: class sources (docs/classes.md) whose test images students classify too, whatever they were trained
            on.
        zero_shot_prompts: templates with ``{}`` for the classes of ``zero_shot``; empty: each source's own.
    """

    protocol: str = "last"
    seeds: int = 5
    recipes: tuple[str, ...] = ("own", "generic")
    generic: Literal["generic-v2", "generic-v1"] = later("generic-v2", neutral="generic-v1")
    trials: int = 0
    max_steps: int = 0
    generic_epochs: int = 100
    subset_epochs: tuple[int, ...] = (50, 100, 200)
    full_epochs: tuple[int, ...] = (3, 5, 10)
    head_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    tower_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    max_validations: int = 10
    text_map: Literal["none", "ridge"] = "none"
    zero_shot: tuple[str, ...] = later((), neutral=())
    zero_shot_prompts: tuple[str, ...] = later((), neutral=())

    def __post_init__(self) -> None:
        check_fields(self, "evaluate")
        if self.protocol not in PROTOCOLS:
            raise ConfigError(unknown("protocol", self.protocol, PROTOCOLS))
        wrong = [name for name in self.recipes if name not in ("own", "generic")]
        require(bool(self.recipes) and not wrong, "evaluate.recipes", self.recipes, "own, generic, or both")
        check_prompts("evaluate.zero_shot_prompts", self.zero_shot_prompts)
        distinct = len(set(self.zero_shot)) == len(self.zero_shot)
        require(all(self.zero_shot) and distinct, "evaluate.zero_shot", self.zero_shot, "sources that differ")
        positive(self, "evaluate", "seeds", "generic_epochs", "max_validations")
        require(self.trials >= 0, "evaluate.trials", self.trials, "0 (as many as usual) or more")
        require(self.max_steps >= 0, "evaluate.max_steps", self.max_steps, "0 (no limit of its own) or more")
        for name in ("subset_epochs", "full_epochs", "head_rates", "tower_rates"):
            values: Sequence[float] = getattr(self, name)
            require(bool(values) and min(values) > 0, f"evaluate.{name}", values, "one or more numbers above 0")
