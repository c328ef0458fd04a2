"""Features of unit length for selectors: in memory, or of tables that are too large for it made as they are read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vldistill.encoders.features import FeatureTable, Standardisation

AT_ONCE = 4096


def unit_rows(table: FeatureTable, standardise: Standardisation) -> torch.Tensor:
    """Every row standardised and of length 1, in float16."""
    out = torch.empty(len(table), table.width, dtype=torch.float16)
    for rows in torch.arange(len(table)).split(AT_ONCE):
        out[rows] = _made(table, standardise, rows)
    return out


def _made(table: FeatureTable, standardise: Standardisation, rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(standardise(table.rows(rows)), dim=1).half()


class UnitRows:
    """The same rows as a tensor's, each made when it is read.

    Args:
        table: (N, D) features.
        standardise: their mean and scale.
    """

    dtype = torch.float16

    def __init__(self, table: FeatureTable, standardise: Standardisation) -> None:
        self._table, self._standardise = table, standardise
        self.shape = torch.Size((len(table), table.width))

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Rows (B, D)."""
        rows = torch.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        return _made(self._table, self._standardise, rows)

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All rows in order, ``size`` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))
