"""What filters and detectors of duplicates read of a workbench's pairs; costly values are made at first use.

Shapes: N images, M captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from vldistill.config import SelectConfig
from vldistill.data.pairs import ImageStore, Pairs
from vldistill.data.sketches import BATCH, Sketches, sketch
from vldistill.errors import ConfigError, DataError
from vldistill.selection.columns import SideTable
from vldistill.selection.features import PairFeatures
from vldistill.selection.warmup import open_rows, warm_up
from vldistill.workbench.bench import Workbench

T = TypeVar("T")

READ_AT_ONCE = 4096  # files whose heads or hashes are in flight
THREADS = 8


class Material:
    """The pairs of one split of a workbench, and what is measured of them.

    Args:
        bench: towers, features and pictures.
        options: of the warm-up.
        split: whose pairs.
    """

    def __init__(self, bench: Workbench, options: SelectConfig, split: str = "train") -> None:
        self.bench, self.options, self.split = bench, options, split

    @property
    def pairs(self) -> Pairs:
        """The pairs whose images can be read; decodes them."""
        return self.bench.pixels(self.split).pairs

    @cached_property
    def sizes(self) -> np.ndarray:
        """Width and height in pixels of every photo as its file has it, (N, 2) int64."""
        self._check_photos("sizes of photos")
        parts = [np.array(part, np.int64).reshape(-1, 2) for part in of_all(self.pairs.images, _size)]
        return np.concatenate(parts)

    @cached_property
    def hashes(self) -> np.ndarray:
        """The sha256 of every photo's file, (N, 32) bytes."""
        self._check_photos("deduplicate exact")
        parts = [np.frombuffer(b"".join(part), np.uint8) for part in of_all(self.pairs.images, _hash)]
        return np.concatenate(parts).reshape(-1, 32)

    @cached_property
    def sketches(self) -> Sketches:
        """Perceptual hashes and thumbnails of the pictures."""
        self._check_photos("deduplicate near")
        array, names = self.bench.pixels(self.split).array, self.pairs.images.names
        parts = (array[np.arange(at, min(at + BATCH, len(names)))] for at in range(0, len(names), BATCH))
        return sketch(parts, names)

    def _check_photos(self, what: str) -> None:
        """Refuse what needs photos where the pairs are vectors. Raises ConfigError."""
        if not self.bench.has_pixels:
            raise ConfigError(
                f"select: {what} needs photos, but {self.bench.data_config.source} holds vectors. Use conditions on "
                f"captions or columns, and the detectors embedding, semantic or caption."
            )

    @cached_property
    def image_rows(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Standardised features of the frozen image tower by rows (B,), L2-normalised, (B, D) float32."""
        return self.bench.unit_image_rows(self.split)

    @cached_property
    def student(self) -> PairFeatures:
        """Embeddings of the training pairs by a student after the warm-up."""
        folder = warm_up(self.bench, self.pairs.image_captions, self.options)
        images, texts = (open_rows(folder / f"{name}.npy") for name in ("images", "texts"))
        return PairFeatures(images, texts, torch.from_numpy(np.array(self.pairs.caption_image, np.int64)))

    @cached_property
    def table(self) -> SideTable | None:
        """The columns of ``select.columns`` for these images."""
        path = self.options.columns
        return SideTable.read(Path(path), self.pairs.images.names) if path else None


def of_all(images: ImageStore, take: Callable[[ImageStore, int], T]) -> Iterator[list[T]]:
    """``take`` of every image, in order, some thousand at a time, read by a few threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(images), READ_AT_ONCE):
            rows = range(start, min(start + READ_AT_ONCE, len(images)))
            yield [*pool.map(partial(take, images), rows)]


def _size(images: ImageStore, index: int) -> tuple[int, int]:
    try:
        with Image.open(BytesIO(images.encoded(index))) as photo:
            return photo.size
    except OSError as error:
        raise DataError(f"{images.names[index]}: its size cannot be read ({error}). Put the photo back.") from None


def _hash(images: ImageStore, index: int) -> bytes:
    return sha256(images.encoded(index)).digest()
