"""Image towers by name: timm's, from a hub or from local files, and a small one that needs neither.

An image tower maps normalised images (B, 3, S, S) to pooled features (B, width).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vldistill.config import ImageTowerConfig, expand
from vldistill.errors import ArtefactError, ConfigError, unknown
from vldistill.storage.files import digest, read_tensors

OFFLINE_IMAGE_TOWERS = {"convnet": "3 blocks of convolution, instance norm, ReLU and pooling; needs no download"}
NAMED_IMAGE_TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18_gn": ("resnet18", {"norm_layer": "groupnorm"}),
}
"""Networks of timm with options that have a name of their own here; nobody publishes weights for them."""

BUILD_ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What timm, transformers and torch raise for a name, an option or an input that cannot work."""


class ImageTower(nn.Module):
    """An image network with the input it expects.

    Args:
        model: maps normalised images (B, 3, size, size) to features (B, width).
        name: as the user gave it.
        width: of the features.
        size: input side in pixels.
        mean: channel means in [0, 1].
        std: channel standard deviations.
        options: of the constructor; they change what the same weights compute (``pad_type``, for one).
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        width: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        options: Mapping[str, Any] | None = None,
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
        """A hash of the network's kind, options and weights, the input size and the normalisation."""
        network = architecture(self.model), self.options, weights_digest(self.model)
        return digest(*network, self.size, self.mean, self.std)


def architecture(model: nn.Module) -> str:
    """The kind of network: timm's name for it, or the class."""
    return (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__


def weights_digest(module: nn.Module) -> str:
    """A hash over the names, shapes and bytes of all parameters and buffers."""
    parts: list[object] = []
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content = digest(flat.view(torch.uint8).numpy().tobytes())  # one tensor at a time: no second copy of them all
        parts += [name, list(tensor.shape), str(tensor.dtype), content]
    return digest(*parts)


class ConvNet(nn.Module):
    """The field's small network: ``depth`` x (3x3 convolution, instance norm, ReLU, 2x2 average pooling).

    The output keeps its positions: (B, width * (size / 2**depth)**2), as dataset distillation uses it.
    """

    def __init__(self, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [
                nn.Conv2d(3 if block == 0 else width, width, 3, padding=1),
                nn.GroupNorm(width, width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Flat features of images (B, 3, S, S)."""
        return self.layers(images).flatten(1)


def build_image_tower(config: ImageTowerConfig) -> ImageTower:
    """Build the image tower a user asked for. Raises ConfigError or ArtefactError with the remedy."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reseed every GPU as well
        if config.name.startswith("open_clip:"):
            from vldistill.encoders.clip import clip_image_tower

            return clip_image_tower(config)
        return _convnet(config) if config.name == "convnet" else _timm(config)


def _convnet(config: ImageTowerConfig) -> ImageTower:
    size = config.size or 32
    try:
        model = ConvNet(**config.options)
        width = _output_width(model, size)
    except BUILD_ERRORS as error:
        raise ConfigError(
            f"image tower 'convnet' could not be built at {size} px with encoder.image.options {config.options}: "
            f"{first_line(error)} It takes width and depth, and 2**depth pixels or more."
        ) from error
    if config.weights not in ("hub", "random"):
        _load_weights(model, Path(expand(config.weights)), ())
    return ImageTower(
        model, "convnet", width, size, config.mean or (0.5,) * 3, config.std or (0.25,) * 3, config.options
    )


def _timm(config: ImageTowerConfig) -> ImageTower:
    import timm
    from timm.data.config import resolve_model_data_config

    name, options = expand(config.name), config.options
    if name in NAMED_IMAGE_TOWERS:
        return _named(config)
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name):
        raise ConfigError(unknown_tower(name))
    try:
        model = timm.create_model(name, pretrained=config.weights == "hub", num_classes=0, **options)
    except BUILD_ERRORS as error:
        raise ConfigError(
            f"image tower {name!r} could not be built with weights={config.weights!r} and options={options}: "
            f"{first_line(error)} Check the options, or set encoder.image.weights to a .safetensors file "
            f"or to 'random' when the hub cannot be reached."
        ) from error
    if config.weights not in ("hub", "random"):
        pretrained: Any = getattr(model, "pretrained_cfg", None) or {}
        classifier = pretrained.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        _load_weights(model, Path(expand(config.weights)), classifier)
    own = resolve_model_data_config(model)
    native = int(options.get("img_size") or own["input_size"][-1])
    size = config.size or native
    model.eval()
    try:
        resize: Any = getattr(model, "set_input_size", None)  # where position embeddings are made for one size
        if size != native and resize:
            resize(img_size=size)
        width = _output_width(model, size)
    except BUILD_ERRORS as error:
        raise ConfigError(
            f"image tower {name!r} does not take images of {size} px with options={options}: {first_line(error)} "
            f"Its own size is {native} px: set encoder.image.size to 0 or, where the network has that option, "
            f"add img_size: {size} to encoder.image.options."
        ) from error
    return ImageTower(model, name, width, size, config.mean or own["mean"], config.std or own["std"], options)


def _named(config: ImageTowerConfig) -> ImageTower:
    """A network of timm that has a name of its own here."""
    base, options = NAMED_IMAGE_TOWERS[config.name]
    if config.weights == "hub":
        raise ConfigError(
            f"image tower {config.name!r} has no published weights; set encoder.image.weights to 'random' or to a "
            f".safetensors file."
        )
    tower = _timm(replace(config, name=base, options={**options, **config.options}))
    tower.name = config.name
    return tower


@torch.no_grad()
def _output_width(model: nn.Module, size: int) -> int:
    """Width of the features of one image of ``size`` px. Raises TypeError when they are not pooled."""
    features = model(torch.zeros(1, 3, size, size))
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise TypeError(f"its output is {shape}, not one vector per image")
    return features.shape[1]


def unknown_tower(name: str) -> str:
    """The message for a name that neither timm nor this library knows."""
    import timm

    known = [*OFFLINE_IMAGE_TOWERS, *NAMED_IMAGE_TOWERS, *timm.list_models()]
    return unknown("image tower", name, known).split(" Known:")[0] + (
        " See `vldistill ls towers` and timm.list_models()."
    )


def read_weights(path: Path, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file by name. Raises ArtefactError for other formats and damaged files."""
    if path.suffix != ".safetensors":
        raise ArtefactError(
            f"weights {path}: only .safetensors files are read, because other formats can run code. "
            f"Convert it with safetensors.torch.save_file."
        )
    return read_tensors(path, what)[0]


def _load_weights(model: nn.Module, path: Path, classifier: tuple[str, ...]) -> None:
    """Load a safetensors file strictly, leaving out the classifier that pooled features do not need."""
    weights = read_weights(path, "image tower weights")
    weights = {
        name: value for name, value in weights.items() if not name.startswith(tuple(f"{c}." for c in classifier))
    }
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or extra or shapes:
        raise ArtefactError(
            f"weights {path} do not fit the image tower: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(extra)} unexpected {extra[:2]}, {len(shapes)} of another shape {sorted(shapes)[:2]}. "
            f"Check encoder.image.name and encoder.image.options (img_size, if they were made for another size)."
        )
    model.load_state_dict(weights)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".") + "."
