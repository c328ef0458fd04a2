"""An evaluation as a value, and as the JSON object of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from vldistill.config.plain import Plain, Record, entry, section
from vldistill.errors import ArtefactError
from vldistill.evaluation.data_checks.check import Check
from vldistill.evaluation.measures import MEASURES, Figure, Recalls, number_in

RECIPES = ("own", "generic")
FIXED_GRID = "generic-v1"  # chose the generic recipe of results that do not say


@dataclass(frozen=True)
class Trial:
    """Rates, epochs and the recipe that were tried, and the mean recall of their student on val."""

    rates: Mapping[str, float]
    epochs: int
    val_mean_recall: float
    recipe: Record = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Plain) -> Trial:
        """The opposite of :func:`dataclasses.asdict`. Raises ArtefactError."""
        record = value if isinstance(value, Mapping) else {}
        rates = section(record, "rates")
        score = number_in(record, "val_mean_recall")
        epochs = entry(record, "epochs", int) or 0
        return cls({name: number_in(rates, name) for name in rates}, epochs, score, section(record, "recipe"))

    def to_json(self) -> dict[str, Plain]:
        """A JSON object; trials of the fixed grid have no recipe of their own."""
        return {name: value for name, value in asdict(self).items() if name != "recipe" or value}


@dataclass(frozen=True)
class Tested:
    """The recalls of one student on test, and which queries it answered (:mod:`.hits`; empty in early results)."""

    recalls: Recalls
    hits: str = ""

    def to_json(self) -> dict[str, Plain]:
        """A JSON object."""
        return {**self.recalls.to_json(), "hits": self.hits}

    @classmethod
    def from_json(cls, value: Plain) -> Tested:
        """The opposite of :meth:`to_json`. Raises ArtefactError where a recall is missing."""
        record = value if isinstance(value, Mapping) else {}
        return cls(Recalls.from_json(value), entry(record, "hits", str) or "")


@dataclass(frozen=True)
class Scores:
    """Students by one recipe.

    Args:
        figures: mean and standard deviation over students, by :data:`~.measures.MEASURES`.
        recipe: as a JSON object.
        students: the recalls of each.
        trials: of the search for the recipe; None where there was none.
        hits: which queries of test each student answered; empty in early results.
        chosen_by: the protocol that chose the recipe, ``generic-v1`` or ``generic-v2``; empty for a set's own recipe.
        edges: dimensions of the search in which the choice ends at an edge of what was tried.
        steps: optimiser steps of a student; None in early results.
    """

    figures: Mapping[str, Figure]
    recipe: Record = field(default_factory=dict)
    students: tuple[Recalls, ...] = ()
    trials: tuple[Trial, ...] | None = None
    hits: tuple[str, ...] = ()
    chosen_by: str = ""
    edges: tuple[str, ...] = ()
    steps: int | None = None

    @property
    def mean_recall(self) -> Figure:
        """Mean recall."""
        return self.figures["mean_recall"]

    def to_json(self) -> dict[str, Plain]:
        """The JSON object of a recipe in a result's file."""
        plain: dict[str, Plain] = {name: figure.to_json() for name, figure in self.figures.items()}
        plain |= {"recipe": self.recipe, "students": [student.to_json() for student in self.students]}
        plain |= {"hits": list(self.hits)} if any(self.hits) else {}
        plain |= {} if self.steps is None else {"steps": self.steps}
        if self.trials is None:
            return plain
        trials: list[Plain] = [trial.to_json() for trial in self.trials]
        return plain | {"trials": trials, "chosen_by": self.chosen_by, "edges": list(self.edges)}

    @classmethod
    def from_json(cls, value: Plain) -> Scores | None:
        """The opposite of :meth:`to_json`; None where the recipe was not used. Raises ArtefactError."""
        if not isinstance(value, Mapping):
            return None
        figures = {name: figure for name in MEASURES if (figure := Figure.from_json(value.get(name)))}
        if len(figures) < len(MEASURES):
            raise ArtefactError(
                f"a result lacks {', '.join(sorted({*MEASURES} - {*figures}))}. Delete its file and evaluate again."
            )
        trials = entry(value, "trials", list)
        chosen_by = "" if trials is None else entry(value, "chosen_by", str) or FIXED_GRID
        return cls(
            figures,
            section(value, "recipe"),
            tuple(map(Recalls.from_json, entry(value, "students", list) or ())),
            None if trials is None else tuple(map(Trial.from_json, trials)),
            tuple(map(str, entry(value, "hits", list) or ())),
            chosen_by,
            tuple(map(str, entry(value, "edges", list) or ())),
            entry(value, "steps", int),
        )


@dataclass(frozen=True)
class Evaluation:
    """What students of a set reach on test.

    Args:
        set: its name, ``SELECTOR:N`` or ``full``.
        kind: ``distilled``, ``subset`` of real pairs, or ``full``.
        pairs: number of pairs (captions, for ``full``).
        seeds: number of students.
        own: by the recipe that the set carries; None where it has none, or it was not used.
        generic: by the recipe that is the same for every row; None where it was not used.
        chance: of a uniformly random ranking.
        image_tower: its name; None in files of early versions.
        data: the fingerprint of each split.
        details: provenance of the set.
        checks: what the numbers can mean (:mod:`.data_checks`); empty in files of early versions.
        test_captions: how many captions each test image has (:mod:`.hits`); None in files of early versions.
    """

    set: str
    kind: str
    setting: str
    protocol: str
    pairs: int
    stored_floats: int
    seeds: int
    own: Scores | None
    generic: Scores | None
    chance: Recalls
    image_tower: str | None
    text_tower: str | None
    data: Mapping[str, str]
    details: Record
    seconds: float | None
    peak_memory_bytes: int | None
    test_captions: str | None = None
    checks: tuple[Check, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What the checks of the data flag."""
        return [f"{check.name}: {check.summary}" for check in self.checks if check.flag]

    def scores(self) -> dict[str, Scores]:
        """The recipes that were used."""
        return {name: found for name, found in (("own", self.own), ("generic", self.generic)) if found}

    def to_json(self) -> dict[str, Plain]:
        """The JSON object of its file."""
        recipes = {name: found and found.to_json() for name, found in (("own", self.own), ("generic", self.generic))}
        plain = {option: getattr(self, option) for option in self.__dataclass_fields__}
        checks: list[Plain] = [check.to_json() for check in self.checks]
        return {**plain, **recipes, "chance": self.chance.to_json(), "data": dict(self.data), "checks": checks}

    @classmethod
    def from_json(cls, value: Plain) -> Evaluation:
        """The opposite of :meth:`to_json`; files of early versions lack some keys.

        Raises:
            ArtefactError: no number of pairs, or a recall that is missing.
        """
        record = value if isinstance(value, Mapping) else {}
        texts = {name: entry(record, name, str) for name in ("set", "kind", "setting", "protocol")}
        data = section(record, "data")
        return cls(
            **{name: text or "" for name, text in texts.items()},
            pairs=int(number_in(record, "pairs")),
            stored_floats=int(number_in(record, "stored_floats")),
            seeds=int(number_in(record, "seeds")),
            own=Scores.from_json(record.get("own")),
            generic=Scores.from_json(record.get("generic")),
            chance=Recalls.from_json(record.get("chance")),
            image_tower=entry(record, "image_tower", str),
            text_tower=entry(record, "text_tower", str),
            data={split: found for split in data if (found := entry(data, split, str))},
            details=section(record, "details"),
            seconds=entry(record, "seconds", int, float),
            peak_memory_bytes=entry(record, "peak_memory_bytes", int),
            test_captions=entry(record, "test_captions", str),
            checks=tuple(map(Check.from_json, entry(record, "checks", list) or ())),
        )


@dataclass(frozen=True)
class Validation:
    """Mean recall of a set on val, as the outer loop validates."""

    set: str
    setting: str
    val_mean_recall: float
    seconds: float
