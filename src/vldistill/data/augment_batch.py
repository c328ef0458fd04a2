"""The augmentation of experts on whole batches, on the device the images are on.

The same draws from the same distribution as :func:`vldistill.data.transforms.augment`, image by image. Pixels differ a
little from Pillow's: crops are resized by torch's bicubic kernel, and torchvision's tensor operations round in
other places.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as ops

from vldistill.runtime.devices import moved
from vldistill.runtime.randomness import generator

AREA = (0.5, 1.0)  # part of the picture that is kept
ASPECT = (3 / 4, 4 / 3)
TRIES = 10  # to fit a crop, as torchvision does; then the whole picture
OPERATIONS, MAGNITUDE, BINS = 2, 5, 31  # of RandAugment

Operation = Callable[[Tensor, float], Tensor]


def _share(largest: float) -> float:
    """Magnitude 5 on a linear scale of 31 from 0."""
    return largest * MAGNITUDE / (BINS - 1)


def _affine(images: Tensor, angle: float = 0.0, x: int = 0, y: int = 0, shear: tuple[float, float] = (0, 0)) -> Tensor:
    centre = [0.0, 0.0] if shear != (0, 0) else None
    return ops.affine(images, angle, [x, y], 1.0, [math.degrees(math.atan(s)) for s in shear], center=centre)


def _translated(images: Tensor, sign: float, across: bool) -> Tensor:
    pixels = int(sign * _share(150.0 / 331.0 * images.shape[-1 if across else -2]))
    return _affine(images, x=pixels) if across else _affine(images, y=pixels)


SPACE: tuple[tuple[str, bool, Operation], ...] = (
    ("identity", False, lambda images, sign: images),
    ("shear x", True, lambda images, sign: _affine(images, shear=(sign * _share(0.3), 0))),
    ("shear y", True, lambda images, sign: _affine(images, shear=(0, sign * _share(0.3)))),
    ("translate x", True, lambda images, sign: _translated(images, sign, True)),
    ("translate y", True, lambda images, sign: _translated(images, sign, False)),
    ("rotate", True, lambda images, sign: ops.rotate(images, sign * _share(30.0))),
    ("brightness", True, lambda images, sign: ops.adjust_brightness(images, 1 + sign * _share(0.9))),
    ("colour", True, lambda images, sign: ops.adjust_saturation(images, 1 + sign * _share(0.9))),
    ("contrast", True, lambda images, sign: ops.adjust_contrast(images, 1 + sign * _share(0.9))),
    ("sharpness", True, lambda images, sign: ops.adjust_sharpness(images, 1 + sign * _share(0.9))),
    ("posterize", False, lambda images, sign: ops.posterize(images, 8 - round(MAGNITUDE / ((BINS - 1) / 4)))),
    ("solarize", False, lambda images, sign: ops.solarize(images, 255 * (1 - MAGNITUDE / (BINS - 1)))),
    ("autocontrast", False, lambda images, sign: ops.autocontrast(images)),
    ("equalize", False, lambda images, sign: ops.equalize(images)),
)
"""RandAugment's operations (arXiv 1909.13719) at its magnitude: name, whether a sign is drawn, what it does."""


def augment_batch(images: Tensor, seed: int) -> Tensor:
    """Random resized crop, flip and RandAugment(2, 5), each image on its own draw.

    Args:
        images: uint8 (B, 3, S, S), on any device.
        seed: the same seed and images give the same result on one device; no global generator is used.

    Returns:
        uint8 (B, 3, S, S), on the same device.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"augment_batch got {images.dtype} {tuple(images.shape)}; expected uint8 (B, 3, S, S).")
    draw = generator(seed, "batch")
    count, height, width = len(images), images.shape[-2], images.shape[-1]
    boxes = crop_boxes(count, height, width, draw)
    flips = torch.rand(count, generator=draw) < 0.5
    chosen = torch.randint(len(SPACE), (OPERATIONS, count), generator=draw)
    signs = torch.randint(2, (OPERATIONS, count), generator=draw) * 2 - 1
    out = crop_and_flip(images, boxes, flips)
    for operations, sign in zip(chosen, signs):
        out = _operated(out, operations, sign)
    return out


def crop_boxes(count: int, height: int, width: int, draw: torch.Generator) -> Tensor:
    """Boxes (B, 4) of top, left, height and width, as torchvision's RandomResizedCrop draws them."""
    area = height * width * torch.empty(count, TRIES, dtype=torch.float64).uniform_(*AREA, generator=draw)
    low, high = (math.log(value) for value in ASPECT)
    aspect = torch.empty(count, TRIES, dtype=torch.float64).uniform_(low, high, generator=draw).exp()
    wide, high_ = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (high_ > 0) & (high_ <= height)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    w = torch.where(found, wide.gather(1, first)[:, 0], torch.tensor(float(width), dtype=torch.float64))
    h = torch.where(found, high_.gather(1, first)[:, 0], torch.tensor(float(height), dtype=torch.float64))
    place = torch.rand(count, 2, generator=draw, dtype=torch.float64)
    top, left = (place[:, 0] * (height - h + 1)).floor(), (place[:, 1] * (width - w + 1)).floor()
    return torch.stack([top, left, h, w], dim=1)


def crop_and_flip(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Each image's box, resized to the whole size (bicubic), mirrored where ``flips`` (B,) is true."""
    height, width = images.shape[-2:]
    top, left, h, w = moved(boxes.float(), images.device).unbind(1)
    # where each output pixel's centre lies, in pixels of the input; kept inside the crop, as resizing it would
    rows = torch.arange(height, device=images.device) + 0.5
    columns = torch.arange(width, device=images.device) + 0.5
    y = (top[:, None] + rows * (h / height)[:, None]).clamp(top[:, None] + 0.5, (top + h)[:, None] - 0.5)
    x = (left[:, None] + columns * (w / width)[:, None]).clamp(left[:, None] + 0.5, (left + w)[:, None] - 0.5)
    x = torch.where(moved(flips, images.device)[:, None], x.flip(1), x)
    across, down = 2 * x / width - 1, 2 * y / height - 1
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=-1)
    resized = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _operated(images: Tensor, operations: Tensor, signs: Tensor) -> Tensor:
    """One round of RandAugment: images with the same operation and sign go through it together."""
    out = images.clone()
    for number, (_, signed, operation) in enumerate(SPACE):
        for sign in (-1, 1) if signed else (0,):
            here = operations == number
            here = (here & (signs == sign)) if signed else here
            rows = here.nonzero()[:, 0]
            if len(rows):
                rows = moved(rows, images.device)
                out[rows] = operation(images[rows], float(sign))
    return out
