"""A sweep file: methods x pairs x settings x towers x seeds, and targets, become cells.

    base: configs/flickr8k_heads.yaml       # what every cell shares: any configuration of `vldistill distill`
    set: {evaluate: {seeds: 5}}             # options over the base, nested or dotted
    pairs: [100, 500]
    seeds: [0, 1]                           # of the distillation
    settings: {heads: {}, full: {experts: {count: 4}}}   # or a list; the options belong to the setting
    towers: {own: {}, small: {image: {name: mobilenetv2_050}}}   # parts of `encoder`, image or text replaced whole
    methods:
      bitraj: {}
      only images: {method: bitraj, options: {distill.text_lr: 0}, pairs: [100]}
      lors: {by_pairs: {100: {lors.rank: 10}, 500: {lors.rank: 20}}}
    targets: [random, full, herding]        # whatever `evaluate --set` takes; a bare name is taken at every `pairs`;
                                            # random and full where there is no `targets`
    minutes: {100: 10, 500: 20}             # of each distillation, by every budget; or one number; 0, nothing: no limit
    trials: 4                               # options tried per method; the best on val is kept, all are logged
    trial_minutes: 2                        # of each trial; the best is then distilled anew for `minutes`
    grid: {distill.image_lr: [0.01, 0.03], distill.text_lr: [0.01, 0.03]}   # or `grid` in a method

A method may have its own ``options``, ``by_pairs``, ``grid``, ``pairs``, ``settings``, ``towers`` and ``seeds``; a
target (``targets: {random: {settings: heads, pairs: [100]}, full: {}}``) its own ``pairs``, ``settings``, ``towers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vldistill.comparison.sweep import Sweep
from vldistill.config.plain_yaml import read_yaml
from vldistill.distillation.method import METHODS
from vldistill.distilled.record import plain_name
from vldistill.errors import ConfigError, unknown
from vldistill.options.merge import merged, nested
from vldistill.options.parser import packaged_config
from vldistill.selection.selector import SELECTORS

KEYS = (
    *("base", "set", "pairs", "seeds", "settings", "towers", "methods", "targets"),
    *("minutes", "trials", "trial_minutes", "grid"),
)
TARGET_KEYS = ("pairs", "settings", "towers")
METHOD_KEYS = ("method", "options", "by_pairs", "grid", "pairs", "settings", "towers", "seeds")


def read_sweep(
    path: Path, overrides: Mapping[str, Any] | None = None, base: str | None = None, *, other_pairs: bool = False
) -> Sweep:
    """Read and check a sweep file.

    Args:
        overrides: nested options over everything that the file says of every cell.
        base: another base than the file's.
        other_pairs: other budgets than the file's are going to take their place: ``by_pairs`` may name any.

    Raises:
        ConfigError: the file is missing or malformed; the message names the key and what it takes.
    """
    raw = _entry(_read_mapping(path, "sweep"), str(path), KEYS)
    where = base or raw.get("base")
    options = _read_mapping(_find(str(where), path, "--base" if base else f"{path}: base"), "base") if where else {}
    options = merged(nested(options), _options(raw.get("set"), f"{path}: set"), overrides or {})
    encoder = _mapping(options.get("encoder") or {}, f"{path}: encoder", "options, e.g. {setting: heads}")
    settings = _sections(raw.get("settings", [encoder.get("setting", "heads")]), f"{path}: settings")
    towers = _sections(raw.get("towers", ["own"]), f"{path}: towers")
    known = {"settings": settings, "towers": towers}
    for name in towers:
        if not plain_name(name):
            raise ConfigError(f"{path}: towers: {name!r} cannot name towers; expected letters, digits, '_' and '-'.")
    pairs = _numbers(raw.get("pairs", [100]), f"{path}: pairs", 2)
    methods = {
        label: _method(label, entry, f"{path}: methods.{label}", known, None if other_pairs else pairs)
        for label, entry in _named(raw.get("methods", []), f"{path}: methods").items()
    }
    about = "a list such as [random, full, 'random:1000']"
    targets = {
        target: _target(target, limits, f"{path}: targets.{target}", known)
        for target, limits in _listed(raw.get("targets", ["random", "full"]), f"{path}: targets", about).items()
    }
    if not methods and not targets:
        raise ConfigError(f"{path}: neither methods nor targets; there is nothing to compare.")
    minutes = raw.get("minutes", {})
    minutes = _by_pairs(minutes, f"{path}: minutes") if isinstance(minutes, Mapping) else {None: minutes}
    return Sweep(
        path=path,
        base=options,
        pairs=pairs,
        seeds=_numbers(raw.get("seeds", [0]), f"{path}: seeds", 0),
        settings=settings,
        towers=towers,
        methods=methods,
        targets=targets,
        minutes={key: _limit(value, f"{path}: minutes") for key, value in minutes.items()},
        trial_minutes=_limit(raw.get("trial_minutes", 0), f"{path}: trial_minutes"),
        trials=int(_limit(raw.get("trials", 0), f"{path}: trials")),
        grid=_grid(raw.get("grid", {}), f"{path}: grid"),
    )


def _read_mapping(path: Path, what: str) -> dict[str, Any]:
    read = read_yaml(path, what)
    if not isinstance(read, dict):
        raise ConfigError(f"{what} {path} is not a mapping; expected YAML such as `vldistill compare --help` shows.")
    return read


def _find(base: str, sweep: Path, option: str) -> Path:
    """The base's file: beside the sweep, from here, or packaged; ``option`` names it in the error."""
    beside = sweep.parent / base
    return beside if beside.is_file() else Path(packaged_config(base, option))


def _mapping(value: Any, where: str, expected: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; expected {expected}.")
    return dict(value)


def _options(value: Any, where: str) -> dict[str, Any]:
    return nested(_mapping({} if value is None else value, where, "options, e.g. {distill: {iterations: 500}}"))


def _entry(value: Any, where: str, keys: Sequence[str]) -> dict[str, Any]:
    """What stands at ``where``, by some of ``keys``."""
    entry = _mapping({} if value is None else value, where, f"some of {', '.join(keys)}")
    for name in entry:
        if name not in keys:
            raise ConfigError(f"{where}: {unknown('key', name, keys)}")
    return entry


def _listed(value: Any, where: str, expected: str) -> dict[str, Any]:
    """What stands by name; nothing for each name of a list."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value)
    return {str(name): entry for name, entry in _mapping(value, where, expected).items()}


def _named(value: Any, where: str) -> dict[str, Any]:
    return _listed([value] if isinstance(value, str) else value, where, "a list of names, or options by name")


def _sections(value: Any, where: str) -> dict[str, dict[str, Any]]:
    return {name: _options(given, f"{where}.{name}") for name, given in _named(value, where).items()}


def _numbers(value: Any, where: str, least: int) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values):
        raise ConfigError(f"{where} is {value!r}; expected whole numbers of {least} or more, e.g. [{least}, 100].")
    return tuple(values)


def _limit(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"{where} is {value!r}; expected a number of 0 or more.")
    return float(value)


def _by_pairs(value: Any, where: str) -> Mapping[int, Any]:
    """A mapping whose keys are budgets."""
    for key in (found := _mapping(value, where, "a mapping by number of pairs, e.g. {100: ...}")):
        if isinstance(key, bool) or not isinstance(key, int):
            raise ConfigError(f"{where} has the key {key!r}; expected a number of pairs without quotes, e.g. 100.")
    return found


def _grid(value: Any, where: str) -> dict[str, Sequence[Any]]:
    if not isinstance(value, Mapping) or not all(isinstance(v, list) and v for v in value.values()):
        raise ConfigError(f"{where} is {value!r}; expected lists by option, e.g. {{distill.image_lr: [0.01, 0.03]}}.")
    return dict(value)


def _method(
    label: str, value: Any, where: str, known: Mapping[str, Mapping[str, Any]], pairs: Sequence[int] | None
) -> dict[str, Any]:
    """A method's entry; ``pairs`` are the budgets of one that has none of its own, None lets it name any."""
    entry = _entry(value, where, METHOD_KEYS)
    out: dict[str, Any] = {"method": str(entry.get("method", label))}
    METHODS.find(out["method"])
    out["options"] = _options(entry.get("options"), f"{where}.options")
    by_pairs = _by_pairs(entry.get("by_pairs") or {}, f"{where}.by_pairs")
    out["by_pairs"] = {budget: _options(part, f"{where}.by_pairs.{budget}") for budget, part in by_pairs.items()}
    if "grid" in entry:
        out["grid"] = _grid(entry["grid"], f"{where}.grid")
    out |= _limits(entry, where, known)
    budgets = out.get("pairs", pairs)
    for budget in by_pairs:
        if pairs is not None and budget not in budgets:
            raise ConfigError(
                f"{where}.by_pairs names {budget}, which is no budget of it; expected some of "
                f"{', '.join(map(str, budgets))}. Correct it, or add {budget} to pairs."
            )
    return out


def _target(target: str, value: Any, where: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The limits of full, SELECTOR, SELECTOR:N or the folder of a set; anything else is refused."""
    limits = _limits(_entry(value, where, TARGET_KEYS), where, known)
    name, colon, number = target.partition(":")
    if target == "full" or "/" in target:
        return limits
    if colon and not (number.isdecimal() and int(number) >= 2):
        raise ConfigError(f"{where}: expected {name}:N with N of 2 or more, e.g. {name}:100.")
    try:
        SELECTORS.find(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error} Or full, or a set's folder (with a '/').") from None
    return limits


def _limits(entry: Mapping[str, Any], where: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a row is limited to; ``known`` are the sweep's settings and towers."""
    out: dict[str, Any] = {}
    for name, least in (("pairs", 2), ("seeds", 0)):
        if name in entry:
            out[name] = _numbers(entry[name], f"{where}.{name}", least)
    for name, names in known.items():
        if name in entry:
            out[name] = list(entry[name]) if isinstance(entry[name], list) else [entry[name]]
            for one in out[name]:
                if not isinstance(one, str) or one not in names:
                    raise ConfigError(f"{where}.{name}: {unknown(name, str(one), names)}")
    return out
