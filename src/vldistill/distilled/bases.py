"""Sets whose images are mixtures of shared ones: X = A B (Remember the Past, 2206.02916, section 3)."""

from __future__ import annotations

import torch


def from_bases(addresses: torch.Tensor, bases: torch.Tensor, side: int = 0) -> torch.Tensor:
    """Mixtures of bases; of images enlarged (bicubic) to ``side``.

    Args:
        addresses: (N, K) weights of the bases in each image or text.
        bases: (K, 3, H, H) images, or (K, ...) features or texts.
        side: S, of the images; 0 is that of the bases.

    Returns:
        (N, 3, S, S), or (N, ...).
    """
    mixed = (addresses @ bases.flatten(1)).reshape(len(addresses), *bases.shape[1:])
    if mixed.ndim != 4 or side in (0, mixed.shape[-1]):
        return mixed
    return torch.nn.functional.interpolate(mixed, (side, side), mode="bicubic", align_corners=False)
