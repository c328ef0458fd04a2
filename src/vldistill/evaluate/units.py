"""A comparison as units: what cells share first, made once, then the cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vldistill.cluster import Launch, Unit
from vldistill.cluster.shards import WHOLE, Shard
from vldistill.config import Config
from vldistill.evaluate.cells import Cell, run_cell, shared_experts, write_config
from vldistill.experts.record import expert_path
from vldistill.runs import Run

UNTIL = ("experts", "cells")


def encode_group(launch: Launch, run: Path, group: str, config: Config) -> None:
    """Decode and encode the data of a group of cells."""
    place = run / "encode" / group
    asked = write_config(place.with_suffix(".yaml"), config)
    launch(["encode", "--config", str(asked), "--run", str(place)], place.with_suffix(".log"))


def record_group(launch: Launch, run: Path, group: str, config: Config, shard: Shard) -> None:
    """Record a part of the experts that a group of cells shares."""
    place = run / "experts" / group
    asked = write_config(place.with_suffix(".yaml"), config)
    part = [] if shard == WHOLE else ["--shard", str(shard)]
    suffix = ".log" if shard == WHOLE else f".{shard.number}-{shard.count}.log"
    launch(["experts", "--config", str(asked), "--run", str(place), *part], place.with_suffix(suffix))


def answer_cell(launch: Launch, run: Path, cell: Cell) -> None:
    """Run one cell."""
    run_cell(cell, run, launch)


def comparison_units(
    cells: Sequence[Cell], run: Path, slots: int = 1, shard: Shard = WHOLE, until: str = "cells"
) -> list[Unit]:
    """The units of ``cells``, those that others need first.

    Args:
        run: the comparison's folder, absolute.
        slots: units that run at a time: experts that train a tower are a unit each, those of heads, which take
            seconds, are divided among the slots.
        shard: the part of the last kind of units that this job does; what these need comes along where it is missing.
        until: ``experts`` leaves the cells out.
    """
    if until == "cells":
        cells = shard.of(cells)
    encodes = {
        cell.data_group: Unit(
            f"encode {cell.data_group}", encode_group, {"run": run, "group": cell.data_group, "config": cell.configs[0]}
        )
        for cell in reversed(cells)
    }
    experts: dict[str, list[Unit]] = {}
    data_of = {group: cell.data_group for cell in cells for group in cell.expert_groups}
    for group, config in shared_experts(cells).items():
        arguments = {"run": run, "group": group, "config": config}
        parts = _parts(config, slots)
        experts[group] = [
            Unit(
                f"experts {group}" if part == WHOLE else f"experts {group} {part}",
                record_group,
                {**arguments, "shard": part},
                after=(f"encode {data_of[group]}",),
            )
            for part in parts
            if part == WHOLE or not _recorded(run / "experts" / group, config, part)
        ]
    recording = [unit for units in experts.values() for unit in units]
    if until == "experts":
        recording = shard.of(recording)
        needed = {name for unit in recording for name in unit.after}
        return [unit for unit in encodes.values() if unit.name in needed] + recording
    judging = [
        Unit(
            f"cell {cell.id}",
            answer_cell,
            {"run": run, "cell": cell},
            after=(f"encode {cell.data_group}",),
            needs=tuple(unit.name for group in cell.expert_groups for unit in experts[group]),
        )
        for cell in cells
    ]
    return [*reversed(encodes.values()), *recording, *judging]


def _parts(config: Config, slots: int) -> list[Shard]:
    """The parts that a group's experts are recorded in."""
    count = config.experts.count
    parts = 1 if slots == 1 else min(count, slots) if config.encoder.setting == "heads" else count
    return [Shard(number, parts) for number in range(1, parts + 1)]


def _recorded(place: Path, config: Config, part: Shard) -> bool:
    """Whether every expert of a part has its file; its unit would do nothing but start and end."""
    return all(expert_path(Run(place).experts, index).exists() for index in part.of(range(config.experts.count)))
