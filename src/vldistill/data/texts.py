"""Millions of texts in two buffers: as Python objects the names and captions of ten million pairs would take 3 GB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Texts(Sequence[str]):
    """Texts by number, made from their bytes when they are read.

    Args:
        raw: the UTF-8 bytes of all texts, one after the other.
        ends: int64 (R,), where each of them ends.
        rows: int64 (N,), those of the R that are meant, in order; None means all.
        distinct: whether no two of them are equal.
    """

    def __init__(self, raw: bytes, ends: np.ndarray, rows: np.ndarray | None = None, *, distinct: bool = False) -> None:
        self.raw, self.ends, self.distinct = raw, ends, distinct
        self.rows = np.arange(len(ends)) if rows is None else rows

    @classmethod
    def of(cls, texts: Iterable[str], *, distinct: bool = False) -> Texts:
        """``texts`` as one object."""
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        return cls(b"".join(parts), np.cumsum(lengths), distinct=distinct)

    @classmethod
    def joined(cls, parts: Sequence[Texts], *, distinct: bool = False) -> Texts:
        """The texts of several objects, each with all that it holds, one after the other."""
        starts = np.cumsum([0, *(len(part.raw) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts)]
        return cls(
            b"".join(part.raw for part in parts), np.concatenate([np.zeros(0, np.int64), *ends]), distinct=distinct
        )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """One text, or a list of some."""
        if isinstance(index, slice):
            return [self._text(row) for row in self.rows[index].tolist()]
        return self._text(int(self.rows[index]))

    def _text(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return self.raw[start : int(self.ends[row])].decode("utf-8", "surrogatepass")

    def chosen(self, rows: np.ndarray) -> Texts:
        """Some of them, in another order; ``distinct`` where the numbers are."""
        return Texts(self.raw, self.ends, self.rows[rows], distinct=self.distinct)
