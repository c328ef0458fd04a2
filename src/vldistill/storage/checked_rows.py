"""Rows of a memory-mapped array, checked when they are first read: opening 17 GB of images must cost nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.errors import DamagedError

DIGEST_BYTES = 8


def row_digest(row: np.ndarray) -> bytes:
    """The checksum of one contiguous row."""
    return hashlib.blake2b(row.reshape(-1).view(np.uint8).data, digest_size=DIGEST_BYTES).digest()


class CheckedRows:
    """An array (N, ...) whose rows are compared with their checksums when they are first read.

    Args:
        array: the memory map.
        digests: N checksums of 8 bytes, one after the other; None checks nothing.
        path: where the array is, for the error.
    """

    def __init__(self, array: np.memmap, digests: bytes | None, path: Path) -> None:
        self._array, self._digests, self._path = array, digests, path
        self._seen = np.full(len(array), digests is None)
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows as numpy gives them. Raises DamagedError when one differs from what was written."""
        first = index[0] if isinstance(index, tuple) else index
        self._check(np.atleast_1d(np.arange(len(self._array))[first]).ravel())
        return self._array[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.asarray(self[:], dtype=dtype)
        return whole.copy() if copy else whole

    def _check(self, rows: np.ndarray) -> None:
        digests = self._digests
        if digests is None:
            return
        for row in rows[~self._seen[rows]]:
            if row_digest(self._array[row]) != digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]:
                raise DamagedError(
                    f"{self._path} is damaged: row {row} differs from what was decoded. Delete {self._path.parent} and "
                    f"run the same command again: images are decoded again."
                )
            self._seen[row] = True
