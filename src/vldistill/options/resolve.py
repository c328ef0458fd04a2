"""A configuration with nothing left open: the method where none is named, and that method's own outer loop."""

from __future__ import annotations

from dataclasses import fields, replace

from vldistill.config import Config, DistillConfig, Outer
from vldistill.distillation.method import METHODS, BestKnown
from vldistill.errors import ConfigError


def first_method(config: DistillConfig) -> str:
    """The method whose set is the start and is made first; empty where the start is none's. Raises ConfigError."""
    image, text = config.starts
    for kind in {image, text} & METHODS.keys():
        if config.method == kind:
            raise ConfigError(f"distill.start is {kind}, the method itself. Use real, or another set's folder.")
        if METHODS.find(config.method).own_start:
            raise ConfigError(f"distill.start is {kind}, but {config.method} chooses its own pairs. Use real.")
        if image != text:
            raise ConfigError(f"distill starts images from {image} and texts from {text}: {kind} makes both sides.")
        if not METHODS[kind].is_start:
            raise ConfigError(f"distill.start is {kind}, which is no start. Give the folder of a set that it made.")
        if config.captions > 1:
            raise ConfigError(f"distill.start {kind} makes one text for each image, not {config.captions}. Use real.")
        return kind
    return ""


def as_first(config: DistillConfig, setting: str) -> DistillConfig:
    """The configuration of the set that ``config`` starts from: its method's own outer loop, from real pairs.

    Where minutes end the distillation, the start takes at most a quarter of them.
    """
    open_again = {option.name: None for option in fields(Outer)}
    own = replace(config, method=first_method(config), start="real", start_image="", start_text="", **open_again)
    own = replace(own, minutes=config.minutes * SHARE_OF_START, validate_every=0, keep=(), label="", learn="both")
    return settled(replace(own, clip=0.0, draws=1), setting)


SHARE_OF_START = 0.25  # of distill.minutes


def best_known(setting: str, config: DistillConfig) -> tuple[str, BestKnown]:
    """The method to take in ``setting`` for as many pairs, and in the space, of ``config`` where none is named."""
    fit = [
        (name, known)
        for name, entry in METHODS.items()
        for known in entry.best_known
        if known.setting == setting and known.pairs <= config.pairs and known.space in ("", config.space)
    ]
    return max(fit, key=lambda found: found[1].pairs)


def settled(config: DistillConfig, setting: str) -> DistillConfig:
    """``config`` with nothing left open: the best known method where it names none, that method's own outer loop.

    Raises:
        ConfigError: an unknown method; another optimiser than the method's without rates.
    """
    if not config.method:
        config = replace(config, method=best_known(setting, config)[0])
    entry = METHODS.find(config.method)
    own, rates = entry.outer, ["image_lr", "text_lr"]
    rates += ["similarity_lr"] if entry.learns_similarity else []
    left = [f"distill.{name}" for name in rates if getattr(config, name) is None]
    if config.optimiser not in (None, own.optimiser) and left:
        raise ConfigError(
            f"distill.optimiser is {config.optimiser}, but {config.method}'s own rates are {own.optimiser}'s. "
            f"Give {' and '.join(left)} too; docs/methods has the published ones."
        )
    return config.with_own(own)


def settle(config: Config) -> tuple[Config, str]:
    """The whole configuration with section ``distill`` :func:`settled`, and what to tell the user about it."""
    setting = config.encoder.setting
    pairs = config.distill.pairs
    name, known = best_known(setting, config.distill)
    kind = f"{pairs} pairs" + (" of features" if config.distill.space == "features" else "")
    said = f"no method named: {name} is taken for setting {setting} and {kind}, because {known.why}"
    return replace(config, distill=settled(config.distill, setting)), "" if config.distill.method else said
