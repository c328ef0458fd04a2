"""From uint8 images to a tower's input, from one tower's to another's, and the augmentation of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vldistill.runtime.devices import moved


def to_float(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise images for a tower.

    Args:
        images: uint8 (B, 3, S, S).
        mean: of each channel, on the scale 0..1.
        std: of each channel, on the scale 0..1.

    Returns:
        float32 (B, 3, S, S), ``(images / 255 - mean) / std``, on the same device.
    """
    centre, spread = (torch.tensor(list(values), dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
    scale, shift = (1 / (255 * spread)).float(), (-centre / spread).float()
    scale, shift = (moved(part, images.device) for part in (scale, shift))
    return images.to(torch.float32).mul_(scale).add_(shift)


Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, on the scale 0..1."""


def between_towers(images: Tensor, old: Normalisation, new: Normalisation, size: int) -> Tensor:
    """Images normalised for one tower as another one takes them; differentiable.

    Args:
        images: (N, 3, S, S), normalised with ``old``.
        old: of the tower that they are normalised for.
        new: of the other tower.
        size: its input side in pixels.

    Returns:
        (N, 3, size, size). Not clipped: learned values may leave [0, 1].
    """
    if images.shape[-1] == size and [tuple(part) for part in old] == [tuple(part) for part in new]:
        return images
    old_mean, old_std, new_mean, new_std = (torch.tensor(list(part)).view(3, 1, 1).to(images) for part in (*old, *new))
    pixels = images * old_std + old_mean
    if pixels.shape[-1] != size:
        pixels = F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)
    return (pixels - new_mean) / new_std


def augment(images: Tensor, seed: int) -> Tensor:
    """Augment training images as the founding paper does (arXiv 2308.07545), each image on its own draw.

    Random resized crop of 0.5..1 of the area (bicubic), horizontal flip, RandAugment(2, 5) with torchvision's
    operations and its scale of 31 magnitudes. The flip swaps left and right, whatever the captions describe.

    Args:
        images: uint8 (B, 3, S, S).
        seed: the same seed and images give the same result; torch's global generators are left as they were.

    Returns:
        uint8 (B, 3, S, S), on the same device.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"augment got {images.dtype} {tuple(images.shape)}; expected uint8 (B, 3, S, S).")
    from torchvision.transforms import InterpolationMode, v2  # seconds to import, for this alone

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(tuple(images.shape[-2:]), scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=2, magnitude=5),
        ]
    )
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    out = np.empty_like(pixels)
    # The transforms draw from the CPU generator only; torch.manual_seed would reseed every GPU as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for index, picture in enumerate(pixels):
            # Pillow's operations: torch's own start threads for each small image, ruinous on a busy machine.
            out[index] = np.asarray(transform(Image.fromarray(picture)))
    return moved(torch.from_numpy(out).permute(0, 3, 1, 2).contiguous(), images.device)
