"""The note of an expert: what it was trained on and how, as its file records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from vldistill.config.plain import Plain, Record, expect, items, number

T = TypeVar("T")
IDENTITY = (
    "views", "noise", "index", "setting", "encoder", "data", "recipe", "augment", "steps_per_epoch", "seed", "dtype",
    "snapshots",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExpertNote:
    """What an expert is. Fields at their default are left out of the file.

    Args:
        views: number of encoded views of each image that it was trained on; 0 for the plain images alone.
        noise: standard deviation of the noise on its inputs.
        index: its number in the run.
        setting: what was trained.
        encoder: fingerprint of the towers and the setting.
        data: fingerprint of the training pairs.
        imported_from: names of the imported files by side.
        recipe: of the training.
        augment: whether the images were augmented.
        steps_per_epoch: limit of the steps of an epoch; 0 is none.
        seed: of the training.
        dtype: of the snapshots in the file.
        snapshots: their epochs.
        losses: mean loss of each epoch; None before the training.
        version: of vldistill.
        torch: version of torch.
        precision: of the passes of the training.
        augment_on: where the images were augmented.
        processes: number of processes that shared the training.
    """

    views: int = 0
    noise: float = 0.0
    index: int
    setting: str
    encoder: str
    data: str
    imported_from: Mapping[str, str] | None = None
    recipe: Record | None = None
    augment: bool | None = None
    steps_per_epoch: int | None = None
    seed: int | None = None
    dtype: str
    snapshots: tuple[int, ...]
    losses: tuple[float, ...] | None = None
    version: str = ""
    torch: str = ""
    precision: str = "float32"
    augment_on: str = "cpu"
    processes: int = 1

    def to_record(self) -> dict[str, Plain]:
        """The fields of the file, as plain values for JSON."""
        values: dict[str, Plain] = {field.name: getattr(self, field.name) for field in fields(self)}
        record: dict[str, Plain] = {
            field.name: list(value) if isinstance(value := values[field.name], tuple) else value
            for field in fields(self)
            if values[field.name] != field.default
        }
        if self.imported_from is not None:  # in the order that imported files have always had
            record |= {name: record.pop(name) for name in ("dtype", "version")}
        return record

    def identity(self) -> dict[str, Plain]:
        """The fields that decide what is trained, without results and without how they were computed."""
        return {name: value for name, value in self.to_record().items() if name in IDENTITY}

    @staticmethod
    def from_record(record: Record) -> ExpertNote:
        """The inverse of :meth:`to_record`. Raises KeyError or TypeError."""
        losses = record.get("losses")
        return ExpertNote(
            views=expect(record.get("views", 0), int),
            noise=number(record.get("noise", 0.0)),
            index=expect(record["index"], int),
            setting=expect(record["setting"], str),
            encoder=expect(record["encoder"], str),
            data=expect(record["data"], str),
            imported_from=_optional(record, "imported_from", dict),
            recipe=_optional(record, "recipe", dict),
            augment=_optional(record, "augment", bool),
            steps_per_epoch=_optional(record, "steps_per_epoch", int),
            seed=_optional(record, "seed", int),
            dtype=expect(record["dtype"], str),
            snapshots=tuple(expect(epoch, int) for epoch in items(record["snapshots"])),
            losses=None if losses is None else tuple(map(number, items(losses))),
            version=expect(record.get("version", ""), str),
            torch=expect(record.get("torch", ""), str),
            precision=expect(record.get("precision", "float32"), str),
            augment_on=expect(record.get("augment_on", "cpu"), str),
            processes=expect(record.get("processes", 1), int),
        )


def _optional(record: Record, name: str, kind: type[T]) -> T | None:
    return expect(record[name], kind) if name in record else None
