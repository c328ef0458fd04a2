"""Choose real pairs of a workbench's training split: the pipeline, then a selector, within quotas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.data.pairs import CaptionRows
from vldistill.errors import ConfigError
from vldistill.selection.features import PairFeatures
from vldistill.selection.pipeline import Prepared, check_pipeline, is_plain, prepare
from vldistill.selection.quotas import Group
from vldistill.selection.selector import SELECTORS
from vldistill.selection.warmup import open_rows, warm_up
from vldistill.training.data import TrainingData
from vldistill.workbench.bench import Workbench


class _TrainingCandidates:
    """The :class:`Candidates` of a workbench; ``options`` configure the warm-up.

    Args:
        rows: (M',) the captions that there are to choose from, ascending; None is all.
    """

    def __init__(self, bench: Workbench, options: SelectConfig, rows: np.ndarray | None = None) -> None:
        self.bench, self.options = bench, options
        pairs = bench.pixels("train").pairs
        owner = np.array(pairs.caption_image, np.int64)
        self._all_captions: Sequence[np.ndarray] = pairs.image_captions
        self._texts: torch.Tensor | None = None if rows is None else torch.from_numpy(rows)
        self._images: torch.Tensor | None = None
        self.image_captions: Sequence[np.ndarray] = pairs.image_captions
        self.labels = None if pairs.classes is None else pairs.classes.labels
        if rows is not None:
            images, owner = np.unique(owner[rows], return_inverse=True)
            self._images = torch.from_numpy(images)
            self.image_captions = CaptionRows(owner, len(images))
            self.labels = None if self.labels is None else self.labels[images]
        self.caption_image = torch.from_numpy(owner)

    def original(self, captions: torch.Tensor) -> torch.Tensor:
        """The rows of chosen captions among all of the split."""
        return captions if self._texts is None else self._texts[captions]

    def _features(self, images: torch.Tensor, texts: torch.Tensor) -> PairFeatures:
        if self._texts is not None and self._images is not None:
            images, texts = images[self._images], texts[self._texts]
        return PairFeatures(images, texts, self.caption_image)

    @property
    def towers(self) -> PairFeatures:
        return self._features(*self.bench.unit_features())

    @property
    def data(self) -> TrainingData:
        return self.bench.frozen_features(self._images, self._texts, self.caption_image)

    @property
    def workbench(self) -> Workbench:
        return self.bench

    @cached_property
    def _warm_up(self) -> Path:
        return warm_up(self.bench, self._all_captions, self.options)

    def _rows(self, name: str) -> torch.Tensor:
        return open_rows(self._warm_up / f"{name}.npy")

    @property
    def student(self) -> PairFeatures:
        return self._features(self._rows("images"), self._rows("texts"))

    @property
    def forgotten(self) -> torch.Tensor:
        found = self._rows("forgotten")
        return found if self._texts is None else found[self._texts]


def check_count(images: int, pairs: int) -> None:
    """Refuse more pairs than there are images. Raises ConfigError."""
    if pairs > images:
        raise ConfigError(
            f"{pairs} pairs were requested, but the train split has {images} images, "
            f"and the pairs of one set have distinct images. Ask for {images} or fewer."
        )


def check_readable(bench: Workbench, pairs: int) -> None:
    """Refuse more pairs than readable training images; decodes the images. Raises ConfigError."""
    readable, listed = bench.pixels("train").pairs.count_images, bench.pairs("train").count_images
    if readable < pairs <= listed:
        raise ConfigError(
            f"{pairs} pairs were requested, but of the {listed} images of the train split {readable} can be read, "
            f"and the pairs of one set have distinct images. Ask for {readable} or fewer, or repair the others."
        )
    check_count(readable, pairs)


def check_ground(name: str, pairs: int, options: SelectConfig) -> None:
    """Refuse more pairs than the selector's random sample holds, and what its pipeline cannot read.

    Raises:
        ConfigError: see above.
        ArtefactError: the set that ``match`` names is none.
    """
    entry = SELECTORS.find(name)
    for option in ("ground_set", "cluster_sample"):
        if option in entry.reads and getattr(options, option) < pairs:
            raise ConfigError(
                f"select.{option} is {getattr(options, option)}, fewer than the {pairs} pairs that {name} must "
                f"choose. Ask for fewer pairs, or set select.{option} to {pairs} or more."
            )
    if entry.check is not None:
        entry.check(pairs, options)
    check_pipeline(options)


def choose_pairs(
    bench: Workbench, name: str, count: int, seed: int, options: SelectConfig | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose ``count`` training pairs with the selector ``name``: image rows and caption rows, (count,) int64 each.

    Raises:
        ConfigError: an unknown selector, more pairs than readable images, than the selector's sample or than the
            pipeline leaves, and what the pipeline refuses.
    """
    options = options or SelectConfig()
    check_ground(name, count, options)
    check_readable(bench, count)
    captions = _Choice(bench, name, seed, options).choose(count)
    return _images_of(bench, captions), captions


def choose_nested(
    bench: Workbench, name: str, budgets: Sequence[int], seed: int, options: SelectConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the largest of ``budgets`` pairs so that the first of them are the choice of the smaller budgets.

    A selector that chooses one pair after the other does so anyway; of another one a smaller set is its choice from
    the next larger set. Returns and raises as :func:`choose_pairs`.
    """
    largest, *smaller = sorted(budgets, reverse=True)
    check_ground(name, largest, options)
    check_readable(bench, largest)
    choice = _Choice(bench, name, seed, options)
    captions = choice.choose(largest)
    if not SELECTORS.find(name).nested or not is_plain(options):
        inside = captions
        for budget in smaller:
            inside = choice.choose(budget, within=inside)
            captions = torch.cat([inside, captions[~torch.isin(captions, inside)]])
    return _images_of(bench, captions), captions


def _images_of(bench: Workbench, captions: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(bench.pixels("train").pairs.caption_image, np.int64))[captions]


class _Choice:
    """A selector on what a pipeline leaves."""

    def __init__(self, bench: Workbench, name: str, seed: int, options: SelectConfig) -> None:
        self.bench, self.entry, self.name = bench, SELECTORS.find(name), name
        self.seed, self.options = seed, options

    def choose(self, count: int, within: torch.Tensor | None = None) -> torch.Tensor:
        """Rows (count,) of captions, of those ``within`` if they are given."""
        if is_plain(self.options):
            return self._of(None if within is None else within.sort().values.numpy(), count)
        prepared = prepare(self.bench, self.options, count if within is None else self.options.pairs)
        owner = self.bench.pixels("train").pairs.caption_image
        if within is not None:  # the quotas of a smaller budget, among the pairs that are chosen
            prepared = replace(prepared, rows=np.sort(within.numpy()))
            if prepared.groups:
                prepared = replace(prepared, groups=_smaller(prepared.groups, owner[prepared.rows], count))
        images = np.unique(owner[prepared.rows])
        if count > len(images):
            raise ConfigError(
                f"{count} pairs were requested, but filters and deduplication leave {len(images):,} images, and the "
                f"pairs of one set have distinct images. Ask for {len(images):,} or fewer, or loosen them."
            )
        if not prepared.groups:
            return self._with_included(prepared, prepared.rows, count, "select.pairs")
        parts = [
            self._with_included(prepared, prepared.rows[group.images[owner[prepared.rows]]], group.count, group.name)
            for group in prepared.groups
        ]
        return _taken_in_turn(parts)

    def _with_included(self, prepared: Prepared, rows: np.ndarray, count: int, what: str) -> torch.Tensor:
        """``count`` of ``rows``: a caption of every image that has to be in, then the selector's choice."""
        owner = self.bench.pixels("train").pairs.caption_image
        fixed = prepared.always[owner[rows]]
        must = len(np.unique(owner[rows[fixed]]))
        if must > count:
            raise ConfigError(
                f"select.include names {must:,} images{f' of {what}' if what != 'select.pairs' else ''}, more than the "
                f"{count:,} pairs to choose. Ask for more pairs, or shorten the list."
            )
        parts = [
            self._of(part, number) for part, number in ((rows[fixed], must), (rows[~fixed], count - must)) if number
        ]
        return torch.cat(parts)

    def _of(self, rows: np.ndarray | None, count: int) -> torch.Tensor:
        """The selector's choice among ``rows``; all of them where it has no choice but of captions."""
        candidates = _TrainingCandidates(self.bench, self.options, rows)
        return candidates.original(self.entry.choose(candidates, count, self.seed, self.options))


def _smaller(groups: Sequence[Group], owner: np.ndarray, count: int) -> tuple[Group, ...]:
    """The groups with their shares of a smaller number of pairs; what rounding leaves goes to the first."""
    total = sum(group.count for group in groups)
    counts = [group.count * count // total for group in groups]
    for place in range(count - sum(counts)):
        counts[place % len(counts)] += 1
    there = np.unique(owner)
    return tuple(
        replace(group, count=min(number, int(group.images[there].sum()))) for group, number in zip(groups, counts)
    )


def _taken_in_turn(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts as one, so that every beginning holds about the same share of each."""
    places = torch.cat([(torch.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
    return torch.cat(list(parts))[places.argsort(stable=True)]
