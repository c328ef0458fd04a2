"""What a source of vectors decides of a configuration: towers that are done, and features as what is learned."""

from __future__ import annotations

from dataclasses import replace

from vldistill.config import Config, ImageTowerConfig, TextTowerConfig, expand
from vldistill.data.embedded.recognise import is_embedded
from vldistill.data.reader import source_of
from vldistill.encoders.precomputed import PRECOMPUTED
from vldistill.errors import ConfigError, VldistillError

READER = "embeddings"


def holds_vectors(source: str) -> bool:
    """Whether a data source is one of vectors, by its prefix or the names of its files."""
    try:
        found = source_of(expand(source))
        return found.kind == READER or (not found.kind and is_embedded(found.place))
    except (VldistillError, OSError, ValueError, RuntimeError):
        return False  # reading it says what is wrong


def on_vectors(config: Config) -> Config:
    """A configuration as it is meant where its source holds vectors; any other stays as it is.

    Raises:
        ConfigError: another tower is named, or something that needs pixels.
    """
    if not holds_vectors(config.data.source):
        return config
    encoder, source = config.encoder, config.data.source
    for side, tower, usual in (("image", encoder.image, ImageTowerConfig()), ("text", encoder.text, TextTowerConfig())):
        if tower.name not in (PRECOMPUTED, usual.name):
            raise ConfigError(
                f"encoder.{side}.name is {tower.name!r}, but {source} holds vectors, which have their tower behind "
                f"them. Leave encoder.{side} out, or give photos and captions."
            )
    for name, value, fine in (
        ("encoder.setting", encoder.setting, encoder.setting == "heads"),
        ("data.views", config.data.views, config.data.views == 0),
        ("data.prompts", list(config.data.prompts), not config.data.prompts),
        ("distill.augment", list(config.distill.augment), not config.distill.augment),
        ("distill.size", config.distill.size, config.distill.size == 0),
        ("distill.pixels", config.distill.pixels, config.distill.pixels == "plain"),
    ):
        if not fine:
            raise ConfigError(
                f"{name} is {value!r}, which needs pixels or texts, and {source} holds vectors. Leave it out, or give "
                f"photos and captions."
            )
    image = ImageTowerConfig(PRECOMPUTED, options=_kept(encoder.image))
    text = TextTowerConfig(PRECOMPUTED, options=_kept(encoder.text))
    distill = replace(config.distill, space="features")
    changed = {"encoder": replace(encoder, image=image, text=text), "distill": distill}
    return replace(config, **changed)


def _kept(tower: ImageTowerConfig | TextTowerConfig) -> dict[str, object]:
    """The facts of a tower that is named as done already; other options are of other towers."""
    return dict(tower.options) if tower.name == PRECOMPUTED else {}
