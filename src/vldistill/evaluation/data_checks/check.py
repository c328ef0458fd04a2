"""The outcome of one check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vldistill.config.plain import Plain, entry


@dataclass(frozen=True)
class Check:
    """What one check found.

    Args:
        name: of the check.
        score: a number, its unit in the summary.
        flag: whether results have to be read with this in mind.
        summary: one or two sentences.
        examples: of what was found.
    """

    name: str
    score: float
    flag: bool
    summary: str
    examples: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Plain]:
        """A JSON object."""
        return {**asdict(self), "examples": list(self.examples)}

    @classmethod
    def from_json(cls, value: Plain) -> Check:
        """The opposite of :meth:`to_json`."""
        record = value if isinstance(value, Mapping) else {}
        examples = tuple(map(str, entry(record, "examples", list) or ()))
        name, summary = (entry(record, part, str) or "" for part in ("name", "summary"))
        return cls(name, entry(record, "score", int, float) or 0.0, bool(record.get("flag")), summary, examples)
