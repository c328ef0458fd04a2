"""Scikit-learn's digits: 1,797 real scans of 8 x 8 pixels and 17 grey levels, which need no download."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image

from vldistill.data.stores import as_png, signature_of

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPT = "a photo of the digit {}"
SIDE = 64  # pixels that a scan is enlarged to: eight times, by bicubic interpolation
SHARES = {"test": 0.2, "val": 0.2}  # of every class; the rest is train
WHITE = 16  # the highest level


@lru_cache(maxsize=1)
def scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans (1797, 8, 8) uint8, white on black, and their labels (1797,) int64."""
    from sklearn.datasets import load_digits

    found = load_digits()
    levels = np.asarray(found.images)  # pyright: ignore[reportAttributeAccessIssue]
    return (levels * 255 / WHITE).round().astype(np.uint8), np.asarray(found.target, np.int64)  # pyright: ignore


def splits_of(labels: np.ndarray) -> list[str]:
    """The split of every scan, the same for ever: of each class a fifth is test and a fifth val, drawn once."""
    splits = np.full(len(labels), "train", object)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        order = own[np.argsort(np.random.PCG64(int(label)).random_raw(len(own)), kind="stable")]
        start = 0
        for split, share in SHARES.items():
            count = round(share * len(own))
            splits[order[start : start + count]] = split
            start += count
    return splits.tolist()


@dataclass(frozen=True)
class DigitImages:
    """An image store of the scans, enlarged when they are read."""

    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = (f"{label}-{number:04d}" for number, label in enumerate(scans()[1].tolist()))
        object.__setattr__(self, "names", tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """A scan of 64 x 64 pixels in RGB."""
        return Image.fromarray(scans()[0][index]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")

    def signature(self, index: int) -> bytes:
        """That of its 64 bytes."""
        return signature_of(scans()[0][index].tobytes())

    def encoded(self, index: int) -> bytes:
        """The enlarged scan as PNG."""
        return as_png(self.read(index))
