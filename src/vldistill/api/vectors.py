"""Vectors as people have them: arrays, tensors, lists and .npy files, made ready for a student of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vldistill.data.embedded.arrays import open_npy
from vldistill.errors import DataError

Vectors = np.ndarray | torch.Tensor | Sequence[Sequence[float]] | Sequence[float] | str | Path
"""An array or tensor (N, D), or (D,) of one, a list, or the path of a .npy file."""


def as_vectors(given: object, width: int, what: str, tower: str) -> tuple[np.ndarray, bool]:
    """Vectors (N, width), and whether it was one alone, (width,). Raises DataError that says what was expected.

    Args:
        given: an array, tensor, list, or the path of a .npy file.
        width: of the tower's vectors.
        what: they are, for messages.
        tower: that made them.
    """
    expected = f"expected vectors of {tower}: an array ({width},) or (N, {width}), a tensor, a list, or a .npy file"
    if isinstance(given, str | Path) and str(given).lower().endswith(".npy"):
        found: np.ndarray = open_npy(Path(given).expanduser())
    elif isinstance(given, torch.Tensor):
        found = given.detach().cpu().float().numpy()
    else:
        try:
            found = np.asarray(given)
        except ValueError:  # rows of several lengths
            raise DataError(f"{what} have rows of several lengths; {expected}.") from None
    if found.dtype.kind not in "fiu":
        raise DataError(f"{what} are {type(given).__name__} of {found.dtype}; {expected}.")
    if found.ndim not in (1, 2) or found.shape[-1] != width or 0 in found.shape:
        raise DataError(f"{what} have the shape {found.shape}; {expected}.")
    alone, rows = found.ndim == 1, np.atleast_2d(found)
    return rows, alone


def checked(rows: np.ndarray, first: int, what: str) -> torch.Tensor:
    """Rows as float32. Raises DataError for one that is not finite, counted from ``first``."""
    values = torch.from_numpy(rows.astype(np.float32))
    broken = (~values.isfinite().all(1)).nonzero()[:, 0]
    if len(broken):
        raise DataError(f"{what}: row {first + int(broken[0])} is not finite; expected numbers. Leave it out.")
    return values
