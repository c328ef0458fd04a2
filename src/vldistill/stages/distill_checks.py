"""What `distill` refuses before long work starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vldistill.config import Config, DistillConfig, SelectConfig
from vldistill.distillation.augment import VIEWS
from vldistill.distillation.averaging import check_draws
from vldistill.distillation.export import set_name
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.start import check_size, check_start, is_folder
from vldistill.errors import ConfigError, DataError, unknown
from vldistill.options.resolve import first_method, settle
from vldistill.runtime.processes import ALONE, Processes
from vldistill.selection.choose import check_count
from vldistill.selection.selector import SELECTORS
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import Run, refuse_other


def check_setting(name: str, setting: str) -> None:
    """Refuse a setting that the method ``name`` has no meaning in. Raises ConfigError."""
    allowed = METHODS.find(name).settings
    if setting not in allowed:
        raise ConfigError(
            f"method {name} works in setting {' or '.join(sorted(allowed))}, not {setting}. Set encoder.setting, with "
            f"experts of that setting if it needs any, or choose another method (vldistill ls methods)."
        )


def check_captions(name: str, count: int) -> None:
    """Refuse several texts for each image where the method ``name`` has no place for them. Raises ConfigError."""
    if count > 1 and not METHODS.find(name).several_captions:
        able = [known for known, entry in METHODS.items() if entry.several_captions]
        raise ConfigError(
            f"distill.captions is {count}, but {name} learns one text for each image. Use 1, or {' or '.join(able)}."
        )


def check_asked(config: Config, experts_from: Path | None = None, ranks: Processes = ALONE) -> None:
    """Refuse what cannot be, before data or towers are opened. Raises ConfigError.

    Args:
        config: whose method is settled.
    """
    name = config.distill.method
    check_draws(config.distill.draws, ranks)
    if experts_from and not METHODS.find(name).needs_experts:
        raise ConfigError(
            f"--experts_from is {experts_from}, but {name} needs no experts. Leave it out, or name a method that "
            f"matches trajectories (`vldistill ls methods`)."
        )
    check_setting(name, config.encoder.setting)
    check_captions(name, config.distill.captions)
    _check_space(config)
    _check_start(config)


def check_method(config: Config, bench: Workbench, experts: Sequence[Any]) -> None:
    """Refuse options of the method that cannot work, before anything is decoded. Raises ConfigError.

    Args:
        config: whose method is settled.
        bench: whose towers are not built here; other towers that the method takes are left aside.
        experts: recorded or planned ones.
    """
    entry = METHODS.find(config.distill.method)
    options = config.methods.get(config.distill.method) or entry.options()
    if getattr(options, "towers", ()):
        options = replace(options, towers=())
    entry.build().check(Context(bench, config.distill, options, list(experts)))


def refuse_other_set(run: Run, config: Config) -> dict[str, Any]:
    """What a set's folder is to remember. Raises ConfigError where it was begun with something else."""
    options = config.methods.get(config.distill.method) or METHODS.find(config.distill.method).options()
    asked = _asked(config, options) | _asked_of_start(config)
    usual, _ = settle(Config(distill=DistillConfig(config.distill.method)))
    refuse_other(run.sets / set_name(config.distill), asked, _asked(usual, type(options)()))
    return asked


def _check_start(config: Config) -> None:
    """Refuse a start that cannot be."""
    distill, before = config.distill, first_method(config.distill)
    for kind in {*distill.starts} - {before}:
        check_start(kind, distill.pairs, config.select, distill.space)
        if is_folder(kind) and distill.captions > 1:
            raise ConfigError(
                f"distill.start is the set {kind}, which has one text for each image, and distill.captions is "
                f"{distill.captions}. Use 1, or start from real pairs or a selector's."
            )
    if before:
        check_setting(before, config.encoder.setting)


def check_data(config: Config, bench: Workbench) -> None:
    """Refuse data with too few images, or without the val split that looks need where anything is trained."""
    check_count(bench.pairs("train").count_images, config.distill.pairs)
    check_size(config.distill.size, bench)
    if config.distill.validate_every and METHODS.find(config.distill.method).trains(config.distill.space):
        try:
            bench.pairs("val")
        except DataError as error:
            other = "Or take the last set instead of the best on val: distill.validate_every 0."
            raise DataError(f"{error} {other}") from None


def _check_space(config: Config) -> None:
    """Refuse combinations of space, setting and augmentation that have no meaning."""
    for kind in config.distill.augment:
        if kind not in VIEWS:
            raise ConfigError(unknown("distill.augment", kind, VIEWS))
    if config.distill.space == "features":
        if config.encoder.setting != "heads":
            raise ConfigError(
                f"distill.space features needs setting heads, not {config.encoder.setting}: "
                f"a trained tower has no fixed features. Use space pixels."
            )
        if config.distill.augment:
            raise ConfigError("distill.augment changes pictures; with distill.space features there are none.")


def _asked(config: Config, options: Any) -> dict[str, Any]:
    """The configuration of one set, as its folder remembers it."""
    sections = {"distill": asdict(config.distill), config.distill.method: asdict(options)}
    return json.loads(json.dumps(sections))


def _asked_of_start(config: Config) -> dict[str, Any]:
    """The selectors' options that shaped the start and differ from the defaults: a set that was begun before an option
    existed is still the same set.
    """
    changed: dict[str, Any] = {}
    for entry in (SELECTORS.get(kind) for kind in config.distill.starts):
        if entry is not None:
            usual = entry.options(SelectConfig())
            changed |= {name: value for name, value in entry.options(config.select).items() if value != usual[name]}
    asked: dict[str, Any] = {"select": changed} if changed else {}
    if first := first_method(config.distill):
        usual = METHODS.find(first).options()
        given = asdict(config.methods.get(first) or usual)
        asked |= {first: {n: v for n, v in given.items() if v != getattr(usual, n)}}
    return asked
