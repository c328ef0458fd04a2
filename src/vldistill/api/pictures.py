"""Pictures as people have them: paths, PIL images, arrays and tensors, made ready for a tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vldistill.data.cache import squashed
from vldistill.data.patterns import advice_to_unpack, walk
from vldistill.data.photos import PHOTO_LIMITS, PhotoLimits, upright_rgb
from vldistill.data.samples import IMAGE_SUFFIXES, is_hidden
from vldistill.data.stores import FileImages, Place
from vldistill.errors import DataError

Picture = str | Path | Image.Image | np.ndarray | torch.Tensor
"""A path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4), or a tensor (3, H, W): uint8, or floats in [0, 1]."""

Pictures = Picture | Sequence[Picture]

KINDS = "a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), or a list of them"


def listed_pictures(given: Pictures) -> tuple[list[Picture], bool]:
    """The pictures of an argument, and whether it was one alone. Raises DataError for other kinds, and for none."""
    if isinstance(given, np.ndarray | torch.Tensor):
        return (list(given), False) if given.ndim == 4 else ([given], True)
    if isinstance(given, str | Path | Image.Image):
        return [given], True
    if not isinstance(given, Sequence):
        raise DataError(f"images is of type {type(given).__name__}; expected {KINDS}.")
    if not given:
        raise DataError(f"images is empty; expected {KINDS}.")
    return list(given), False


def as_input(picture: Picture, size: int, limits: PhotoLimits = PHOTO_LIMITS) -> np.ndarray:
    """A picture as uint8 (3, size, size), as photos of a data source are. Raises DataError that names it."""
    if isinstance(picture, str | Path):
        path = Path(picture).expanduser()
        return squashed(photo_store([path], limits).read(0, size), size)
    if isinstance(picture, Image.Image):
        return squashed(upright_rgb(picture), size)
    return squashed(_from_array(picture), size)


def _from_array(picture: np.ndarray | torch.Tensor) -> Image.Image:
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu().movedim(0, -1).numpy() if picture.ndim == 3 else picture.detach().cpu().numpy()
    if not isinstance(picture, np.ndarray):
        raise DataError(f"a picture is of type {type(picture).__name__}; expected {KINDS}.")
    fine = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[-1] in (3, 4))
    if not fine or 0 in picture.shape:
        raise DataError(f"a picture has the shape {picture.shape}; expected (H, W, 3), as a tensor (3, H, W).")
    return upright_rgb(Image.fromarray(_bytes(picture)))


def _bytes(picture: np.ndarray) -> np.ndarray:
    """An array as uint8; floats are in [0, 1]. Raises DataError."""
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    low, high = float(picture.min()), float(picture.max())
    if picture.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise DataError(
            f"a picture holds {picture.dtype} from {low:.4g} to {high:.4g}; expected uint8, or floats in [0, 1]. "
            f"Divide values of 0 to 255 by 255; undo a normalisation first."
        )
    return (picture * 255).round().astype(np.uint8)


def photo_store(paths: Sequence[Path], limits: PhotoLimits = PHOTO_LIMITS) -> FileImages:
    """Image files as a store, which refuses broken ones by name."""
    return FileImages(tuple(map(str, paths)), [Place(path) for path in paths], limits=limits)


def photo_paths(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The image files of a folder and of those below it, of a file, or of a list of both, in order.

    Raises:
        DataError: a path that does not exist, or no image file at all.
    """
    places = [images] if isinstance(images, str | Path) else list(images)
    found = [path for place in places for path in _below(Path(place).expanduser())]
    if not found:
        shown = ", ".join(map(str, places[:3])) or "an empty list"
        advice = "".join(advice_to_unpack(Path(place).iterdir()) for place in places if Path(place).is_dir())
        raise DataError(
            f"{shown} holds no image file. {advice}Expected a folder of photos (.jpg, .png, ...), or files."
        )
    return found


def _below(place: Path) -> list[Path]:
    if place.is_dir():
        return [
            path
            for path in walk(place)
            if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.relative_to(place).parts)
        ]
    if not place.is_file():
        raise DataError(f"{place} does not exist. Expected a folder of photos, or the path of one.")
    return [place]
