"""Low-rank adapters on chosen layers of a frozen image tower, through peft (setting ``lora``).

A layer uses W + (alpha / rank) B A instead of its frozen weight W (arXiv 2106.09685). A starts random and B at zero,
so that adapters do not change the output at first. Only A and B are trained.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vldistill.encoders.tower import ImageTower
from vldistill.errors import ConfigError

SHOWN = 24  # kinds of module paths listed in an error


def adapter_targets(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The full dotted paths of the layers of ``model`` that get an adapter, in the order of the network.

    A pattern matches a linear layer or convolution by its whole path or by its last parts, with ``*`` as wildcard:
    ``attn.proj`` matches ``blocks.0.attn.proj`` but not ``patch_embed.proj``.

    Raises:
        ConfigError: a pattern without a match, or a layer that cannot have an adapter.
    """
    layers = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    unused = [pattern for pattern in patterns if not any(_matches(path, pattern) for path in layers)]
    if unused:
        raise ConfigError(
            f"encoder.lora.patterns {unused} match no linear layer or convolution of the image tower. "
            f"It has: {', '.join(_kinds(layers))}. Name those that get an adapter, e.g. "
            f"--encoder.lora.patterns '[{_example(layers)}]'."
        )
    targets = [path for path in layers if any(_matches(path, pattern) for pattern in patterns)]
    for path in targets:
        if trouble := _trouble(model, path, layers[path]):
            raise ConfigError(f"encoder.lora.patterns {list(patterns)} match {path!r}, {trouble}. Leave it out.")
    return targets


def add_adapters(tower: ImageTower, patterns: Sequence[str], rank: int, alpha: float) -> ImageTower:
    """Give ``tower`` adapters, in place, and freeze everything else; A is drawn from torch's global generator.

    A convolution that standardises its weight (NF-ResNet, NFNet) is replaced by a plain convolution with the
    standardised weight, so that the adapter adds to the weight that is really used.

    Raises:
        ConfigError: see :func:`adapter_targets`.
    """
    import peft
    from peft.tuners.lora import LoraLayer

    targets = adapter_targets(tower.model, patterns)
    for path in targets:
        module = tower.model.get_submodule(path)
        if isinstance(module, nn.Conv2d):
            tower.model.set_submodule(path, _plain_convolution(module))
    exactly = "|".join(re.escape(path) for path in targets)  # as a list, peft would match the ends of other paths too
    options = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=exactly)  # pyright: ignore[reportArgumentType]
    peft.inject_adapter_in_model(options, tower.model)
    given = [path for path, module in tower.model.named_modules() if isinstance(module, LoraLayer)]
    assert given == targets, (given, targets)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(".lora_A." in name or ".lora_B." in name)
    tower.eval()
    return tower


@torch.no_grad()
def merge_adapters(tower: ImageTower) -> ImageTower:
    """A copy of ``tower`` whose adapters are merged into the weights; it computes the same."""
    from peft.tuners.lora import LoraLayer

    merged = copy.deepcopy(tower)
    for path, module in list(merged.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            merged.set_submodule(path, module.get_base_layer())
    return merged.requires_grad_(False)


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def _kinds(paths: Iterable[str]) -> list[str]:
    """Distinct paths with ``*`` for numbers, with their counts."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path) for path in paths)
    shown = [f"{kind} ({count})" if count > 1 else kind for kind, count in counts.items()]
    return shown if len(shown) <= SHOWN else [*shown[:SHOWN], f"and {len(shown) - SHOWN} more kinds"]


def _example(layers: dict[str, nn.Linear | nn.Conv2d]) -> str:
    """The most frequent ending of layers that can have an adapter."""
    ends = Counter(_ending(path) for path, layer in layers.items() if not _grouped(layer))
    return ends.most_common(1)[0][0] if ends else "NAME"


def _ending(path: str) -> str:
    """The last two parts of a path (``attn.proj`` of ``blocks.0.attn.proj``), with ``*`` for numbers."""
    above, _, name = path.rpartition(".")
    name = "*" if name.isdigit() else name
    above = above.rpartition(".")[2]
    return name if not above or above.isdigit() else f"{above}.{name}"


def _grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def _trouble(model: nn.Module, path: str, layer: nn.Module) -> str:
    """Why ``layer`` cannot have an adapter; empty if it can."""
    if isinstance(model.get_submodule(path.rpartition(".")[0]), nn.MultiheadAttention):
        return "whose weight torch's attention uses without calling the layer: its adapter would have no effect"
    if _grouped(layer):
        return "a grouped convolution, whose adapter cannot be merged into its weight"
    if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1):
        return "a dilated convolution, for which peft makes an adapter without dilation"
    return ""


class _Spy(TorchFunctionMode):
    """Records the weight that a convolution really uses."""

    weight: torch.Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: Collection[type],
        args: tuple[Tensor, ...] = (),
        kwargs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        named = kwargs or {}
        if func is F.conv2d:
            self.weight = args[1] if len(args) > 1 else named["weight"]
        return func(*args, **named)


@torch.no_grad()
def _plain_convolution(layer: nn.Conv2d) -> nn.Conv2d:
    """``layer`` if it uses its weight unchanged, else a plain convolution with the weight that it uses."""
    from timm.layers.conv2d_same import Conv2dSame

    if type(layer) in (nn.Conv2d, Conv2dSame):
        return layer
    shape = (1, layer.in_channels, *layer.kernel_size)
    device, dtype = layer.weight.device, layer.weight.dtype
    probe = torch.linspace(-1, 1, math.prod(shape), device=device, dtype=dtype).view(shape)
    with _Spy() as spy:
        expected = layer(probe)
    same = bool(getattr(layer, "same_pad", False))
    kinds: dict[bool, Callable[..., nn.Module]] = {True: Conv2dSame, False: nn.Conv2d}
    sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, 0 if same else layer.padding
    plain = kinds[same](*sizes, bias=layer.bias is not None, device=device, dtype=dtype)
    assert isinstance(plain, nn.Conv2d)
    plain.weight.copy_(layer.weight if spy.weight is None else spy.weight)
    if layer.bias is not None and plain.bias is not None:
        plain.bias.copy_(layer.bias)
    if not torch.allclose(plain(probe), expected, rtol=1e-4, atol=1e-6):
        raise ConfigError(
            f"encoder.lora.patterns match a {type(layer).__name__}, which does more than a convolution with a "
            f"weight: an adapter would not add to that weight. Leave it out."
        )
    return plain
