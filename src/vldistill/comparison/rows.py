"""Rows of a comparison's table: finished cells, and published results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vldistill.comparison.published import Published
from vldistill.comparison.results import CellResult
from vldistill.comparison.statistics import Spread, augmentation_robust_score, differences, label_robust_score
from vldistill.comparison.trials import tried_row
from vldistill.config.plain import Plain, Record, entry, section
from vldistill.evaluation.bootstrap import Bootstrap, Interval, images_tested
from vldistill.evaluation.measures import ACCURACIES, RECALLS, Figure, number_in, ratio
from vldistill.evaluation.results import FIXED_GRID, Evaluation, Scores
from vldistill.storage.files import digest
from vldistill.workbench.headline import MEAN_RECALL, TOP1

EQUAL_FLOATS = 0.02  # relative difference of numbers of floats that count as equal


@dataclass(frozen=True)
class Row:
    """One row: one or several distillations of one configuration; figures in percent, None where there is none.

    Args:
        pairs: None for the full data of a publication.
        seed: of the distillation; None for a target, and where there are several.
        distillations: how many seeds, each with ``students`` students.
        own: mean recall, of class sets zero-shot top-1 (``measure``), by the recipe that the set carries.
        generic: the same by the recipe that is chosen in one way for every row.
        recalls: by name, of the recipe that ``recalls_by`` names: ``generic`` where it was used, else ``own``.
        spread_of: what the deviations are of, in words.
        student_std: of ``generic`` over the students of one distillation.
        distillation_std: of ``generic`` over the means of distillations.
        chosen_by: how the generic recipe was chosen, ``generic-v1`` or ``generic-v2``.
        edges: dimensions of the search where the choice ends at an edge.
        steps: optimiser steps of the generic student.
        group: rows that compete: setting, towers, budget, space and texts.
        difference: to the best row of the group; None for the best itself.
        tied: whether the row cannot be distinguished from the best of its group.
        gain: generic mean recall over that of N random pairs for N pairs.
        floats_gain: the same over random pairs of equal stored floats.
        share: generic mean recall over that of the full data.
        share_interval: of ``share``.
        lrs: label-robust score, see :mod:`.statistics`.
        ars: augmentation-robust score.
        trials: how many options were tried in each distillation; ``chosen`` are the best.
        tried: how many configurations were ever distilled for the row.
        val_looks: how many times val was scored to choose the row's options, iterations and recipe.
        details: provenance of the set; of a published row its source and data.
        chance: mean recall of a random ranking.
        data: the name of what the row is of, in a comparison of several data sets.
    """

    row: str
    towers: str
    setting: str
    protocol: str
    pairs: int | None
    stored_floats: int | None = None
    seed: int | None = None
    students: int | None = None
    distillations: int = 1
    own: Figure | None = None
    generic: Figure | None = None
    recalls: Mapping[str, Figure | None] = field(default_factory=dict)
    recalls_by: str = "own"
    spread_of: str = "student"
    student_std: float | None = None
    distillation_std: float | None = None
    chosen_by: str = ""
    edges: tuple[str, ...] = ()
    steps: int | None = None
    group: str = ""
    difference: Interval | None = None
    tied: bool = False
    gain: float | None = None
    floats_gain: float | None = None
    share: float | None = None
    share_interval: Interval | None = None
    lrs: float | None = None
    ars: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    trials: int = 0
    tried: int | None = None
    val_looks: int = 0
    chosen: Record | None = None
    details: Record = field(default_factory=dict)
    chance: float | None = None
    published: bool = False
    measure: str = MEAN_RECALL
    data: str = ""

    @property
    def source(self) -> str:
        """The publication of a published row."""
        return entry(self.details, "source", str) or ""

    def to_json(self) -> dict[str, Plain]:
        """The JSON object in ``table.json``."""
        missing = {"mean": None, "std": None}
        recalls = {name: figure.to_json() if figure else missing for name, figure in self.recalls.items()}
        means = {"own": self.own and self.own.to_json(), "generic": self.generic and self.generic.to_json()}
        intervals = {
            name: found and vars(found)
            for name, found in (("difference", self.difference), ("share_interval", self.share_interval))
        }
        plain = {**vars(self), **means, **intervals, "recalls": recalls, "edges": list(self.edges)}
        usual = {"measure": MEAN_RECALL, "data": ""}
        return {name: value for name, value in plain.items() if name not in usual or value != usual[name]}

    @classmethod
    def from_json(cls, record: Record) -> Row:
        """The opposite of :meth:`to_json`; files of early versions lack what came later."""
        recalls = section(record, "recalls")
        parts: dict[str, object] = {
            "recalls": {name: Figure.from_json(recalls[name]) for name in recalls},
            "own": Figure.from_json(record.get("own")),
            "generic": Figure.from_json(record.get("generic")),
            "edges": tuple(map(str, entry(record, "edges", list) or ())),
        }
        for name in ("difference", "share_interval"):
            found = section(record, name)
            parts[name] = Interval(**{part: number_in(found, part) for part in found}) if found else None
        known = {name: value for name, value in record.items() if name in cls.__dataclass_fields__}
        if parts["generic"] and not known.get("chosen_by"):
            parts["chosen_by"] = FIXED_GRID
        return replace(cls("", "", "", "", None), **{**known, **parts})


Ground = tuple[str, str, str, str, str]
"""Data, setting, towers, protocol and how the generic recipe is chosen, which two rows must share to be compared."""
Tried = Mapping[tuple[str, str, str, int], Collection[str]]
"""The configurations that were ever distilled, by setting, towers, row and pairs."""


def comparison_rows(results: Sequence[CellResult], tried: Tried | None = None) -> list[Row]:
    """One row for the finished cells of one configuration, whatever their seeds.

    Gain and share stand only where a row of the same :data:`Ground` gives the reference, differences where the hits of
    all students were kept.
    """
    pools: dict[str, list[CellResult]] = {}
    for result in results:
        pools.setdefault(row_key(result), []).append(result)
    references = {(_ground(pool[0]), pool[0].name): pool for pool in pools.values() if pool[0].kind == "target"}
    rows = {key: _row(pool, references, _count_tried(pool[0], tried or {})) for key, pool in pools.items()}
    return list(_ranked(rows, pools, references).values())


def _count_tried(result: CellResult, tried: Tried) -> int | None:
    found = tried.get((result.setting, result.towers, tried_row(result.data, result.row), result.evaluation.pairs))
    return len(found) if found else None


def row_key(result: CellResult) -> str:
    """Equal for cells of one row that differ in their seed."""
    parts = (result.row, *_ground(result), result.evaluation.pairs)
    return digest(*map(str, parts))


def _ground(result: CellResult) -> Ground:
    generic = result.evaluation.generic
    return result.data, result.setting, result.towers, result.protocol, generic.chosen_by if generic else ""


References = Mapping[tuple[Ground, str], Sequence[CellResult]]


def _row(pool: Sequence[CellResult], references: References, tried: int | None) -> Row:
    result, evaluation, ground = pool[0], pool[0].evaluation, _ground(pool[0])
    own, generic = (_pooled(pool, recipe) for recipe in ("own", "generic"))
    figures = generic or own or {}
    measure = TOP1 if evaluation.classes is not None else MEAN_RECALL
    spread = generic.get(measure) if generic else None
    mean = spread.pooled.mean if spread else None
    random, full = references.get((ground, f"random:{evaluation.pairs}")), references.get((ground, "full"))
    random_mean, full_mean = _mean(random), _mean(full)
    scores = evaluation.generic
    makings = [found.making for found in pool if found.making]
    seconds = [making.seconds for making in makings if making.seconds is not None]
    memory = [making.peak_memory_bytes for making in makings if making.peak_memory_bytes]
    known = mean is not None and random_mean is not None and full_mean is not None and result.kind == "method"
    return Row(
        row=result.row,
        towers=result.towers,
        setting=result.setting,
        protocol=result.protocol,
        pairs=evaluation.pairs,
        stored_floats=evaluation.stored_floats,
        seed=result.seed if result.kind == "method" and len(pool) == 1 else None,
        students=evaluation.seeds,
        distillations=len(pool),
        own=own[measure].pooled if own else None,
        generic=spread.pooled if spread else None,
        recalls={name: figures[name].pooled if name in figures else None for name in _recalls(evaluation)},
        recalls_by="generic" if generic else "own",
        spread_of=_spread_of(pool),
        student_std=spread.student if spread else None,
        distillation_std=spread.distillation if spread else None,
        chosen_by=scores.chosen_by if scores else "",
        edges=tuple(dict.fromkeys(edge for found in pool if (s := found.evaluation.generic) for edge in s.edges)),
        steps=scores.steps if scores else None,
        group=_group(result),
        gain=ratio(mean, random_mean),
        floats_gain=ratio(mean, _mean(_random_of_equal_floats(result, references))),
        share=ratio(mean, full_mean),
        lrs=label_robust_score(mean or 0, random_mean or 0, full_mean or 0) if known else None,
        ars=_ars(scores, random) if known else None,
        seconds=sum(seconds) / len(seconds) if seconds else None,
        peak_memory_bytes=max(memory, default=None) or evaluation.peak_memory_bytes,
        trials=result.trials,
        tried=tried,
        val_looks=sum(map(_val_looks, pool)),
        chosen=result.chosen,
        details=evaluation.details,
        chance=evaluation.chance_headline,
        measure=measure,
        data=result.data,
    )


def _recalls(evaluation: Evaluation) -> Sequence[str]:
    """The measures beside the headline: the six recalls, of class sets the accuracies too."""
    return RECALLS if evaluation.classes is None else (*ACCURACIES[1:], *RECALLS)


def _pooled(pool: Sequence[CellResult], recipe: str) -> dict[str, Spread] | None:
    """The spread of every measure by one recipe; None where a cell did not use it."""
    found = [result.evaluation.scores().get(recipe) for result in pool]
    scores = [one for one in found if one is not None]
    if not scores or len(scores) < len(pool):
        return None
    if any(not one.students for one in scores):  # early files keep figures alone
        figures = scores[0].figures
        return {name: Spread(figures[name], figures[name].std or 0.0, None) for name in figures}
    return {name: Spread.of([one.of_students(name) for one in scores]) for name in scores[0].figures}


def _mean(pool: Sequence[CellResult] | None) -> float | None:
    found = _pooled(pool, "generic") if pool else None
    return found.get(TOP1, found["mean_recall"]).pooled.mean if found else None


def _spread_of(pool: Sequence[CellResult]) -> str:
    if pool[0].evaluation.details.get("new_pairs_for_each_student"):
        return "subset and student"
    return "distillation and student" if len(pool) > 1 else "student"


def _group(result: CellResult) -> str:
    """Rows of one group hold the same kind of thing: setting, towers, budget, space, texts of a picture."""
    evaluation = result.evaluation
    where = ", ".join(part for part in (result.data, result.setting, result.towers) if part)
    if evaluation.kind in ("subset", "full") or (not evaluation.kind and result.kind == "target"):
        return f"{where}: real pairs"
    space, captions = evaluation.details.get("space", "pixels"), evaluation.details.get("captions", 1)
    texts = "one text" if captions == 1 else f"{captions} texts"
    held = "pictures" if space == "pixels" else "features"
    return f"{where}: {evaluation.pairs} {held}, {texts} each"


def _random_of_equal_floats(result: CellResult, references: References) -> Sequence[CellResult] | None:
    """The random pairs that take as many stored numbers, to 2 %, as the set: as features where it holds features."""
    evaluation, features = result.evaluation, result.evaluation.details.get("space") == "features"
    for (ground, name), pool in references.items():
        real = pool[0].evaluation
        floats = entry(real.details, "features_floats", int) if features else real.stored_floats
        equal = floats and abs(floats / evaluation.stored_floats - 1) <= EQUAL_FLOATS
        if equal and ground == _ground(result) and name.startswith("random:"):
            return pool
    return None


def _ars(scores: Scores | None, random: Sequence[CellResult] | None) -> float | None:
    drawn = random[0].evaluation.generic if random else None
    return augmentation_robust_score(scores, drawn) if scores and drawn else None


def _val_looks(result: CellResult) -> int:
    """How many times val was scored for a cell: in distillations, for their trials, in the search for the recipe."""
    scores = result.evaluation.generic
    looks = len(scores.trials or ()) if scores else 0
    return looks + result.val_looks


def _ranked(rows: dict[str, Row], pools: Mapping[str, Sequence[CellResult]], references: References) -> dict[str, Row]:
    """The rows with their intervals: of the difference to the best row of the group, and of the share."""
    bootstraps: dict[str, Bootstrap] = {}
    for data in {pool[0].data for pool in pools.values()}:
        if images := images_tested(pool[0].evaluation for pool in pools.values() if pool[0].data == data):
            bootstraps[data] = Bootstrap(images)
    drawn = {
        key: bootstraps[pool[0].data].means([one.evaluation for one in pool])
        for key, pool in pools.items()
        if pool[0].data in bootstraps
    }
    draws = {key: found for key, found in drawn.items() if found is not None}
    full = {ground: row_key(pool[0]) for (ground, name), pool in references.items() if name == "full"}
    to_best: dict[str, Interval] = {}
    for group in {row.group for row in rows.values()}:
        members = {key: row.generic.mean for key, row in rows.items() if row.group == group and row.generic}
        if "real pairs" not in group and members:
            to_best |= differences({key: draws[key] for key in members if key in draws}, members)
    for key, row in rows.items():
        whole = full.get(_ground(pools[key][0]))
        share = None
        if row.share is not None and key in draws and whole in draws and whole != key:
            share = Interval.of(row.share, draws[key] / draws[whole])
        difference = to_best.get(key)
        tied = difference is not None and difference.high >= 0
        rows[key] = replace(row, difference=difference, tied=tied, share_interval=share)
    return rows


_PLACES = {"abstract": "its abstract", "page": "a page about it"}


def published_row(found: Published) -> Row:
    """A published row as a row of the table. Its students are those of its source: never the generic recipe."""
    note = "published" if found.place == "paper" else f"published, read in {_PLACES[found.place]}"
    note = "published, 2nd-hand" if found.second_hand else note
    return Row(
        row=f"{found.row} ({note}, {found.data})",
        towers=found.towers,
        setting=found.setting,
        protocol="published",
        pairs=found.pairs,
        own=None if found.mean is None else Figure(found.mean),
        recalls={name: None if value is None else Figure(value) for name, value in found.recalls.items()},
        details={"source": f"{found.source} ({found.note})" if found.note else found.source, "data": found.data},
        published=True,
    )
