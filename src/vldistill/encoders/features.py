"""Features of frozen towers on disk: every real image and caption passes its tower once, ever.

A table is a folder of shards, each written atomically, so an interrupted encoding goes on where it stopped.
The folder's name is a hash of the data, the tower with its weights, the view and the number format: a changed
key never meets old features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vldistill.data.cache import DecodedImages
from vldistill.data.pairs import Pairs
from vldistill.data.transforms import augment, to_float
from vldistill.encoders.text_towers import TextTower
from vldistill.encoders.towers import ImageTower
from vldistill.errors import DataError
from vldistill.files import atomic, digest, human_bytes, require_space
from vldistill.log import Reporter
from vldistill.randomness import seed_of

SHARD_ROWS = 16_384


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
        return torch.from_numpy(out)


@dataclass(frozen=True)
class Standardisation:
    """Per-dimension mean and scale of training features: knowledge about the real data, kept with the tower.

    Args:
        mean: (D,) float32.
        scale: (D,) float32, the standard deviation, floored so that dead dimensions stay quiet.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised ``features`` (B, D)."""
        return (features - self.mean.to(features)) / self.scale.to(features)

    def apply_(self, features: torch.Tensor) -> torch.Tensor:
        """The same in place, for tables that are large beside the memory."""
        return features.sub_(self.mean.to(features)).div_(self.scale.to(features))

    @staticmethod
    def fit(table: FeatureTable) -> Standardisation:
        """Fit on every row of ``table``, shard by shard, in float64."""
        total = np.zeros(table.width)
        squares = np.zeros(table.width)
        for shard in table.shards:
            for start in range(0, len(shard), 4096):
                rows = np.asarray(shard[start : start + 4096], np.float64)
                total += rows.sum(0)
                squares += (rows**2).sum(0)
        mean = total / len(table)
        std = np.sqrt(np.maximum(squares / len(table) - mean**2, 0))
        floor = max(1e-2 * float(std.mean()), 1e-6)
        return Standardisation(
            torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(np.maximum(std, floor).astype(np.float32))
        )


def encode_images(
    tower: ImageTower,
    images: DecodedImages,
    folder: Path,
    reporter: Reporter,
    *,
    device: torch.device,
    view: int = 0,
    dtype: str = "float32",
    batch: int = 64,
) -> FeatureTable:
    """Features of every image (N, width), from disk or computed and kept there.

    Args:
        view: 0 is the plain image; every other number is one augmented view, drawn from that number.
        dtype: ``float32`` or ``float16`` on disk.
        batch: images per pass; augmented views depend on it.
    """
    key = digest("images", images.pairs.fingerprint, tower.fingerprint(), view, batch if view else 0, dtype)

    @torch.no_grad()
    def encode(start: int, stop: int, advance: Callable[[int], None]) -> np.ndarray:
        parts = []
        for first in range(start, stop, batch):
            pixels = torch.from_numpy(np.array(images.array[first : min(first + batch, stop)]))
            if view:
                pixels = augment(pixels, seed_of("view", view, first))
            inputs = to_float(pixels.to(device), tower.mean, tower.std)
            parts.append(tower(inputs.to(memory_format=torch.channels_last)).float().cpu().numpy())
            advance(len(pixels))
        return np.concatenate(parts)

    what = f"{images.pairs.split} images through {tower.name}" + (f", view {view}" if view else "")
    return _table(folder / f"features-{key}", len(images.array), tower.width, dtype, what, encode, reporter)


def encode_texts(
    tower: TextTower, pairs: Pairs, folder: Path, reporter: Reporter, *, dtype: str = "float32"
) -> FeatureTable:
    """Sentence vectors of every caption (M, width), from disk or computed and kept there."""
    key = digest("texts", pairs.fingerprint, tower.fingerprint(), dtype)

    def encode(start: int, stop: int, advance: Callable[[int], None]) -> np.ndarray:
        return tower.encode(pairs.captions[start:stop], advance).numpy()

    what = f"{pairs.split} captions through {Path(tower.name).name}"
    return _table(folder / f"features-{key}", len(pairs.captions), tower.width, dtype, what, encode, reporter)


def _table(
    folder: Path,
    count: int,
    width: int,
    dtype: str,
    what: str,
    encode: Callable[[int, int, Callable[[int], None]], np.ndarray],
    reporter: Reporter,
) -> FeatureTable:
    spans = [(start, min(start + SHARD_ROWS, count)) for start in range(0, count, SHARD_ROWS)]
    paths = [folder / f"shard-{index:05d}.npy" for index in range(len(spans))]
    shards = [_open_shard(path, (stop - start, width), dtype) for path, (start, stop) in zip(paths, spans)]
    missing = [index for index, shard in enumerate(shards) if shard is None]
    if missing:
        rows = sum(spans[index][1] - spans[index][0] for index in missing)
        needed = rows * width * np.dtype(dtype).itemsize
        reporter.info(f"{what}: {rows:,} rows of {width}, {human_bytes(needed)} in {folder}")
        require_space(folder, needed, what)
        with reporter.progress(what, count, count - rows) as progress:
            for index in missing:
                _write_shard(paths[index], encode(*spans[index], progress.advance), dtype, what)
                shards[index] = np.load(paths[index], mmap_mode="r")
    return FeatureTable([shard for shard in shards if shard is not None])


def _write_shard(path: Path, rows: np.ndarray, dtype: str, what: str) -> None:
    with np.errstate(over="ignore"):  # becomes infinity, which is refused below
        stored = rows.astype(dtype)
    if not np.isfinite(stored).all():
        raise DataError(
            f"{what}: the tower gave features that are not finite{' in ' + dtype if dtype != 'float32' else ''}. "
            f"Check its weights and normalisation{'' if dtype == 'float32' else ', or store float32'}."
        )
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, stored)


def _open_shard(path: Path, shape: tuple[int, int], dtype: str) -> np.ndarray | None:
    """A finished shard, memory-mapped; None when it is missing or damaged and has to be made."""
    try:
        shard = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return None
    whole = isinstance(shard, np.memmap) and shard.offset + shard.nbytes == path.stat().st_size
    return shard if whole and shard.shape == shape and shard.dtype == np.dtype(dtype) else None
