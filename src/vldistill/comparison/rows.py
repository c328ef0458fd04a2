"""Rows of a comparison's table: finished cells, and published results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vldistill.comparison.published import Published
from vldistill.comparison.results import CellResult
from vldistill.config.plain import Plain, Record, entry
from vldistill.evaluation.measures import RECALLS, Figure, ratio


@dataclass(frozen=True)
class Row:
    """One row; figures in percent, None where there is none.

    Args:
        pairs: None for the full data of a publication.
        seed: of the distillation; None for a target.
        own: mean recall by the recipe that the set carries.
        generic: mean recall by the recipe that is the same for every row.
        recalls: by name, of the recipe that ``recalls_by`` names: ``generic`` where it was used, else ``own``.
        gain: generic mean recall over that of N random pairs for N pairs.
        share: generic mean recall over that of the full data.
        trials: how many options were tried; ``chosen`` are the best.
        details: provenance of the set; of a published row its source and data.
        chance: mean recall of a random ranking.
    """

    row: str
    towers: str
    setting: str
    protocol: str
    pairs: int | None
    stored_floats: int | None = None
    seed: int | None = None
    students: int | None = None
    own: Figure | None = None
    generic: Figure | None = None
    recalls: Mapping[str, Figure | None] = field(default_factory=dict)
    recalls_by: str = "own"
    gain: float | None = None
    share: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    trials: int = 0
    chosen: Record | None = None
    details: Record = field(default_factory=dict)
    chance: float | None = None
    published: bool = False

    @property
    def source(self) -> str:
        """The publication of a published row."""
        return entry(self.details, "source", str) or ""

    def to_json(self) -> dict[str, Plain]:
        """The JSON object in ``table.json``."""
        missing = {"mean": None, "std": None}
        recalls = {name: figure.to_json() if figure else missing for name, figure in self.recalls.items()}
        means = {"own": self.own and self.own.to_json(), "generic": self.generic and self.generic.to_json()}
        return {**vars(self), **means, "recalls": recalls}


Ground = tuple[str, str, str]
"""Setting, towers and protocol, which two rows must share to be compared."""


def comparison_rows(results: Sequence[CellResult]) -> list[Row]:
    """One row per finished cell; gain and share only where a row of the same :data:`Ground` gives the reference."""
    references: dict[tuple[Ground, str], float] = {}
    for result in results:
        generic = result.evaluation.generic
        if result.kind == "target" and generic:
            references[_ground(result), result.name] = generic.mean_recall.mean
    return [_row(result, references) for result in results]


def _ground(result: CellResult) -> Ground:
    return result.setting, result.towers, result.protocol


def _row(result: CellResult, references: Mapping[tuple[Ground, str], float]) -> Row:
    evaluation, making, ground = result.evaluation, result.making, _ground(result)
    own, generic = evaluation.own, evaluation.generic
    figures = next((scores.figures for scores in (generic, own) if scores), {})
    mean = generic.mean_recall.mean if generic else None
    return Row(
        row=result.row,
        towers=result.towers,
        setting=result.setting,
        protocol=result.protocol,
        pairs=evaluation.pairs,
        stored_floats=evaluation.stored_floats,
        seed=result.seed if result.kind == "method" else None,
        students=evaluation.seeds,
        own=own.mean_recall if own else None,
        generic=generic.mean_recall if generic else None,
        recalls={name: figures.get(name) for name in RECALLS},
        recalls_by="generic" if generic else "own",
        gain=ratio(mean, references.get((ground, f"random:{evaluation.pairs}"))),
        share=ratio(mean, references.get((ground, "full"))),
        seconds=making.seconds if making else None,
        peak_memory_bytes=(making.peak_memory_bytes if making else None) or evaluation.peak_memory_bytes,
        trials=result.trials,
        chosen=result.chosen,
        details=evaluation.details,
        chance=evaluation.chance.mean_recall,
    )


def published_row(found: Published) -> Row:
    """A published row as a row of the table. Its students are those of its source: never the generic recipe."""
    note = "published, 2nd-hand" if found.second_hand else "published"
    return Row(
        row=f"{found.row} ({note}, {found.data})",
        towers=found.towers,
        setting=found.setting,
        protocol="published",
        pairs=found.pairs,
        own=None if found.mean is None else Figure(found.mean),
        recalls={name: None if value is None else Figure(value) for name, value in found.recalls.items()},
        details={"source": found.source, "data": found.data},
        published=True,
    )
