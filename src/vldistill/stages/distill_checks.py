"""What `distill` refuses before long work starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vldistill.config import DistillConfig, SelectConfig
from vldistill.config.former import before_it_came
from vldistill.config.plain import Plain
from vldistill.distillation.augment import VIEWS
from vldistill.distillation.averaging import check_draws
from vldistill.distillation.export import set_name
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.start import check_size, check_start, is_folder
from vldistill.errors import ConfigError, DataError, unknown
from vldistill.options.resolve import ResolvedConfig
from vldistill.runtime.processes import ALONE, Processes
from vldistill.selection.choose import check_count
from vldistill.selection.pipeline import pipeline_options
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


def check_asked(config: ResolvedConfig, experts_from: Path | None = None, processes: Processes = ALONE) -> None:
    """Refuse what cannot be, before data or towers are opened. Raises ConfigError."""
    name = config.distill.method
    check_draws(config.distill.draws, processes)
    if experts_from and not METHODS.find(name).needs_experts:
        raise ConfigError(
            f"--experts_from is {experts_from}, but {name} needs no experts. Leave it out, or name a method that "
            f"matches trajectories (`vldistill ls methods`)."
        )
    check_setting(name, config.encoder.setting)
    check_captions(name, config.distill.captions)
    _check_space(config)
    _check_start(config)


def check_method(config: ResolvedConfig, bench: Workbench, experts: Sequence[Any]) -> None:
    """Refuse options of the method that cannot work, before anything is decoded. Raises ConfigError.

    Args:
        config: of the distillation.
        bench: whose towers are not built here; other towers that the method takes are ignored.
        experts: recorded or planned ones.
    """
    entry = METHODS.find(config.distill.method)
    entry.build().check(Context(bench, config.distill, entry.as_planned(config.options), list(experts)))


def refuse_other_set(run: Run, config: ResolvedConfig) -> dict[str, Plain]:
    """What a set's folder is to remember. Raises ConfigError where it was begun with something else."""
    name, entry = config.distill.method, METHODS.find(config.distill.method)
    asked = _plain({"distill": asdict(config.distill), name: asdict(config.options)}) | _asked_of_start(config)
    usual = {option.name: option.default for option in fields(DistillConfig)} | asdict(entry.outer) | {"method": name}
    usual |= before_it_came(DistillConfig)
    options = {**asdict(entry.options()), **before_it_came(entry.options)}
    refuse_other(run.sets / set_name(config.distill), asked, _plain({"distill": usual, name: options}))
    return asked


def _check_start(config: ResolvedConfig) -> None:
    """Refuse a start that cannot be."""
    distill, first = config.distill, config.first
    for kind in {*distill.starts} - {first.method if first else None}:
        check_start(kind, distill.pairs, config.select, distill.space)
        if is_folder(kind) and distill.captions > 1:
            raise ConfigError(
                f"distill.start is the set {kind}, which has one text for each image, and distill.captions is "
                f"{distill.captions}. Use 1, or start from real pairs or a selector's."
            )
    if first:
        check_setting(first.method, config.encoder.setting)


def check_data(config: ResolvedConfig, bench: Workbench) -> None:
    """Refuse data with too few images, or without the val split that validation needs where anything is trained."""
    check_count(bench.pairs("train").count_images, config.distill.pairs)
    check_size(config.distill.size, bench)
    if config.distill.validate_every and METHODS.find(config.distill.method).trains(config.distill.space):
        try:
            bench.pairs("val")
        except DataError as error:
            other = "Or take the last set instead of the best on val: distill.validate_every 0."
            raise DataError(f"{error} {other}") from None


def _check_space(config: ResolvedConfig) -> None:
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


def _plain(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Plain]:
    """Sections of options as their json holds them."""
    return json.loads(json.dumps(sections))


def _asked_of_start(config: ResolvedConfig) -> dict[str, Plain]:
    """The selectors' options that shaped the start and differ from the defaults: a set that was begun before an option
    existed is still the same set.
    """
    changed: dict[str, Plain] = {}
    for entry in (SELECTORS.get(kind) for kind in config.distill.starts):
        if entry is not None:
            usual = entry.options(SelectConfig())
            changed |= {name: value for name, value in entry.options(config.select).items() if value != usual[name]}
            changed |= pipeline_options(config.select)
    asked: dict[str, Plain] = {"select": changed} if changed else {}
    if config.first:
        usual, first = METHODS.find(config.first.method).options(), config.first.method
        given = asdict(config.options_of(first))
        asked |= {first: {n: v for n, v in given.items() if v != getattr(usual, n)}}
    return asked
