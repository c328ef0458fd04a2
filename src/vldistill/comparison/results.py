"""What the cells of a comparison found, as values and as the JSON objects of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vldistill.config.plain import Plain, Record, entry, section
from vldistill.evaluation.results import Evaluation
from vldistill.workbench.headline import MEAN_RECALL, val_key, val_score


@dataclass(frozen=True)
class Making:
    """The distillation of a set.

    Args:
        set: its folder.
        seconds: that it took.
        peak_memory_bytes: of the process; None where it was killed before it logged its memory.
        selection: how the kept iteration was chosen.
    """

    set: str
    seconds: float | None
    peak_memory_bytes: int | None
    selection: Record

    @classmethod
    def from_json(cls, record: Record) -> Making:
        """The opposite of :func:`dataclasses.asdict`."""
        memory = entry(record, "peak_memory_bytes", int)
        selection = section(record, "selection")
        return cls(entry(record, "set", str) or "", entry(record, "seconds", int, float), memory, selection)


@dataclass(frozen=True)
class Trial:
    """One of the options that a cell tries: its set and its score on val, or why it failed."""

    options: Record
    val_mean_recall: float | None = None
    making: Making | None = None
    error: str = ""
    measure: str = MEAN_RECALL

    def to_json(self) -> dict[str, Plain]:
        """The JSON object in the cell's file."""
        plain: dict[str, Plain] = {"options": self.options, val_key(self.measure): self.val_mean_recall}
        plain.update(asdict(self.making) if self.making else {"error": self.error})
        return plain


@dataclass(frozen=True)
class Answer:
    """What a cell found.

    Args:
        evaluation: of its set or target.
        making: of its set; None for a target.
        trials: all of them, where the cell tries several options.
        chosen: the options of the best trial.
    """

    evaluation: Evaluation
    making: Making | None = None
    trials: tuple[Trial, ...] = ()
    chosen: Record | None = None

    def to_json(self) -> dict[str, Plain]:
        """The part of the cell's JSON object that answers it."""
        plain: dict[str, Plain] = {"evaluation": self.evaluation.to_json(), "protocol": self.evaluation.protocol}
        if self.making is not None:
            plain |= {"making": asdict(self.making), "trials": [trial.to_json() for trial in self.trials]}
        return plain if self.chosen is None else {**plain, "chosen": self.chosen}


@dataclass(frozen=True)
class CellResult:
    """A finished cell: its description, its :class:`Answer` with the number of trials, and its whole JSON object."""

    row: str
    kind: str
    name: str
    setting: str
    towers: str
    data: str
    protocol: str
    seed: int
    evaluation_options: Record
    evaluation: Evaluation
    making: Making | None
    trials: int
    chosen: Record | None
    record: Record

    @property
    def val_looks(self) -> int:
        """How many times val was scored to choose options and iterations."""
        trials = [trial for trial in entry(self.record, "trials", list) or () if isinstance(trial, Mapping)]
        looks = [_looks(section(trial, "selection")) for trial in trials]
        looks += [1 for trial in trials if val_score(trial) is not None]
        if self.making and self.making.set not in {trial.get("set") for trial in trials}:
            looks.append(_looks(self.making.selection))
        return sum(looks)

    @classmethod
    def from_json(cls, record: Record) -> CellResult:
        """A cell's file. Raises ArtefactError where its evaluation lacks figures."""
        texts = {
            name: entry(record, name, str) for name in ("row", "kind", "name", "setting", "towers", "data", "protocol")
        }
        making = entry(record, "making", Mapping)
        return cls(
            **{name: text or "" for name, text in texts.items()},
            seed=entry(record, "seed", int) or 0,
            evaluation_options=section(record, "judging"),
            evaluation=Evaluation.from_json(record.get("evaluation")),
            making=Making.from_json(making) if making is not None else None,
            trials=len(entry(record, "trials", list) or ()),
            chosen=entry(record, "chosen", Mapping),
            record=record,
        )


def _looks(selection: Record) -> int:
    return entry(selection, "looks", int) or 0
