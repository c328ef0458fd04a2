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
        at: step number in the training, from 0.
        epoch: number of its epoch, from 0.
        number: step number in the epoch, from 0.
        last: whether it is the last step of its epoch.
        index: (B,) int64, the pairs of its batch.
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
        sizes: number of pairs of each phase, in each block of texts.
        per_epoch: steps per epoch in each phase.
        blocks: number of blocks of texts; an epoch passes them one after the other.
        drawn: draws one caption of each image for an epoch; None passes all captions.
    """

    recipe: Recipe
    sizes: tuple[int, ...]
    per_epoch: tuple[int, ...]
    blocks: int
    drawn: DrawnCaptions | None = None

    @staticmethod
    def of(
        pairs: int, recipe: Recipe, steps_per_epoch: int = 0, blocks: int = 1, caption_image: torch.Tensor | None = None
    ) -> StepPlan:
        """The plan of a training on ``pairs`` pairs, with at most ``steps_per_epoch`` steps per epoch (0: no limit).

        Args:
            caption_image: (M,) int64, the image of each text; needed where the recipe draws one caption of each.
        """
        if recipe.one_caption and caption_image is not None:
            drawn = DrawnCaptions.of(caption_image)
            count = _steps_per_epoch(len(drawn), recipe)
            return StepPlan(recipe, (len(drawn),), (min(count, steps_per_epoch or count),), 1, drawn)
        sizes = recipe.phases or (pairs // blocks,)
        whole = [blocks * _steps_per_epoch(size, recipe) for size in sizes]
        return StepPlan(recipe, sizes, tuple(min(count, steps_per_epoch or count) for count in whole), blocks)

    @property
    def length(self) -> int:
        """Steps of all epochs."""
        return self.recipe.epochs * sum(self.per_epoch)

    def rate(self, side: str, step: int) -> float:
        """The learning rate of ``side`` at step number ``step`` of the training."""
        # "half" was published for the first phase: later phases stay at a tenth
        span = self.recipe.epochs * self.per_epoch[0] if self.recipe.schedule == "half" else self.length
        return self.recipe.rate(side, step, span)

    def steps(self, seed: int, done: int) -> Iterator[PlannedStep]:
        """The steps after the first ``done``; each epoch has its own random order, unless the recipe is ordered."""
        passed = 0  # steps of the previous epochs
        for epoch in range(self.recipe.all_epochs):
            phase = epoch // self.recipe.epochs
            size, count = self.sizes[phase], self.per_epoch[phase]
            if done < passed + count:
                batches: list[torch.Tensor] = []
                for block in range(self.blocks):
                    names = ("order", epoch, *([block] if block else []))
                    random = generator(seed, *names)
                    order = torch.arange(size) if self.recipe.ordered else torch.randperm(size, generator=random)
                    order = order + sum(self.sizes[:phase])
                    cut = (order + block * size).split(min(self.recipe.batch, size))
                    batches += cut[: _steps_per_epoch(size, self.recipe)]
                if self.drawn is not None:
                    picks = self.drawn.draw(generator(seed, "captions", epoch))
                    batches = [picks[images] for images in batches]
                for number in range(max(0, done - passed), count):
                    yield PlannedStep(passed + number, epoch, number, number + 1 == count, batches[number])
            passed += count


@dataclass(frozen=True)
class DrawnCaptions:
    """Draws a caption of every image: ``order`` (M,) are captions by image, ``counts`` (N,) how many each has."""

    order: torch.Tensor
    counts: torch.Tensor

    @staticmethod
    def of(caption_image: torch.Tensor) -> DrawnCaptions:
        """Of the image (M,) of each caption; images without a caption are passed over."""
        counts = torch.bincount(caption_image)
        return DrawnCaptions(caption_image.argsort(stable=True), counts[counts > 0])

    def __len__(self) -> int:
        return len(self.counts)

    def draw(self, source: torch.Generator) -> torch.Tensor:
        """A caption (N,) of every image."""
        place = (torch.rand(len(self.counts), generator=source) * self.counts).long()
        return self.order[self.counts.cumsum(0) - self.counts + place]


def steps_in(pairs: int, recipe: Recipe, steps_per_epoch: int = 0, blocks: int = 1) -> int:
    """Number of steps of one training. A last batch of a single pair is left out: it has no contrast.

    Args:
        steps_per_epoch: as for :func:`fit`.
        blocks: number of blocks of texts, as in :class:`TrainingData`.
    """
    return StepPlan.of(pairs, recipe, steps_per_epoch, blocks).length


def _steps_per_epoch(pairs: int, recipe: Recipe) -> int:
    full, rest = divmod(pairs, min(recipe.batch, pairs))
    return full + (rest > 1)
