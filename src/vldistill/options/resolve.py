"""A configuration with nothing left open: the method where none is named, and that method's own outer loop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from vldistill.config import Config, DistillConfig, ResolvedDistillConfig
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


UNTIL_TIME_IS_OVER = 100_000
"""Iterations where ``distill.minutes`` are given and no iterations are."""
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


def resolve_distill(config: DistillConfig, setting: str) -> ResolvedDistillConfig:
    """``config`` with nothing left open: the best known method where it names none, that method's own outer loop.

    Raises:
        ConfigError: an unknown method; another optimiser than the method's without rates.
    """
    if isinstance(config, ResolvedDistillConfig):
        return config
    method = config.method or best_known(setting, config)[0]
    entry = METHODS.find(method)
    own, rates = entry.outer, ["image_lr", "text_lr"]
    rates += ["similarity_lr"] if entry.learns_similarity else []
    left = [f"distill.{name}" for name in rates if getattr(config, name) is None]
    if config.optimiser not in (None, own.optimiser) and left:
        raise ConfigError(
            f"distill.optimiser is {config.optimiser}, but {method}'s own rates are {own.optimiser}'s. "
            f"Give {' and '.join(left)} too; docs/methods has the published ones."
        )
    own = replace(own, iterations=UNTIL_TIME_IS_OVER) if config.minutes else own
    given = {name: value for name, value in vars(config).items() if value is not None}
    return ResolvedDistillConfig(**{**asdict(own), **given, "method": method})


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config):
    """A configuration with nothing left open; :func:`resolve` makes it.

    Args:
        given: what it was made from, and what a run remembers.
        distill: the method and its outer loop, filled in.
        why: reason for the method, to be shown to the user; empty where the user named one.
    """

    given: Config
    distill: ResolvedDistillConfig = field(default_factory=ResolvedDistillConfig)
    why: str = ""

    def __post_init__(self) -> None:
        """Nothing: the sections were checked where they were made."""

    def options_of(self, method: str) -> Any:
        """The options of a method."""
        return self.methods.get(method) or METHODS.find(method).options()

    @property
    def options(self) -> Any:
        """The options of the method that is taken."""
        return self.options_of(self.distill.method)

    @cached_property
    def first(self) -> ResolvedDistillConfig | None:
        """The outer loop of the set that is distilled first, as the start; None for other starts.

        It is its method's own outer loop, from real pairs. Where minutes end the distillation, it takes at most a
        quarter of them. Raises ConfigError for a start that this distillation cannot have.
        """
        config = self.distill
        if not (method := first_method(config)):
            return None
        return replace(
            config,
            **asdict(METHODS.find(method).outer),
            method=method,
            start="real",
            start_image="",
            start_text="",
            minutes=config.minutes * SHARE_OF_START,
            validate_every=0,
            keep=(),
            label="",
            learn="both",
            clip=0.0,
            draws=1,
        )


def resolve(config: Config) -> ResolvedConfig:
    """The whole configuration with nothing left open; one that is resolved stays as it is.

    Raises:
        ConfigError: see :func:`resolve_distill`.
    """
    if isinstance(config, ResolvedConfig):
        return config
    setting, distill, why = config.encoder.setting, config.distill, ""
    if not distill.method:
        name, known = best_known(setting, distill)
        kind = f"{distill.pairs} pairs" + (" of features" if distill.space == "features" else "")
        why = f"no method named: {name} is taken for setting {setting} and {kind}, because {known.why}"
    sections = {**vars(config), "distill": resolve_distill(distill, setting)}
    return ResolvedConfig(given=config, why=why, **sections)
