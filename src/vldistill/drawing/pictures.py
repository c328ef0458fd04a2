"""Single pictures: enlarging, what changed between two, and embedding them in a page.

Pictures are uint8 (3, S, S) arrays in RGB, stacks of them (N, 3, S, S).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

TILE = 192
"""About the side of a picture on a sheet, in pixels."""
SHARP = 64
"""Pictures of at most this side are embedded without loss and shown with sharp pixels."""
QUALITIES = ((1.0, 90), (1.0, 80), (1.0, 65), (0.75, 65), (0.5, 65), (0.5, 40), (0.25, 60))
"""(share of the side, WebP quality), from the best to the smallest."""


def whole_side(pixels: int) -> int:
    """The side on the sheet of a picture of ``pixels``: a whole multiple of a tiny one, itself if it fits."""
    if pixels <= TILE // 2:
        return pixels * round(TILE / pixels)
    return pixels if 160 <= pixels <= 256 else TILE


def enlarged(picture: np.ndarray, side: int) -> Image.Image:
    """A (3, S, S) uint8 array as a picture of ``side``; whole multiples keep their pixels sharp."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    whole = side % image.width == 0
    return image.resize((side, side), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def check_pictures(name: str, pictures: np.ndarray, captions: Sequence[object]) -> None:
    """Refuse anything but one uint8 picture per caption. Raises ValueError."""
    shape = pictures.shape
    if pictures.dtype != np.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
        raise ValueError(f"{name} must be uint8 (N, 3, S, S), not empty; got {pictures.dtype} of shape {shape}.")
    if shape[0] != len(captions):
        raise ValueError(f"{name} has {shape[0]} pictures but there are {len(captions)} captions.")


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] as uint8, rounded."""
    return (pixels * 255).round().astype(np.uint8)


def change_gain(sizes: np.ndarray) -> float:
    """The factor that makes the root mean square change a third of the range around grey; 1 where nothing changed.

    Measured over all pictures, so that they can be compared; only what is above three times the mean is clipped.

    Args:
        sizes: (N,) the change of every picture, of :func:`change_sizes`.
    """
    size = float(np.sqrt((sizes**2).mean()))
    return min(64.0, max(0.5, 42.0 / size)) if size else 1.0


def change_pictures(before: np.ndarray, after: np.ndarray, gain: float) -> np.ndarray:
    """What was added (brighter than middle grey) and taken away (darker), times ``gain``; (N, 3, S, S) uint8."""
    out = np.empty_like(after)
    for place, (old, new) in enumerate(zip(before, after)):  # one by one: as floats they take four times their bytes
        moved = new.astype(np.float32) - old.astype(np.float32)
        out[place] = np.clip(128 + gain * moved, 0, 255).round()
    return out


def change_sizes(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Root mean square change of every picture, in grey levels of 255, (N,) float64."""
    squares = [((new.astype(np.float64) - old) ** 2).mean() for old, new in zip(before, after)]
    return np.sqrt(squares)


def data_uri(picture: np.ndarray, share: float = 1.0, quality: int = 90) -> str:
    """One picture as a ``data:`` address: WebP, without loss where it is small.

    Args:
        picture: (3, S, S) uint8.
        share: of its side that is kept.
        quality: of WebP, 0 to 100; a picture of at most :data:`SHARP` pixels ignores it, and ``share``.
    """
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    small = image.width <= SHARP
    if share < 1 and not small:
        side = max(SHARP, round(image.width * share))
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=small, quality=70 if small else quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def fitting_quality(pictures: np.ndarray, copies: int, budget: int) -> tuple[float, int]:
    """The best (share of the side, quality) at which ``copies`` pictures like these stay within ``budget`` bytes.

    Args:
        pictures: (N, 3, S, S) uint8; a sample of them is encoded.
        copies: how many are going to be embedded.
        budget: bytes in the page; the smallest choice is taken when none fits.
    """
    sample = pictures[:: max(1, len(pictures) // 8)][:8]
    for share, quality in QUALITIES:
        size = sum(len(data_uri(picture, share, quality)) for picture in sample) / len(sample)
        if size * copies <= budget:
            break
    return share, quality
