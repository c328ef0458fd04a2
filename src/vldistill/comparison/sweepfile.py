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
from vldistill.distilled.record import plain_name
from vldistill.errors import ConfigError, unknown
from vldistill.options.merge import merged, nested

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
    raw = _read_mapping(path, "sweep")
    for name in raw:
        if name not in KEYS:
            raise ConfigError(f"{path}: {unknown('key', name, KEYS)}")
    where = base or raw.get("base")
    options = _read_mapping(_find(str(where), path, "--base" if base else f"{path}: base"), "base") if where else {}
    options = merged(nested(options), _options(raw.get("set"), f"{path}: set"), overrides or {})
    encoder = options.get("encoder") or {}
    if not isinstance(encoder, Mapping):
        raise ConfigError(f"{path}: encoder is {encoder!r}; expected options, e.g. {{setting: heads}}.")
    settings = _named(raw.get("settings", [encoder.get("setting", "heads")]), f"{path}: settings")
    towers = _named(raw.get("towers", ["own"]), f"{path}: towers")
    for name in towers:
        if not plain_name(name):
            raise ConfigError(f"{path}: towers: {name!r} cannot name towers; expected letters, digits, '_' and '-'.")
    pairs = _numbers(raw.get("pairs", [100]), f"{path}: pairs", 2)
    seeds = _numbers(raw.get("seeds", [0]), f"{path}: seeds", 0)
    methods = {
        label: _method(label, entry, path, settings, towers)
        for label, entry in _named(raw.get("methods", []), f"{path}: methods", dotted=False).items()
    }
    targets = _targets(raw.get("targets", ["random", "full"]), path, settings, towers)
    for label, entry in methods.items():
        budgets = entry.get("pairs", pairs)
        for budget in entry["by_pairs"]:
            if budget not in budgets and not other_pairs:
                raise ConfigError(
                    f"{path}: methods.{label}.by_pairs names {budget}, which is no budget of it; expected some of "
                    f"{', '.join(map(str, budgets))}. Correct it, or add {budget} to pairs."
                )
    if not methods and not targets:
        raise ConfigError(f"{path}: neither methods nor targets; there is nothing to compare.")
    minutes = raw.get("minutes", {})
    minutes = _by_pairs(minutes, f"{path}: minutes") if isinstance(minutes, Mapping) else {None: minutes}
    trials, short = raw.get("trials", 0), raw.get("trial_minutes", 0)
    for name, value in (("trials", trials), ("trial_minutes", short), *(("minutes", v) for v in minutes.values())):
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ConfigError(f"{path}: {name} is {value!r}; expected a number of 0 or more.")
    return Sweep(
        path=path,
        base=options,
        pairs=pairs,
        seeds=seeds,
        settings=settings,
        towers=towers,
        methods=methods,
        targets=targets,
        minutes={key: float(value) for key, value in minutes.items()},
        trial_minutes=float(short),
        trials=int(trials),
        grid=_grid(raw.get("grid", {}), f"{path}: grid"),
    )


def _read_mapping(path: Path, what: str) -> dict[str, Any]:
    read = read_yaml(path, what)
    if not isinstance(read, dict):
        raise ConfigError(f"{what} {path} is not a mapping; expected YAML such as `vldistill compare --help` shows.")
    return read


def _find(base: str, sweep: Path, option: str) -> Path:
    """The base's file: beside the sweep, from here, or packaged; ``option`` names it in the error."""
    from vldistill.options.parser import packaged_config

    beside = sweep.parent / base
    return beside if beside.is_file() else Path(packaged_config(base, option))


def _options(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; expected options, e.g. {{distill: {{iterations: 500}}}}.")
    return nested(value)


def _named(value: Any, where: str, *, dotted: bool = True) -> dict[str, dict[str, Any]]:
    """A list of names, or options by name."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; expected a list of names, or options by name.")
    if dotted:
        return {str(name): _options(options, f"{where}.{name}") for name, options in value.items()}
    return {str(name): dict(_options_as_they_are(entry, f"{where}.{name}")) for name, entry in value.items()}


def _options_as_they_are(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; expected some of {', '.join(METHOD_KEYS)}.")
    return value or {}


def _numbers(value: Any, where: str, least: int) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values):
        raise ConfigError(f"{where} is {value!r}; expected whole numbers of {least} or more, e.g. [{least}, 100].")
    return tuple(values)


def _by_pairs(value: Any, where: str) -> Mapping[int, Any]:
    """A mapping whose keys are budgets."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; expected a mapping by number of pairs, e.g. {{100: ...}}.")
    for key in value:
        if isinstance(key, bool) or not isinstance(key, int):
            raise ConfigError(f"{where} has the key {key!r}; expected a number of pairs without quotes, e.g. 100.")
    return value


def _grid(value: Any, where: str) -> dict[str, Sequence[Any]]:
    if not isinstance(value, Mapping) or not all(isinstance(v, list) and v for v in value.values()):
        raise ConfigError(f"{where} is {value!r}; expected lists by option, e.g. {{distill.image_lr: [0.01, 0.03]}}.")
    return dict(value)


def _method(
    label: str, entry: Mapping[str, Any], path: Path, settings: Mapping[str, Any], towers: Mapping[str, Any]
) -> dict[str, Any]:
    from vldistill.distillation.method import METHODS

    where = f"{path}: methods.{label}"
    for name in entry:
        if name not in METHOD_KEYS:
            raise ConfigError(f"{where}: {unknown('key', name, METHOD_KEYS)}")
    METHODS.find(str(entry.get("method", label)))
    out: dict[str, Any] = {"method": str(entry.get("method", label))}
    out["options"] = _options(entry.get("options"), f"{where}.options")
    by_pairs = _by_pairs(entry.get("by_pairs") or {}, f"{where}.by_pairs")
    out["by_pairs"] = {pairs: _options(part, f"{where}.by_pairs.{pairs}") for pairs, part in by_pairs.items()}
    if "grid" in entry:
        out["grid"] = _grid(entry["grid"], f"{where}.grid")
    return out | _limits(entry, where, settings, towers)


def _targets(
    value: Any, path: Path, settings: Mapping[str, Any], towers: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    if isinstance(value, list) and all(isinstance(target, str) for target in value):
        value = dict.fromkeys(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: targets is {value!r}; expected a list such as [random, full, 'random:1000'].")
    out = {}
    for target, limits in value.items():
        where = f"{path}: targets.{target}"
        if limits is not None and not isinstance(limits, Mapping):
            raise ConfigError(f"{where} is {limits!r}; expected some of {', '.join(TARGET_KEYS)}.")
        for name in limits or {}:
            if name not in TARGET_KEYS:
                raise ConfigError(f"{where}: {unknown('key', name, TARGET_KEYS)}")
        _check_target(str(target), where)
        out[str(target)] = _limits(limits or {}, where, settings, towers)
    return out


def _check_target(target: str, where: str) -> None:
    """Refuse what is neither full, nor SELECTOR or SELECTOR:N, nor the folder of a set."""
    from vldistill.selection.selector import SELECTORS

    name, colon, number = target.partition(":")
    if target == "full" or "/" in target:
        return
    if colon and not (number.isdecimal() and int(number) >= 2):
        raise ConfigError(f"{where}: expected {name}:N with N of 2 or more, e.g. {name}:100.")
    try:
        SELECTORS.find(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error} Or full, or a set's folder (with a '/').") from None


def _limits(
    entry: Mapping[str, Any], where: str, settings: Mapping[str, Any], towers: Mapping[str, Any]
) -> dict[str, Any]:
    """What a row is limited to."""
    out: dict[str, Any] = {}
    for name, least in (("pairs", 2), ("seeds", 0)):
        if name in entry:
            out[name] = _numbers(entry[name], f"{where}.{name}", least)
    for name, known in (("settings", settings), ("towers", towers)):
        if name in entry:
            out[name] = list(entry[name]) if isinstance(entry[name], list) else [entry[name]]
            for one in out[name]:
                if not isinstance(one, str) or one not in known:
                    raise ConfigError(f"{where}.{name}: {unknown(name, str(one), known)}")
    return out
