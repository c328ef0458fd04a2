"""Vectors of one side of pairs, which stay in the files they came in.

Shapes: R rows in all files, N rows that are meant, D their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from vldistill.storage.arrays import let_go
from vldistill.storage.files import digest

AT_ONCE = 8192  # rows turned into float32 at a time


@dataclass(frozen=True, eq=False)
class Shard:
    """A mapped array of vectors.

    Attributes:
        array: (R, D) float16, float32 or float64.
        name: of its file, and of the array in it, for messages.
        digest: a hash of its content.
    """

    array: np.ndarray
    name: str
    digest: str = ""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Rows of shards.

    Attributes:
        shards: all of one width.
        chosen: int64 (N,), the rows that are meant, counted through all shards.
        tower: what made them, by name.
        unit: whether they have length 1.
    """

    shards: Sequence[Shard]
    chosen: np.ndarray
    tower: str
    unit: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def width(self) -> int:
        """D."""
        return int(self.shards[0].array.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are meant, as they are stored."""
        return len(self) * self.width * self.shards[0].array.itemsize

    @cached_property
    def starts(self) -> np.ndarray:
        """(S + 1,), where every shard begins."""
        return np.cumsum([0, *(len(shard.array) for shard in self.shards)])

    @property
    def tower_fingerprint(self) -> str:
        """A hash of what is known of the tower: its name, its width and whether its vectors have length 1."""
        return digest("precomputed", self.tower, self.width, self.unit)

    @property
    def fingerprint(self) -> str:
        """A hash of the content of all shards and of the rows that are meant."""
        return digest([shard.digest for shard in self.shards], self.chosen.astype("<i8").tobytes())

    def place(self, row: int) -> str:
        """``row 7 of img_emb_0.npy``, of one row of all shards."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"row {row - int(self.starts[shard]):,} of {self.shards[shard].name}"

    def select(self, index: np.ndarray) -> Vectors:
        """Some of the rows, in another order."""
        return replace(self, chosen=self.chosen[index])

    def read(self, index: np.ndarray) -> np.ndarray:
        """Rows ``index`` (B,) of those that are meant, (B, D) float32."""
        wanted = self.chosen[index]
        out = np.empty((len(wanted), self.width), np.float32)
        shard_of = np.searchsorted(self.starts, wanted, side="right") - 1
        for shard in np.unique(shard_of).tolist():
            here = shard_of == shard
            out[here] = self.shards[shard].array[wanted[here] - self.starts[shard]]
        return out

    def chunks(self, size: int = AT_ONCE) -> Iterator[np.ndarray]:
        """All rows that are meant in order, ``size`` at a time; what was read through is not kept in memory."""
        for start in range(0, len(self), size):
            yield self.read(np.arange(start, min(start + size, len(self))))
        self.let_go()

    def let_go(self) -> None:
        """Give back the memory of pages that were read."""
        for shard in self.shards:
            let_go(shard.array)


@dataclass(frozen=True, eq=False)
class PairVectors:
    """The vectors of pairs.

    Attributes:
        image: of the N images, or whatever stands on that side.
        text: of the M captions.
    """

    image: Vectors
    text: Vectors

    def select(self, images: np.ndarray, captions: np.ndarray) -> PairVectors:
        """Those of some images and of some captions."""
        return PairVectors(self.image.select(images), self.text.select(captions))

    @property
    def fingerprint(self) -> str:
        """A hash of all of them."""
        return digest(self.image.fingerprint, self.text.fingerprint)
