"""Which pairs each step of a training takes, at which rates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from vldistill.runtime.randomness import generator
from vldistill.training.recipe import Recipe


@dataclass(frozen=True)
class PlannedStep:
    """One step of a training.

    Args:
        at: its number in the training, from 0.
        epoch: the number of its epoch, from 0.
        number: its number in the epoch, from 0.
        last: whether it ends its epoch.
        index: (B,) int64, its pairs.
    """

    at: int
    epoch: int
    number: int
    last: bool
    index: torch.Tensor


@dataclass(frozen=True)
class StepPlan:
    """The steps of a training, phase after phase, and their rates.

    Args:
        recipe: of the training.
        sizes: pairs of each phase, in each block of texts.
        per_epoch: steps of an epoch in each phase.
        blocks: of texts, which an epoch takes one after the other.
    """

    recipe: Recipe
    sizes: tuple[int, ...]
    per_epoch: tuple[int, ...]
    blocks: int

    @staticmethod
    def of(pairs: int, recipe: Recipe, steps_per_epoch: int = 0, blocks: int = 1) -> StepPlan:
        """The plan of a training on ``pairs`` pairs, its epochs cut to ``steps_per_epoch`` steps; 0 means all."""
        sizes = recipe.phases or (pairs // blocks,)
        whole = [blocks * _steps_per_epoch(size, recipe) for size in sizes]
        return StepPlan(recipe, sizes, tuple(min(count, steps_per_epoch or count) for count in whole), blocks)

    @property
    def length(self) -> int:
        """Steps of all epochs."""
        return self.recipe.epochs * sum(self.per_epoch)

    def rate(self, side: str, step: int) -> float:
        """The learning rate of ``side``, by the number of the step in the training."""
        # "half" was published for the first phase: later ones go on at the tenth
        span = self.recipe.epochs * self.per_epoch[0] if self.recipe.schedule == "half" else self.length
        return self.recipe.rate(side, step, span)

    def steps(self, seed: int, done: int) -> Iterator[PlannedStep]:
        """The steps that follow the first ``done``, each epoch in an order of its own."""
        passed = 0  # steps of the epochs before
        for epoch in range(self.recipe.all_epochs):
            phase = epoch // self.recipe.epochs
            size, count = self.sizes[phase], self.per_epoch[phase]
            if done < passed + count:
                batches: list[torch.Tensor] = []
                for block in range(self.blocks):
                    names = ("order", epoch, *([block] if block else []))
                    order = torch.randperm(size, generator=generator(seed, *names)) + sum(self.sizes[:phase])
                    cut = (order + block * size).split(min(self.recipe.batch, size))
                    batches += cut[: _steps_per_epoch(size, self.recipe)]
                for number in range(max(0, done - passed), count):
                    yield PlannedStep(passed + number, epoch, number, number + 1 == count, batches[number])
            passed += count


def steps_in(pairs: int, recipe: Recipe, steps_per_epoch: int = 0, blocks: int = 1) -> int:
    """Steps of one training: a last batch of a single pair is left out, it has no contrast.

    Args:
        steps_per_epoch: as for :func:`fit`.
        blocks: of texts, as in :class:`TrainingData`.
    """
    return StepPlan.of(pairs, recipe, steps_per_epoch, blocks).length


def _steps_per_epoch(pairs: int, recipe: Recipe) -> int:
    full, rest = divmod(pairs, min(recipe.batch, pairs))
    return full + (rest > 1)
