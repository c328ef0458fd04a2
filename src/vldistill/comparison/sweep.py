"""A sweep as cells: methods x pairs x settings x towers x seeds, and targets; :mod:`.sweepfile` reads it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from vldistill.comparison.cells import Cell
from vldistill.comparison.smoke import PAIRS, shrunken
from vldistill.config import Config
from vldistill.config.plain import Plain, Record, entry, section
from vldistill.errors import ConfigError
from vldistill.evaluation.chosen import count_in
from vldistill.options.merge import merged, nested, on_towers, resolved
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.randomness import generator

Grid = Mapping[str, Sequence[Plain]]
MOST_POINTS = 100_000  # options of one grid


@dataclass(frozen=True)
class Limits:
    """The budgets, seeds, settings, towers and data that a row is limited to; None is all of the sweep's."""

    pairs: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    settings: tuple[str, ...] | None = None
    towers: tuple[str, ...] | None = None
    data: tuple[str, ...] | None = None

    def admit(self, data: str, setting: str, towers: str) -> bool:
        """Whether the row has cells of these data, this setting and these towers."""
        asked = ((self.data, data), (self.settings, setting), (self.towers, towers))
        return all(wanted is None or one in wanted for wanted, one in asked)


@dataclass(frozen=True)
class Ground:
    """One of several data sets of a sweep: options of its cells, nested, and its budgets; None is the sweep's."""

    options: Record
    pairs: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MethodRow:
    """A row of cells that distil.

    Args:
        method: its name.
        options: over those that all cells share.
        by_pairs: more options, by budget.
        limits: of its cells.
        grid: lists of values by dotted option; None is the sweep's.
    """

    method: str
    options: Record = field(default_factory=dict)
    by_pairs: Mapping[int, Record] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    grid: Grid | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file configures it.

    Args:
        path: the sweep file.
        data: what cells are of, by name: of a sweep of one source its base under the empty name.
        pairs: budgets.
        seeds: of the distillations.
        settings: options by setting.
        towers: options of section ``encoder`` by name.
        methods: rows by label.
        targets: what is evaluated beside the methods.
        minutes: of a distillation, by pairs, or by None for all; empty is no limit but the options'.
        trial_minutes: of a trial; 0 means the same as ``minutes``.
        trials: options tried per method; 0 leaves it to each grid.
        widen: options tried beyond those, where an edge of the grid is best beyond it.
        grid: lists of values by dotted option, for methods without their own.
        smoke: shrink every cell, see :func:`~vldistill.comparison.smoke.shrunken`.
    """

    path: Path
    data: Mapping[str, Ground]
    pairs: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Record]
    towers: Mapping[str, Record]
    methods: Mapping[str, MethodRow]
    targets: Mapping[str, Limits]
    minutes: Mapping[int | None, float] = field(default_factory=dict)
    trial_minutes: float = 0.0
    trials: int = 0
    widen: int = 0
    grid: Grid = field(default_factory=dict)
    smoke: bool = False

    def cells(self) -> list[Cell]:
        """Every cell, validated, in the order of the table. Raises ConfigError for the first that cannot work."""
        found: dict[str, Cell] = {}
        for place in itertools.product(self.data, self.settings, self.towers):
            for target in self._targets(*place):
                cell = self._target_cell(target, *place)
                found[cell.id] = cell
            for label, row in self.methods.items():
                if row.limits.admit(*place):
                    pairs = row.limits.pairs or self._pairs(place[0])
                    for budget, seed in itertools.product(pairs, row.limits.seeds or self.seeds):
                        cell = self._method_cell(label, row, *place, budget, seed)
                        found[cell.id] = cell
        return list(found.values())

    def _pairs(self, data: str) -> tuple[int, ...]:
        return self.data[data].pairs or self.pairs

    def _targets(self, data: str, setting: str, towers: str) -> Iterator[str]:
        for target, limits in self.targets.items():
            if not limits.admit(data, setting, towers):
                continue
            if target == "full" or ":" in target or "/" in target:
                yield target
            else:
                yield from (f"{target}:{pairs}" for pairs in limits.pairs or self._pairs(data))

    def _shared(self, data: str, setting: str, towers: str) -> Record:
        options = merged(self.data[data].options, {"encoder": {"setting": setting}}, self.settings[setting])
        return {**options, "encoder": on_towers(section(options, "encoder"), self.towers[towers])}

    def _sized(self, config: Config) -> Config:
        return shrunken(config) if self.smoke else config

    def shrunk(self) -> Sweep:
        """The smoke test of this sweep: one small budget, every method, setting and towers."""
        small = self.with_pairs((PAIRS,))
        targets = {re.sub(r":\d+$", f":{PAIRS}", target): limits for target, limits in small.targets.items()}
        return replace(small, seeds=self.seeds[:1], targets=targets, minutes={}, trial_minutes=0.0, smoke=True)

    def with_pairs(self, pairs: tuple[int, ...]) -> Sweep:
        """The sweep with other budgets, also where a row has its own."""
        methods = {label: replace(row, limits=replace(row.limits, pairs=pairs)) for label, row in self.methods.items()}
        targets = {name: replace(limits, pairs=pairs) for name, limits in self.targets.items()}
        grounds = {name: replace(ground, pairs=pairs) for name, ground in self.data.items()}
        return replace(self, pairs=pairs, methods=methods, targets=targets, data=grounds)

    def _target_cell(self, target: str, data: str, setting: str, towers: str) -> Cell:
        config = self._sized(resolved(self._shared(data, setting, towers), f"target {target}"))
        return Cell(target, "target", target, count_in(target), setting, towers, 0, (config,), data=data)

    def _method_cell(
        self, label: str, row: MethodRow, data: str, setting: str, towers: str, pairs: int, seed: int
    ) -> Cell:
        options = merged(self._shared(data, setting, towers), row.options, row.by_pairs.get(pairs, {}))
        minutes = self._minutes(pairs, options)
        configs = []
        for trial in self._trials(label, row):
            config = resolved(merged(options, {"distill": {"method": row.method}}, trial), f"method {label!r}")
            distill = resolve_distill(replace(config.distill, pairs=pairs, seed=seed, minutes=minutes), setting)
            configs.append(self._sized(replace(config, distill=distill)))
        if len(configs) == 1:
            return Cell(label, "method", row.method, pairs, setting, towers, seed, tuple(configs), data=data)
        grid, widen = (self.grid if row.grid is None else row.grid), 0 if self.smoke else self.widen
        tried = tuple(configs), self.trial_minutes, grid if widen else {}, widen
        return Cell(label, "method", row.method, pairs, setting, towers, seed, *tried, data=data)

    def _minutes(self, pairs: int, options: Record) -> float:
        """The limit of a distillation of ``pairs``. Raises ConfigError where ``minutes`` names only other budgets."""
        if not self.minutes:
            return entry(section(options, "distill"), "minutes", int, float) or 0.0
        if None not in self.minutes and pairs not in self.minutes:
            raise ConfigError(
                f"{self.path}: minutes names {', '.join(map(str, self.minutes))} pairs, but not the {pairs} of this "
                f"comparison. Add {pairs} to it (0 is no limit), or give one number for all."
            )
        return self.minutes.get(pairs, self.minutes.get(None, 0.0))

    def _trials(self, label: str, row: MethodRow) -> list[dict[str, Plain]]:
        """The options to try: the grid's product, or ``trials`` points of it drawn from the label."""
        grid = self.grid if row.grid is None else row.grid
        if (count := math.prod(len(values) for values in grid.values())) > MOST_POINTS:
            raise ConfigError(
                f"method {label!r} has {count:,} options in its grid; expected {MOST_POINTS:,} or less. Leave some out."
            )
        points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
        if self.trials and len(points) < self.trials:
            raise ConfigError(
                f"method {label!r} has {len(points)} options in its grid, but every method gets trials: {self.trials} "
                f"of them. Give it a grid of {self.trials} or more, or lower trials."
            )
        if self.trials and len(points) > self.trials:
            order = torch.randperm(len(points), generator=generator("trials", label, self.trials))
            points = [points[index] for index in sorted(order[: self.trials].tolist())]
        return [nested(point) for point in points]
