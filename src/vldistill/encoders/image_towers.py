"""Image towers by name: those of timm, from the hub or local files, and a small one without download.

An image tower maps normalised images (B, 3, S, S) to pooled features (B, width).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from vldistill.config import ImageTowerConfig, expand
from vldistill.config.plain import Record
from vldistill.encoders.tower import ImageTower, load_weights, output_width, refused_as
from vldistill.errors import ConfigError, unknown
from vldistill.storage.hub import bounded_look_up

OFFLINE_IMAGE_TOWERS = {"convnet": "3 blocks of convolution, instance norm, ReLU and pooling; needs no download"}
NAMED_IMAGE_TOWERS: dict[str, tuple[str, dict[str, str]]] = {
    "resnet18_gn": ("resnet18", {"norm_layer": "groupnorm"}),
}
"""Named combinations of a timm network and options, without published weights."""


class ConvNet(nn.Module):
    """The field's small network: ``depth`` x (3x3 convolution, instance norm, ReLU, 2x2 average pooling).

    The output is not pooled: (B, width * (size / 2**depth)**2), as is usual in dataset distillation.
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
        """Flattened features of images (B, 3, S, S)."""
        return self.layers(images).flatten(1)


def convnet_tower(config: ImageTowerConfig) -> ImageTower:
    """The small offline network. Raises ConfigError or ArtefactError with the remedy."""
    size = config.size or 32
    with refused_as(
        f"image tower 'convnet' could not be built at {size} px with encoder.image.options {config.options}",
        "It takes width and depth, and 2**depth pixels or more.",
    ):
        model = ConvNet(**config.options)
        width = output_width(model, size)
    if config.weights not in ("hub", "random"):
        load_weights(model, Path(expand(config.weights)), ())
    return ImageTower(
        model, "convnet", width, size, config.mean or (0.5,) * 3, config.std or (0.25,) * 3, config.options
    )


def timm_tower(config: ImageTowerConfig) -> ImageTower:
    """A network of timm, or of :data:`NAMED_IMAGE_TOWERS`. Raises ConfigError or ArtefactError with the remedy."""
    import timm
    from timm.data.config import resolve_model_data_config

    name, options = expand(config.name), config.options
    if name in NAMED_IMAGE_TOWERS:
        return _named(config)
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name):
        raise ConfigError(unknown_tower(name))
    with refused_as(
        f"image tower {name!r} could not be built with weights={config.weights!r} and options={options}",
        "Check the options, or set encoder.image.weights to a .safetensors file or to 'random' when the hub cannot be "
        "reached.",
    ):
        model = _created(name, config.weights == "hub", options)
    if config.weights not in ("hub", "random"):
        pretrained = getattr(model, "pretrained_cfg", None) or {}
        classifier = pretrained.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        load_weights(model, Path(expand(config.weights)), classifier)
    own = resolve_model_data_config(model)
    native = int(options.get("img_size") or own["input_size"][-1])
    size = config.size or native
    model.eval()
    with refused_as(
        f"image tower {name!r} does not take images of {size} px with options={options}",
        f"Its own size is {native} px: set encoder.image.size to 0 or, where the network has that option, add "
        f"img_size: {size} to encoder.image.options.",
    ):
        resize = getattr(model, "set_input_size", None)  # for networks whose position embeddings have a fixed size
        if size != native and resize:
            resize(img_size=size)
        width = output_width(model, size)
    return ImageTower(model, name, width, size, config.mean or own["mean"], config.std or own["std"], options)


def _created(name: str, pretrained: bool, options: Record) -> nn.Module:
    """A network of timm; where that takes the hub, and it is silent, from its cache. Raises HubError."""
    import timm

    create = partial(timm.create_model, name, pretrained=pretrained, num_classes=0, **options)
    if not pretrained and not name.startswith(("hf-hub:", "hf_hub:")):
        return create()
    with bounded_look_up(
        f"image tower {name!r}", "Connect once, or set encoder.image.weights to a .safetensors file or to 'random'."
    ):
        return create()


def _named(config: ImageTowerConfig) -> ImageTower:
    """A tower of :data:`NAMED_IMAGE_TOWERS`."""
    base, options = NAMED_IMAGE_TOWERS[config.name]
    if config.weights == "hub":
        raise ConfigError(
            f"image tower {config.name!r} has no published weights; set encoder.image.weights to 'random' or to a "
            f".safetensors file."
        )
    tower = timm_tower(replace(config, name=base, options={**options, **config.options}))
    tower.name = config.name
    return tower


def unknown_tower(name: str) -> str:
    """The error message for an unknown image tower."""
    import timm

    known = [*OFFLINE_IMAGE_TOWERS, *NAMED_IMAGE_TOWERS, *timm.list_models()]
    return unknown("image tower", name, known).split(" Known:")[0] + (
        " See `vldistill ls towers` and timm.list_models()."
    )
