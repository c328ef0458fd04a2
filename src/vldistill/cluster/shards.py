"""``--shard I/N``: the part of a stage that one of N independent jobs does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from vldistill.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of several jobs.

    Args:
        number: of this job, from 1.
        count: number of jobs.
    """

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Shard:
        """The shard of a text such as ``2/8``. Raises ConfigError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = Shard(int(match[1]), int(match[2])) if match else Shard(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise ConfigError(
                f"--shard is {text!r}; expected I/N with I from 1 to N, e.g. 2/8 for the second of eight jobs."
            )
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, index: int) -> bool:
        """Whether item ``index`` (from 0) belongs to this job."""
        return index % self.count == self.number - 1

    def of(self, items: Sequence[T]) -> list[T]:
        """The items of this job."""
        return [item for index, item in enumerate(items) if self.has(index)]


WHOLE = Shard(1, 1)
