"""One pass over vectors: which rows are broken, how long they are, and a hash of all."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vldistill.data.vectors import AT_ONCE
from vldistill.storage.arrays import let_go

UNIT = 0.01  # how far from 1 the length of a normalised vector may be; float16 rounds to 0.0005
MOST = 0.5  # of the rows of a side that have length 1: the others then should have it too
REMEMBERED = 4096  # arrays
NOT_FINITE, ZERO, NOT_UNIT = "NaN or infinite", "zeros", "of a length other than 1"


@dataclass(frozen=True, eq=False)
class Scan:
    """What one array holds.

    Attributes:
        lengths: (R,) float32, of the vectors; NaN for those with numbers that are not finite.
        digest: a hash of shape, numbers and format.
    """

    lengths: np.ndarray
    digest: str


_KNOWN: OrderedDict[tuple[object, ...], Scan] = OrderedDict()  # of mapped files, while they stay the same


def scan(array: np.ndarray) -> Scan:
    """:func:`scanned`; what a file held is remembered as long as the file has its size and its time."""
    path = getattr(array, "filename", None)
    if path is None:
        return scanned(array)
    state = Path(path).stat()
    key = (str(path), state.st_size, state.st_mtime_ns, getattr(array, "offset", 0), array.shape, array.dtype.str)
    if key not in _KNOWN:
        _KNOWN[key] = scanned(array)
        if len(_KNOWN) > REMEMBERED:
            _KNOWN.popitem(last=False)
    return _KNOWN[key]


def scanned(array: np.ndarray) -> Scan:
    """Read an array (R, D) once, a few thousand rows at a time."""
    lengths = np.empty(len(array), np.float32)
    state = hashlib.blake2b(f"{array.shape}{array.dtype.str}".encode(), digest_size=8)
    for start in range(0, len(array), AT_ONCE):
        rows = np.ascontiguousarray(array[start : start + AT_ONCE])
        state.update(rows.data)
        with np.errstate(over="ignore", invalid="ignore"):
            values = rows.astype(np.float32)
            lengths[start : start + len(rows)] = np.sqrt(np.einsum("ij,ij->i", values, values))
    let_go(array)
    lengths[~np.isfinite(lengths)] = np.nan
    return Scan(lengths, state.hexdigest())


def is_unit(lengths: np.ndarray) -> bool:
    """Whether most vectors that can be used have length 1."""
    usable = lengths[lengths > 0]
    return len(usable) > 0 and float(np.mean(np.abs(usable - 1) < UNIT)) > MOST


def troubles(lengths: np.ndarray, unit: bool) -> dict[str, np.ndarray]:
    """Reason -> (R,) which rows cannot be used for it."""
    broken, zero = np.isnan(lengths), lengths == 0
    odd = unit & ~broken & ~zero & (np.abs(lengths - 1) >= UNIT)
    return {NOT_FINITE: broken, ZERO: zero, NOT_UNIT: odd}
