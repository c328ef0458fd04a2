"""An evaluation as a value, and as the JSON object of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from vldistill.config.plain import Plain, Record, entry, section
from vldistill.errors import ArtefactError
from vldistill.evaluation.measures import MEASURES, Figure, Recalls, number_in

RECIPES = ("own", "generic")


@dataclass(frozen=True)
class Trial:
    """Rates and epochs that were tried, and the mean recall of their student on val."""

    rates: Mapping[str, float]
    epochs: int
    val_mean_recall: float

    @classmethod
    def from_json(cls, value: Plain) -> Trial:
        """The opposite of :func:`dataclasses.asdict`. Raises ArtefactError."""
        record = value if isinstance(value, Mapping) else {}
        rates = section(record, "rates")
        score = number_in(record, "val_mean_recall")
        return cls({name: number_in(rates, name) for name in rates}, entry(record, "epochs", int) or 0, score)


@dataclass(frozen=True)
class Scores:
    """Students by one recipe.

    Args:
        figures: mean and standard deviation over students, by :data:`~.measures.MEASURES`.
        recipe: as a JSON object.
        students: the recalls of each.
        trials: of the search for the recipe; None where there was none.
    """

    figures: Mapping[str, Figure]
    recipe: Record = field(default_factory=dict)
    students: tuple[Recalls, ...] = ()
    trials: tuple[Trial, ...] | None = None

    @property
    def mean_recall(self) -> Figure:
        """Mean recall."""
        return self.figures["mean_recall"]

    def to_json(self) -> dict[str, Plain]:
        """The JSON object of a recipe in a result's file."""
        plain: dict[str, Plain] = {name: figure.to_json() for name, figure in self.figures.items()}
        plain |= {"recipe": self.recipe, "students": [student.to_json() for student in self.students]}
        return plain if self.trials is None else plain | {"trials": [asdict(trial) for trial in self.trials]}

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
        return cls(
            figures,
            section(value, "recipe"),
            tuple(map(Recalls.from_json, entry(value, "students", list) or ())),
            None if trials is None else tuple(map(Trial.from_json, trials)),
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

    def scores(self) -> dict[str, Scores]:
        """The recipes that were used."""
        return {name: found for name, found in (("own", self.own), ("generic", self.generic)) if found}

    def to_json(self) -> dict[str, Plain]:
        """The JSON object of its file."""
        recipes = {name: found and found.to_json() for name, found in (("own", self.own), ("generic", self.generic))}
        plain = {option: getattr(self, option) for option in self.__dataclass_fields__}
        return {**plain, **recipes, "chance": self.chance.to_json(), "data": dict(self.data)}

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
        )


@dataclass(frozen=True)
class Validation:
    """Mean recall of a set on val, as the outer loop validates."""

    set: str
    setting: str
    val_mean_recall: float
    seconds: float
