"""An evaluation as a value, and as the JSON object of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vldistill.config.plain import Plain, Record, entry, section
from vldistill.errors import ArtefactError
from vldistill.evaluation.data_checks.check import Check
from vldistill.evaluation.data_checks.recall_ceiling import LOST
from vldistill.evaluation.measures import ACCURACIES, MEASURES, Accuracy, Figure, Recalls, number_in
from vldistill.workbench.headline import MEAN_RECALL, TOP1, val_key, val_measure

RECIPES = ("own", "generic")
LATER = ("classes", "zero_shot_classes", "ceilings", "sides")  # omitted from files where there is none
MOST_OF_TOP5 = 5  # classes of which every one is among the first five
FIXED_GRID = "generic-v1"  # chose the generic recipe of results that do not say


@dataclass(frozen=True)
class Trial:
    """Rates, epochs and the recipe that were tried, and the score of their student on val.

    Args:
        val_mean_recall: of a class set zero-shot top-1, as ``measure`` says.
        measure: see :mod:`vldistill.workbench.headline`.
    """

    rates: Mapping[str, float]
    epochs: int
    val_mean_recall: float
    recipe: Record = field(default_factory=dict)
    measure: str = MEAN_RECALL

    @classmethod
    def from_json(cls, value: Plain) -> Trial:
        """The opposite of :func:`dataclasses.asdict`. Raises ArtefactError."""
        record = value if isinstance(value, Mapping) else {}
        rates = section(record, "rates")
        measure = val_measure(record)
        score = number_in(record, val_key(measure))
        epochs = entry(record, "epochs", int) or 0
        return cls({name: number_in(rates, name) for name in rates}, epochs, score, section(record, "recipe"), measure)

    def to_json(self) -> dict[str, Plain]:
        """A JSON object; trials of the fixed grid have no recipe of their own."""
        plain = {"rates": dict(self.rates), "epochs": self.epochs, val_key(self.measure): self.val_mean_recall}
        return {**plain, "recipe": self.recipe} if self.recipe else plain


@dataclass(frozen=True)
class Tested:
    """One student on test.

    Args:
        recalls: the six recalls.
        hits: which queries it answered (:mod:`.hits`; empty in early results).
        accuracy: on a class set.
        class_hits: which images of a class set it classified (:mod:`.hits`).
        zero_shot: its accuracies on other class sources.
    """

    recalls: Recalls
    hits: str = ""
    accuracy: Accuracy | None = None
    class_hits: str = ""
    zero_shot: Mapping[str, Accuracy] = field(default_factory=dict)

    @property
    def headline(self) -> dict[str, float]:
        """The one figure to show, by its name."""
        return {MEAN_RECALL: self.recalls.mean_recall} if self.accuracy is None else {TOP1: self.accuracy.top1}

    def to_json(self) -> dict[str, Plain]:
        """A JSON object."""
        plain: dict[str, Plain] = {**self.recalls.to_json(), "hits": self.hits}
        if self.accuracy is not None:
            plain |= {"accuracy": self.accuracy.to_json(), "class_hits": self.class_hits}
        zero_shot: dict[str, Plain] = {source: found.to_json() for source, found in self.zero_shot.items()}
        return plain | ({"zero_shot": zero_shot} if zero_shot else {})

    @classmethod
    def from_json(cls, value: Plain) -> Tested:
        """The opposite of :meth:`to_json`. Raises ArtefactError where a recall is missing."""
        record = value if isinstance(value, Mapping) else {}
        accuracy = Accuracy.from_json(record["accuracy"]) if "accuracy" in record else None
        zero_shot = section(record, "zero_shot")
        return cls(
            Recalls.from_json(value),
            entry(record, "hits", str) or "",
            accuracy,
            entry(record, "class_hits", str) or "",
            {source: Accuracy.from_json(zero_shot[source]) for source in zero_shot},
        )


@dataclass(frozen=True)
class Scores:
    """Students by one recipe.

    Args:
        figures: mean and standard deviation over students, by :data:`~.measures.MEASURES`, and on a class set by
            :data:`~.measures.ACCURACIES` too.
        recipe: as a JSON object.
        students: the recalls of each.
        trials: of the search for the recipe; None where there was none.
        hits: which queries of test each student answered; empty in early results.
        chosen_by: the protocol that chose the recipe, ``generic-v1`` or ``generic-v2``; empty for a set's own recipe.
        edges: dimensions of the search in which the choice ends at an edge of what was tried.
        steps: optimiser steps of a student; None in early results.
        accuracies: of each student on a class set; empty on any other.
        class_hits: which test images of a class set each student classified.
        zero_shot: the accuracies of each student on other class sources.
    """

    figures: Mapping[str, Figure]
    recipe: Record = field(default_factory=dict)
    students: tuple[Recalls, ...] = ()
    trials: tuple[Trial, ...] | None = None
    hits: tuple[str, ...] = ()
    chosen_by: str = ""
    edges: tuple[str, ...] = ()
    steps: int | None = None
    accuracies: tuple[Accuracy, ...] = ()
    class_hits: tuple[str, ...] = ()
    zero_shot: Mapping[str, tuple[Accuracy, ...]] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """The measure of :attr:`headline`."""
        return TOP1 if TOP1 in self.figures else MEAN_RECALL

    @property
    def mean_recall(self) -> Figure:
        """Mean recall."""
        return self.figures[MEAN_RECALL]

    @property
    def headline(self) -> Figure:
        """What sets are compared by: the mean recall, on a class set the zero-shot top-1 accuracy."""
        return self.figures[self.measure]

    def of_students(self, measure: str) -> list[float]:
        """A measure of each student."""
        return [getattr(one, measure) for one in (self.accuracies if measure in ACCURACIES else self.students)]

    def to_json(self) -> dict[str, Plain]:
        """The JSON object of a recipe in a result's file."""
        plain: dict[str, Plain] = {name: figure.to_json() for name, figure in self.figures.items()}
        plain |= {"recipe": self.recipe, "students": [student.to_json() for student in self.students]}
        plain |= {"hits": list(self.hits)} if any(self.hits) else {}
        plain |= {} if self.steps is None else {"steps": self.steps}
        if self.accuracies:
            plain |= {"accuracies": [one.to_json() for one in self.accuracies], "class_hits": list(self.class_hits)}
        if self.zero_shot:
            plain["zero_shot"] = {source: _zero_shot_json(own) for source, own in self.zero_shot.items()}
        if self.trials is None:
            return plain
        trials: list[Plain] = [trial.to_json() for trial in self.trials]
        return plain | {"trials": trials, "chosen_by": self.chosen_by, "edges": list(self.edges)}

    @classmethod
    def from_json(cls, value: Plain) -> Scores | None:
        """The opposite of :meth:`to_json`; None where the recipe was not used. Raises ArtefactError."""
        if not isinstance(value, Mapping):
            return None
        figures = {name: figure for name in (*MEASURES, *ACCURACIES) if (figure := Figure.from_json(value.get(name)))}
        if not figures.keys() >= {*MEASURES}:
            raise ArtefactError(
                f"a result lacks {', '.join(sorted({*MEASURES} - {*figures}))}. Delete its file and evaluate again."
            )
        trials = entry(value, "trials", list)
        zero_shot = section(value, "zero_shot")
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
            _accuracies(value.get("accuracies")),
            tuple(map(str, entry(value, "class_hits", list) or ())),
            {source: _accuracies(section(zero_shot, source).get("students")) for source in zero_shot},
        )


def _accuracies(value: Plain) -> tuple[Accuracy, ...]:
    return tuple(map(Accuracy.from_json, value)) if isinstance(value, list) else ()


def _zero_shot_json(students: Sequence[Accuracy]) -> dict[str, Plain]:
    """The figures of students on one source, and each of them."""
    figures = {name: Figure.of([getattr(one, name) for one in students]).to_json() for name in ACCURACIES}
    return {**figures, "students": [one.to_json() for one in students]}


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
        classes: number of classes of a class set.
        zero_shot_classes: number of classes of each other source that was classified.
        ceilings: of a class set, the recalls of a perfect student: where prompts repeat, most have no meaning.
        sides: names of the two sides, where they are others than image and text.
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
    classes: int | None = None
    zero_shot_classes: Mapping[str, int] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    sides: tuple[str, ...] = ()

    @property
    def part_of_full(self) -> str:
        """That the row ``full`` is a part of the training pairs, as a sentence; empty where it is all of them."""
        whole = entry(self.details, "of_pairs", int)
        return f"full is {self.pairs:,} of {whole:,} training pairs, drawn once" if whole else ""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that mean something: of a class set accuracies, and recalls that can reach 100."""
        if self.classes is None:
            return MEASURES
        few = self.classes <= MOST_OF_TOP5
        accuracies = [name for name in ACCURACIES if not (few and name == "top5")]
        return *accuracies, *(name for name in MEASURES if self.ceilings.get(name, 0.0) > 100 - LOST)

    @property
    def chance_headline(self) -> float:
        """What a random student reaches of :attr:`Scores.headline`, in percent."""
        return self.chance.mean_recall if self.classes is None else 100 / self.classes

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
        plain = {name: value for name, value in plain.items() if value or name not in LATER}
        checks: list[Plain] = [check.to_json() for check in self.checks]
        plain |= {"sides": list(self.sides)} if self.sides else {}
        return {**plain, **recipes, "chance": self.chance.to_json(), "data": dict(self.data), "checks": checks}

    @classmethod
    def from_json(cls, value: Plain) -> Evaluation:
        """The opposite of :meth:`to_json`; files of early versions lack some keys.

        Raises:
            ArtefactError: no number of pairs, or a recall that is missing.
        """
        record = value if isinstance(value, Mapping) else {}
        texts = {name: entry(record, name, str) for name in ("set", "kind", "setting", "protocol")}
        data, counts, ceilings = (section(record, name) for name in ("data", "zero_shot_classes", "ceilings"))
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
            classes=entry(record, "classes", int),
            zero_shot_classes={name: int(number_in(counts, name)) for name in counts},
            ceilings={name: number_in(ceilings, name) for name in ceilings},
            sides=tuple(map(str, entry(record, "sides", list) or ())),
            checks=tuple(map(Check.from_json, entry(record, "checks", list) or ())),
        )


@dataclass(frozen=True)
class Validation:
    """The score of a set on val, as the outer loop validates: mean recall, of a class set zero-shot top-1."""

    set: str
    setting: str
    score: float
    seconds: float
    measure: str = MEAN_RECALL

    def to_json(self) -> dict[str, Plain]:
        """The JSON object of its file."""
        named = {"set": self.set, "setting": self.setting, val_key(self.measure): self.score}
        return {**named, "seconds": self.seconds}
