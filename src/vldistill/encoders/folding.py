"""Fold the batch normalisations of a frozen convolutional tower into the convolutions before them.

A frozen normalisation and a convolution are both affine maps, so one convolution can do both. That saves two reads and
writes of every activation in forward and backward, and the memory of the saved activations.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vldistill.encoders.tower import ImageTower

TOLERANCE = 1e-4  # relative to the largest feature, in float32: above rounding, far below the error of a wrong fold
NORMS = (nn.BatchNorm2d,)  # includes its subclass BatchNormAct2d of timm, which has an activation inside


class FoldedTower(ImageTower):
    """A copy of the tower ``of`` to be folded; it keeps the fingerprint of ``of``."""

    def __init__(self, of: ImageTower) -> None:
        super().__init__(copy.deepcopy(of.model), of.name, of.width, of.size, of.mean, of.std, of.options)
        self.fingerprint = of.fingerprint


def folded(tower: ImageTower) -> ImageTower:
    """A copy of a frozen ``tower`` without the batch normalisations after convolutions; equal up to rounding.

    A forward pass shows which normalisation follows which convolution; names are not used. The result is compared with
    the tower: if they differ, or if there is nothing to fold, ``tower`` itself is returned.
    """
    if not any(isinstance(module, NORMS) for module in tower.modules()):
        return tower
    example = _example(tower)
    pairs = _followers(tower, example)
    if not pairs:
        return tower
    out = FoldedTower(tower)
    for conv, norm in pairs:
        _fold(out, conv, norm)
    for module in out.modules():
        if getattr(module, "inplace", False) and not isinstance(module, nn.ReLU):
            # in place, backward would need a copy of the input, which costs more than a new output
            module.inplace = False  # pyright: ignore[reportArgumentType]
    out.requires_grad_(False)
    exact = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, allow_tf32=False
    )  # else both would round differently
    with torch.no_grad(), exact:
        wanted, found = tower(example), out(example)
    scale = TOLERANCE * float(wanted.abs().max())
    return out if bool((wanted - found).abs().max() <= scale) else tower


def _example(tower: ImageTower) -> torch.Tensor:
    """Two images of noise, (2, 3, S, S), with the device and dtype of the tower's parameters."""
    like = next(tower.parameters())
    drawn = torch.randn(2, 3, tower.size, tower.size, generator=torch.Generator().manual_seed(0))
    return drawn.to(like)


@torch.no_grad()
def _followers(tower: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """Pairs (convolution, normalisation of its output tensor), by name; each is called exactly once."""
    made: dict[int, tuple[str, torch.Tensor]] = {}  # holds the tensors, because the id of a freed one is reused
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def watch(name: str, module: nn.Module):
        def seen(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, nn.Conv2d):
                made[id(output)] = name, output
            elif id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return seen

    kinds = (nn.Conv2d, *NORMS)
    hooks = [m.register_forward_hook(watch(n, m)) for n, m in tower.named_modules() if isinstance(m, kinds)]
    try:
        tower(example)
    finally:
        for hook in hooks:
            hook.remove()
    convs = [conv for conv, _ in pairs]
    return [(c, n) for c, n in pairs if calls[c] == calls[n] == 1 and convs.count(c) == 1 and _is_frozen(tower, n)]


def _is_frozen(tower: nn.Module, norm: str) -> bool:
    """Whether a normalisation uses its running statistics."""
    module = tower.get_submodule(norm)
    return not module.training and getattr(module, "running_mean", None) is not None


def _fold(tower: nn.Module, conv: str, norm: str) -> None:
    old = tower.get_submodule(norm)
    tower.set_submodule(conv, fuse_conv_bn_eval(tower.get_submodule(conv), old))  # pyright: ignore
    after = [part for name in ("drop", "act") if isinstance(part := getattr(old, name, None), nn.Module)]
    tower.set_submodule(norm, nn.Sequential(*after))
