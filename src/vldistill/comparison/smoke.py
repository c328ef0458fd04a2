"""``--smoke``: any configuration made small enough to try every command of a comparison in a minute, offline."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from vldistill.config import Config, ImageTowerConfig, TextTowerConfig
from vldistill.options.resolve import resolve_distill
from vldistill.storage.files import digest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")
SCENES = "scenes:train=40,val=20,test=20"
CLASSES = "scenes:classes=shape,train=80,val=20,test=20"
CLASS_SOURCE = re.compile(r"digits$|classes:|scenes:classes=")
PAIRS = 6


def shrunken(config: Config) -> Config:
    """The same configuration on forty drawn scenes: small untrained towers, two outer iterations, short students.

    Towers that differ stay different, options of methods stay as they are, and outer rates are lowered for towers they
    were not chosen for. The numbers mean nothing: the test is that everything runs. Setting ``both`` keeps its text
    tower, because the package has none that trains; one from the hub needs a network.
    """
    encoder, experts = config.encoder, config.experts
    distill = resolve_distill(config.distill, encoder.setting)
    width = 8 + int(digest(encoder.image.name, encoder.image.weights), 16) % 8
    image = ImageTowerConfig(name="convnet", weights="random", size=16, options={"width": width})
    words = 32 + int(digest(encoder.text.name), 16) % 8
    return replace(
        config,
        data=replace(config.data, source=CLASSES if CLASS_SOURCE.match(config.data.source) else SCENES),
        encoder=replace(
            encoder,
            image=image,
            text=encoder.text if encoder.setting == "both" else TextTowerConfig(name="hashing", width=words),
            dim=min(encoder.dim, 16),
            lora=replace(encoder.lora, patterns=("layers.*",), rank=2),  # the small network's convolutions
        ),
        experts=replace(experts, count=min(experts.count, 2), batch=32, steps_per_epoch=1, image_rate=0.01),
        distill=replace(
            distill,
            pairs=PAIRS,
            iterations=2,
            image_lr=min(distill.image_lr, 0.01),
            text_lr=min(distill.text_lr, 0.01),
            student_rate_image=min(distill.student_rate_image, 0.01),
            student_rate_text=min(distill.student_rate_text, 0.01),
            keep=(),
            minutes=0.0,
            size=min(distill.size, 8),
            bases=min(distill.bases, PAIRS // 2),
        ),
        evaluate=replace(
            config.evaluate,
            seeds=2,
            trials=2,
            max_steps=4,
            generic_epochs=1,
            subset_epochs=(1,),
            full_epochs=(1,),
            head_rates=(0.01,),
            tower_rates=(0.001,),
        ),
        methods={name: _small(options) for name, options in config.methods.items()},
    )


def _small(options: Options) -> Options:
    """Fewer inner steps, and batches that forty scenes can fill."""
    known = {"minibatch": 4, "real_batch": 16, "steps": 3, "first_steps": 2, "student_epochs": 2, "window": 0}
    changed = {name: min(getattr(options, name), most) for name, most in known.items() if hasattr(options, name)}
    return replace(options, **changed)
