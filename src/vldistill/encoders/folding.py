"""Batch normalisation of a frozen convolutional tower folded into the convolution before it.

A frozen normalisation is an affine map, and so is a convolution: one can carry both. It saves two passes over every
activation in each direction, and the memory of what they keep.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vldistill.encoders.tower import ImageTower

TOLERANCE = 1e-4  # of the largest feature, in float32: above rounding, far below what a wrong fold does
NORMS = (nn.BatchNorm2d,)  # timm's BatchNormAct2d, with its activation inside, is one of them


class FoldedTower(ImageTower):
    """A tower of fewer layers that computes what ``of`` does, and is known by the hash of ``of``."""

    def __init__(self, of: ImageTower) -> None:
        super().__init__(copy.deepcopy(of.model), of.name, of.width, of.size, of.mean, of.std, of.options)
        self.fingerprint = of.fingerprint


def folded(tower: ImageTower) -> ImageTower:
    """A copy of a frozen ``tower`` without batch normalisations that follow a convolution; the same map to rounding.

    Which normalisation follows which convolution is seen in a pass of real tensors, not guessed from names, and the
    result is compared with the tower itself: where they differ, or there is nothing to fold, ``tower`` is given back.
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
            # in place, their way back needs a copy of the input: dearer than a new output
            module.inplace = False  # pyright: ignore[reportArgumentType]
    out.requires_grad_(False)
    exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)  # else they round apart
    with torch.no_grad(), exact:
        wanted, found = tower(example), out(example)
    scale = TOLERANCE * float(wanted.abs().max())
    return out if bool((wanted - found).abs().max() <= scale) else tower


def _example(tower: ImageTower) -> torch.Tensor:
    """Two images of noise, (2, 3, S, S), like the tower's parameters in place and kind."""
    like = next(tower.parameters())
    drawn = torch.randn(2, 3, tower.size, tower.size, generator=torch.Generator().manual_seed(0))
    return drawn.to(like)


@torch.no_grad()
def _followers(tower: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the normalisation that takes the very tensor each gave, both called once."""
    made: dict[int, tuple[str, torch.Tensor]] = {}  # tensors are held: a freed one's id would serve again
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
