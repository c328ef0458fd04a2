"""Inputs of one side of the encoder, by row: tensors, features on disk in one view or several, pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vldistill.data.cache import Pixels
from vldistill.data.transforms import augment, to_float
from vldistill.encoders.features import FeatureTable, Standardisation
from vldistill.encoders.tower import ImageTower
from vldistill.runtime.devices import moved
from vldistill.runtime.randomness import generator
from vldistill.training.data import Inputs


class TensorInputs:
    """Rows of a tensor on the training device."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Rows ``index``; features and distilled images are not augmented here."""
        return self.tensor.index_select(0, moved(index, self.tensor.device))  # faster than indexing on a CPU


class PictureInputs(TensorInputs):
    """Learned pictures (N, 3, S, S), normalised for ``tower``."""

    def __init__(self, tensor: torch.Tensor, tower: ImageTower) -> None:
        super().__init__(tensor)
        self.tower = tower

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Pictures ``index``; augmented as photos are if a seed is given."""
        found = super().rows(index)
        return found if augment_seed is None else augmented_picture(found, self.tower, augment_seed)


class FeatureInputs:
    """Standardised rows of a feature table that is too large for memory."""

    def __init__(self, table: FeatureTable, standardise: Standardisation, device: torch.device) -> None:
        self.table, self.device = table, device
        self.standardise = Standardisation(standardise.mean.to(device), standardise.scale.to(device))

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Standardised features (B, D)."""
        return self.standardise(moved(self.table.rows(index), self.device))


class ViewInputs:
    """Features of every image in several views: the plain one first, then augmented ones."""

    def __init__(self, views: Sequence[Inputs]) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views[0])

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Features (B, D) of the plain images; with a seed each row is of a random view, plain or augmented."""
        out = self.views[0].rows(index)
        if augment_seed is None:
            return out
        chosen = torch.randint(len(self.views), (len(index),), generator=generator(augment_seed, "views"))
        for number, view in enumerate(self.views[1:], start=1):
            here = (chosen == number).nonzero()[:, 0]
            out[moved(here, out.device)] = view.rows(index[moved(here, index.device)])
        return out


class PixelInputs:
    """Normalised images from the decoded-image cache.

    Args:
        augment_on: ``cpu`` (Pillow, one by one) or ``device`` (whole batches).
    """

    def __init__(
        self, images: np.ndarray | Pixels, tower: ImageTower, device: torch.device, augment_on: str = "cpu"
    ) -> None:
        self.images, self.tower, self.device, self.augment_on = images, tower, device, augment_on

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        """Normalised images (B, 3, S, S), channels last; augmented if a seed is given."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.images[index.cpu().numpy()]))
        if augment_seed is not None and self.augment_on == "cpu":
            pixels = augment(pixels, augment_seed)
        pixels = moved(pixels, self.device)
        if augment_seed is not None and self.augment_on == "device":
            from vldistill.data.augment_batch import augment_batch  # torchvision takes seconds to import

            pixels = augment_batch(pixels, augment_seed)
        inputs = to_float(pixels, self.tower.mean, self.tower.std)
        return inputs.to(memory_format=torch.channels_last)


def augmented_picture(images: torch.Tensor, tower: ImageTower, seed: int) -> torch.Tensor:
    """Pictures (N, 3, S, S) normalised for ``tower``, augmented as photos are; values beyond a photo's are clipped."""
    plain = (torch.tensor(part).view(3, 1, 1).to(images.dtype) for part in (tower.mean, tower.std))
    mean, std = (moved(part, images.device) for part in plain)
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    augmented = moved(augment(pixels.cpu().contiguous(), seed), images.device)
    return to_float(augmented, tower.mean, tower.std).to(memory_format=torch.channels_last)


def some_rows(inputs: Inputs, index: torch.Tensor) -> Inputs:
    """Some rows of ``inputs``, which can be augmented where those can."""
    if isinstance(inputs, ViewInputs):
        return ViewInputs([some_rows(view, index) for view in inputs.views])
    if isinstance(inputs, PixelInputs):
        return PixelInputs(inputs.images[index.cpu().numpy()], inputs.tower, inputs.device, inputs.augment_on)
    return TensorInputs(inputs.rows(index))
