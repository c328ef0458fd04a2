"""Shared by all towers: image and text towers, weights from files, and errors while building."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import nn

from vldistill.config.plain import Record
from vldistill.errors import ArtefactError, ConfigError
from vldistill.storage.files import digest, read_tensors

BUILD_ERRORS = (
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, SafetensorError
)  # fmt: skip


@contextmanager
def refused_as(what: str, remedy: str) -> Iterator[None]:
    """Turn errors of timm, transformers and torch into a ConfigError: ``what``, the reason, ``remedy``."""
    try:
        yield
    except BUILD_ERRORS as error:
        text = str(error).strip().splitlines()
        reason = (text[0] if text else type(error).__name__).rstrip(".")
        raise ConfigError(f"{what}: {reason}. {remedy}") from error


class ImageTower(nn.Module):
    """An image network with the input it expects.

    Args:
        model: maps normalised images (B, 3, size, size) to features (B, width).
        name: as configured.
        width: of the features.
        size: input side in pixels.
        mean: channel means in [0, 1].
        std: channel standard deviations.
        options: of the constructor, e.g. ``pad_type``; they change the features of the same weights.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        width: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        options: Record | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.name, self.width, self.size, self.options = name, width, size, dict(options or {})
        self.mean, self.std = tuple(float(v) for v in mean), tuple(float(v) for v in std)
        self.eval()

    def train(self, mode: bool = True) -> ImageTower:
        """Stay in eval mode: normalisation statistics are frozen, dropout inside a tower is off."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features (B, width) of normalised ``images`` (B, 3, size, size)."""
        return self.model(images)

    def fingerprint(self) -> str:
        """A hash of the architecture, options, weights, input size and normalisation."""
        known = getattr(self.model, "pretrained_cfg", None) or {}
        kind = known.get("architecture") or type(self.model).__name__  # timm's architecture name, or the class
        return digest(kind, self.options, weights_digest(self.model), self.size, self.mean, self.std)


def weights_digest(module: nn.Module) -> str:
    """A hash over the names, shapes and bytes of all parameters and buffers."""
    parts: list[object] = []
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content = digest(
            flat.view(torch.uint8).numpy().tobytes()
        )  # one tensor at a time, to avoid a second copy of all
        parts += [name, list(tensor.shape), str(tensor.dtype), content]
    return digest(*parts)


@torch.no_grad()
def output_width(model: nn.Module, size: int) -> int:
    """Width of the features of one image of ``size`` px. Raises TypeError if they are not one vector."""
    features = model(torch.zeros(1, 3, size, size))
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise TypeError(f"its output is {shape}, not one vector per image")
    return features.shape[1]


def read_weights(path: Path, what: str, wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file by name, without what another code puts before the names ``wanted``.

    Raises ArtefactError for other formats and damaged files.
    """
    if path.suffix != ".safetensors":
        raise ArtefactError(
            f"weights {path}: only .safetensors files are read, because other formats can run code. "
            f"Convert it with safetensors.torch.save_file."
        )
    return _without_prefix(read_tensors(path, what)[0], wanted)


def _without_prefix(weights: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors under the shortest prefix that gives every name wanted; all, as they are, where none does.

    Such as ``module.`` of parallel training, ``visual.trunk.`` of open_clip, ``text_encoder.`` of ALBEF.
    """
    longest = max(wanted, key=len, default="")
    prefixes = (name.removesuffix(longest) for name in weights if name.endswith(longest))
    for prefix in sorted(prefixes, key=len):
        if all(f"{prefix}{name}" in weights for name in wanted):
            return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return weights


def load_weights(model: nn.Module, path: Path, classifier: tuple[str, ...]) -> None:
    """Load a safetensors file strictly, without the classifier, which features do not need."""
    own, left_out = model.state_dict(), tuple(f"{part}." for part in classifier)
    found = read_weights(path, "image tower weights", own.keys())
    weights = {name: value for name, value in found.items() if not name.startswith(left_out)}
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or extra or shapes:
        raise ArtefactError(
            f"weights {path} do not fit the image tower: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(extra)} unexpected {extra[:2]}, {len(shapes)} of another shape {sorted(shapes)[:2]}. "
            f"Check encoder.image.name and encoder.image.options (img_size, if they were made for another size)."
        )
    model.load_state_dict(weights)


ProgressHook = Callable[[int], None]


class TextTower(Protocol):
    """A frozen sentence encoder."""

    name: str
    width: int

    def encode(self, captions: Sequence[str], progress: ProgressHook | None = None) -> torch.Tensor:
        """Sentence vectors (M, width), float32 on the CPU."""
        ...

    def fingerprint(self) -> str:
        """A hash of the weights and everything else that determines the vectors."""
        ...
