"""Features of frozen towers, cached on disk: every real image and caption is encoded once.

A table is a folder of shards, each written atomically with a checksum: an interrupted encoding resumes, and a damaged
shard is recomputed. The folder's name is a hash of the data, the tower with its weights, the view and the dtype, so
that old features are never used for a changed configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vldistill.data.cache import DecodedImages
from vldistill.data.pairs import Pairs
from vldistill.data.transforms import augment, to_float
from vldistill.encoders.tower import ImageTower, TextTower
from vldistill.errors import DamagedError, DataError
from vldistill.runtime.devices import moved
from vldistill.runtime.log import Reporter
from vldistill.runtime.micro_batches import in_parts
from vldistill.runtime.randomness import seed_of
from vldistill.runtime.shapes import rows_that_fit
from vldistill.storage.arrays import let_go, open_array, write_array
from vldistill.storage.files import digest, human_bytes, require_space

PASS_SHARE = 0.5  # of what ``runtime.max_memory`` has left: for a pass of a frozen tower
SHARD_ROWS = 16_384
FIT_ROWS = 4096  # rows taken into float64 at a time


class FeatureTable:
    """Rows of features, memory-mapped.

    Args:
        shards: arrays (rows, D); all but the last have the same number of rows.
    """

    def __init__(self, shards: list[np.ndarray]) -> None:
        self.shards = shards
        self.width = int(shards[0].shape[1])
        self.count = sum(len(shard) for shard in shards)
        self._rows = len(shards[0])

    def __len__(self) -> int:
        return self.count

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Rows ``index`` (B,) int64 as float32 (B, D)."""
        wanted = index.cpu().numpy()
        if len(self.shards) == 1:
            return torch.from_numpy(self.shards[0][wanted].astype(np.float32))
        out = np.empty((len(wanted), self.width), np.float32)
        shard_of = wanted // self._rows
        for shard in np.unique(shard_of):
            here = shard_of == shard
            out[here] = self.shards[shard][wanted[here] - shard * self._rows]
        return torch.from_numpy(out)

    def all(self) -> torch.Tensor:
        """Every row as one float32 tensor (N, D) in memory."""
        out = np.empty((self.count, self.width), np.float32)
        for number, shard in enumerate(self.shards):
            out[number * self._rows : number * self._rows + len(shard)] = shard
            let_go(shard)
        return torch.from_numpy(out)

    def chunks(self, size: int = FIT_ROWS) -> Iterator[np.ndarray]:
        """All rows in order, at most ``size`` at a time; what was read through is not kept in memory."""
        for shard in self.shards:
            for start in range(0, len(shard), size):
                yield shard[start : start + size]
            let_go(shard)


@dataclass(frozen=True)
class Standardisation:
    """Per-dimension mean and scale of the training features.

    Args:
        mean: (D,) float32.
        scale: (D,) float32, the standard deviation, with a lower bound so that constant dimensions are not amplified.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised ``features`` (B, D)."""
        mean, scale = self._beside(features)
        return (features - mean) / scale

    def apply_(self, features: torch.Tensor) -> torch.Tensor:
        """The same in place, for tables too large to copy."""
        mean, scale = self._beside(features)
        return features.sub_(mean).div_(scale)

    def _beside(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and scale in the number format and on the device of ``features``."""
        mean, scale = (moved(part.to(features.dtype), features.device) for part in (self.mean, self.scale))
        return mean, scale

    @staticmethod
    def fit(table: FeatureTable) -> Standardisation:
        """Fit on every row of ``table``, shard by shard, in float64."""
        total, squares = np.zeros(table.width), np.zeros(table.width)
        for part in table.chunks():
            rows = np.asarray(part, np.float64)
            total += rows.sum(0)
            squares += (rows**2).sum(0)
        mean = total / len(table)
        std = np.sqrt(np.maximum(squares / len(table) - mean**2, 0))
        scale = np.maximum(std, max(1e-2 * float(std.mean()), 1e-6))
        return Standardisation(*(torch.from_numpy(values.astype(np.float32)) for values in (mean, scale)))


@dataclass(frozen=True)
class Encoding:
    """A feature table that is on disk or still to be computed, shard by shard.

    Args:
        folder: of its shards.
        count: number of rows.
        width: number of columns.
        dtype: ``float32`` or ``float16`` on disk.
        what: its name in messages.
        encode: computes rows start to stop; called with (start, stop, advance).
    """

    folder: Path
    count: int
    width: int
    dtype: str
    what: str
    encode: Callable[[int, int, Callable[[int], None]], np.ndarray]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(start, stop) of the rows of every shard."""
        return [(start, min(start + SHARD_ROWS, self.count)) for start in range(0, self.count, SHARD_ROWS)]

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.npy"

    def _open(self, shard: int, reporter: Reporter) -> np.ndarray | None:
        """A finished shard, memory-mapped; None if it is missing or damaged."""
        path, (start, stop) = self._path(shard), self.spans[shard]
        if not path.exists():
            return None
        try:
            found = open_array(path, self.what)
        except DamagedError as error:
            reporter.warn(f"{error} It is recomputed now.")
            return None
        return found if found.shape == (stop - start, self.width) and found.dtype == self.dtype else None

    def _write(self, shard: int, rows: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # overflow becomes infinity, which is refused below
            stored = rows.astype(self.dtype)
        if not np.isfinite(stored).all():
            kind, remedy = ("", "") if self.dtype == "float32" else (f" in {self.dtype}", ", or store float32")
            raise DataError(
                f"{self.what}: the tower returned features that are not finite{kind}. "
                f"Check its weights and normalisation{remedy}."
            )
        write_array(self._path(shard), stored)

    def missing(self, reporter: Reporter) -> list[int]:
        """Shards still to compute; damaged ones are reported."""
        return [shard for shard in range(len(self.spans)) if self._open(shard, reporter) is None]

    def make(self, shards: Sequence[int], reporter: Reporter) -> None:
        """Encode ``shards`` and write them, each atomically."""
        if not shards:
            return
        count = sum(stop - start for start, stop in (self.spans[shard] for shard in shards))
        needed = count * self.width * np.dtype(self.dtype).itemsize
        reporter.info(f"{self.what}: {count:,} rows of {self.width}, {human_bytes(needed)} in {self.folder}")
        require_space(self.folder, needed, self.what)
        with reporter.progress(self.what, self.count, self.count - count) as progress:
            for shard in shards:
                self._write(shard, self.encode(*self.spans[shard], progress.advance))

    def table(self, reporter: Reporter) -> FeatureTable:
        """The whole table; missing shards are computed."""
        shards = [self._open(shard, reporter) for shard in range(len(self.spans))]
        missing = [shard for shard, found in enumerate(shards) if found is None]
        self.make(missing, reporter)
        for shard in missing:
            shards[shard] = open_array(self._path(shard), self.what)
        return FeatureTable([shard for shard in shards if shard is not None])


def image_encoding(
    tower: ImageTower,
    images: DecodedImages,
    folder: Path,
    *,
    device: torch.device,
    view: int = 0,
    dtype: str = "float32",
    batch: int = 64,
    compiled: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Encoding:
    """Features of every image (N, width).

    Args:
        view: 0 is the plain image; other numbers are augmented views, with the number as their seed.
        dtype: ``float32`` or ``float16`` on disk.
        batch: images per forward pass; augmented views depend on it.
        compiled: what images pass in place of the tower: the same but for rounding.
    """
    key = digest("images", images.pairs.fingerprint, tower.fingerprint(), view, batch if view else 0, dtype)

    @torch.no_grad()
    def encode(start: int, stop: int, advance: Callable[[int], None]) -> np.ndarray:
        parts = []
        for first in range(start, stop, batch):
            pixels = torch.from_numpy(np.array(images.array[first : min(first + batch, stop)]))
            if view:
                pixels = augment(pixels, seed_of("view", view, first))
            inputs = to_float(moved(pixels, device), tower.mean, tower.std)
            size = rows_that_fit(tower, inputs, PASS_SHARE, back=False)
            inputs = inputs.to(memory_format=torch.channels_last)
            parts.append(in_parts(compiled or tower, inputs, size).float().cpu().numpy())
            advance(len(pixels))
        return np.concatenate(parts)

    what = f"{images.pairs.split} images through {tower.name}" + (f", view {view}" if view else "")
    return Encoding(folder / f"features-{key}", len(images.array), tower.width, dtype, what, encode)


def text_encoding(tower: TextTower, pairs: Pairs, folder: Path, *, dtype: str = "float32") -> Encoding:
    """Sentence vectors of every caption (M, width)."""
    key = digest("texts", pairs.fingerprint, tower.fingerprint(), dtype)

    def encode(start: int, stop: int, advance: Callable[[int], None]) -> np.ndarray:
        captions = pairs.captions[start:stop]
        if pairs.classes is None:
            return tower.encode(captions, advance).numpy()
        rows = {text: row for row, text in enumerate(dict.fromkeys(captions))}  # prompts repeat for every image
        vectors = tower.encode(list(rows)).numpy()
        advance(len(captions))
        return vectors[[rows[text] for text in captions]]

    what = f"{pairs.split} captions through {Path(tower.name).name}"
    return Encoding(folder / f"features-{key}", len(pairs.captions), tower.width, dtype, what, encode)
