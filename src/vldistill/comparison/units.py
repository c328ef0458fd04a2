"""A comparison as units of work: first the data and experts that cells share, then the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from vldistill.cluster import Launch, Unit, UnitFailed
from vldistill.cluster.shards import WHOLE, Shard
from vldistill.comparison.cells import Cell, shared_experts
from vldistill.comparison.run_cell import run_cell
from vldistill.config import Config
from vldistill.experts.record import expert_path
from vldistill.workbench.run_folder import Run, write_config

UNTIL = ("experts", "cells")


def encode_group(launch: Launch, run: Path, group: str, config: Config, known: Mapping[str, str]) -> None:
    """Decode and encode the data of a group of cells.

    Args:
        known: the recorded fingerprint of each split that finished cells of the same source were evaluated on.

    Raises:
        UnitFailed: the command failed, or the data are not those of the finished cells.
    """
    place = run / "encode" / group
    asked = write_config(place.with_suffix(".yaml"), config)
    launch(["encode", "--config", str(asked), "--run", str(place)], place.with_suffix(".log"))
    for split, seen in Run(place).data().items():
        if known.get(split, seen.get("fingerprint")) != seen.get("fingerprint"):
            raise UnitFailed(
                f"the {split} split of {config.data.source} is not what the finished cells in {run / 'cells'} were "
                f"evaluated on (fingerprint {known[split]} then, {seen.get('fingerprint')} now). Put the data back, "
                f"use another --run folder, or delete the folders of those cells to run them again.",
                "refused",
            )


def record_group(launch: Launch, run: Path, group: str, config: Config, shard: Shard) -> None:
    """Record a part of the experts that a group of cells shares."""
    place = run / "experts" / group
    asked = write_config(place.with_suffix(".yaml"), config)
    part = [] if shard == WHOLE else ["--shard", str(shard)]
    suffix = ".log" if shard == WHOLE else f".{shard.number}-{shard.count}.log"
    launch(["experts", "--config", str(asked), "--run", str(place), *part], place.with_suffix(suffix))


def comparison_units(
    cells: Sequence[Cell], run: Path, slots: int = 1, known: Mapping[str, Mapping[str, str]] | None = None
) -> list[Unit]:
    """The units of ``cells``: the data of all groups, the experts they share, the cells.

    Args:
        run: the comparison's folder, absolute.
        slots: units that run at a time: experts that train a tower are a unit each, those of heads, which take
            seconds, are divided among the slots.
        known: by :attr:`~.cells.Cell.source` the fingerprints of the data that finished cells were evaluated on.
    """
    recording = _recording(cells, run, slots)
    answering = []
    for cell in cells:
        experts = (unit.name for group in cell.expert_groups for unit in recording[group])
        needs = (f"encode {cell.data_group}", *experts)
        answering.append(Unit(f"cell {cell.id}", partial(run_cell, run=run, cell=cell), needs=needs))
    return [*_encoding(cells, run, known or {}), *(unit for units in recording.values() for unit in units), *answering]


def shared_units(
    cells: Sequence[Cell], run: Path, shard: Shard, known: Mapping[str, Mapping[str, str]] | None = None
) -> list[Unit]:
    """The part of the experts of all ``cells`` that falls to ``shard``, one unit each, with the data they need."""
    every = [unit for units in _recording(cells, run, slots=None).values() for unit in units]
    mine = shard.of(every)
    needed = {name for unit in mine for name in unit.needs}
    return [unit for unit in _encoding(cells, run, known or {}) if unit.name in needed] + mine


def _encoding(cells: Sequence[Cell], run: Path, known: Mapping[str, Mapping[str, str]]) -> list[Unit]:
    groups: dict[str, Unit] = {}
    for cell in cells:
        group, fingerprints = cell.data_group, dict(known.get(cell.source, {}))
        work = partial(encode_group, run=run, group=group, config=cell.configs[0], known=fingerprints)
        groups.setdefault(group, Unit(f"encode {group}", work))
    return list(groups.values())


def _recording(cells: Sequence[Cell], run: Path, slots: int | None) -> dict[str, list[Unit]]:
    """By group the units of the experts that ``cells`` share; ``slots`` of None makes one of each expert."""
    data_of = {group: cell.data_group for cell in cells for group in cell.expert_groups}
    units: dict[str, list[Unit]] = {}
    for group, config in shared_experts(cells).items():
        units[group] = []
        for part in _parts(config, slots):
            if slots in (None, 1) or not _recorded(run, group, config, part):
                name = f"experts {group}" if part == WHOLE else f"experts {group} {part}"
                needs = (f"encode {data_of[group]}",)
                work = partial(record_group, run=run, group=group, config=config, shard=part)
                units[group].append(Unit(name, work, needs=needs))
    return units


def _parts(config: Config, slots: int | None) -> list[Shard]:
    """The parts that a group's experts are recorded in."""
    count = config.experts.count
    if slots is None or (slots > 1 and config.encoder.setting != "heads"):
        return [Shard(number, count) for number in range(1, count + 1)]
    parts = min(count, slots)
    return [Shard(number, parts) for number in range(1, parts + 1)]


def _recorded(run: Path, group: str, config: Config, part: Shard) -> bool:
    """Whether every expert of a part has its file; its unit would do nothing but start and end."""
    experts = Run(run / "experts" / group).experts
    return all(expert_path(experts, index).exists() for index in part.of(range(config.experts.count)))
