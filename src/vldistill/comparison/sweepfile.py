"""A sweep file: methods x pairs x settings x towers x seeds, and targets, become cells.

    base: configs/flickr8k_heads.yaml       # what every cell shares: any configuration of `vldistill distill`
    set: {evaluate: {seeds: 5}}             # options over the base, nested or dotted
    pairs: [100, 500]
    seeds: [0, 1]                           # of the distillation
    settings: {heads: {}, full: {experts: {count: 4}}}   # or a list; the options belong to the setting
    towers: {own: {}, small: {image: {name: mobilenetv2_050}}}   # parts of `encoder`, image or text replaced whole
    data: {digits: {base: digits.yaml, pairs: [10]}, f8k: {base: flickr8k_heads.yaml, set: {data.views: 3}}}
                                            # several data sets in one table, each with its own base
    methods:
      bitraj: {}
      only images: {method: bitraj, options: {distill.text_lr: 0}, pairs: [100]}
      lors: {by_pairs: {100: {lors.rank: 10}, 500: {lors.rank: 20}}}
    targets: [random, full, herding]        # whatever `evaluate --set` takes; a bare name is taken at every `pairs`;
                                            # random and full where there is no `targets`
    minutes: {100: 10, 500: 20}             # of each distillation, by every budget; or one number; 0, nothing: no limit
    trials: 4                               # options tried per method; the best on val is kept, all are logged
    widen: 2                                # options tried beyond those: past an edge of the grid that is best
    trial_minutes: 2                        # of each trial; the best is then distilled again for `minutes`
    grid: {distill.image_lr: [0.01, 0.03], distill.text_lr: [0.01, 0.03]}   # or `grid` in a method

A method may have its own ``options``, ``by_pairs``, ``grid``, ``pairs``, ``settings``, ``towers``, ``data`` and
``seeds``; a target (``targets: {random: {settings: heads, pairs: [100]}, full: {}}``) its own ``pairs``, ``settings``,
``towers`` and ``data``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vldistill.comparison.sweep import Grid, Ground, Limits, MethodRow, Sweep
from vldistill.config.plain import Plain, Record, section
from vldistill.config.plain_yaml import read_yaml
from vldistill.distillation.method import METHODS
from vldistill.distilled.record import plain_name
from vldistill.errors import ConfigError, unknown
from vldistill.evaluation.chosen import ChosenTarget
from vldistill.options.merge import merged, nested
from vldistill.options.parser import packaged_config
from vldistill.selection.selector import SELECTORS

KEYS = (
    *("base", "set", "data", "pairs", "seeds", "settings", "towers", "methods", "targets"),
    *("minutes", "trials", "widen", "trial_minutes", "grid"),
)
TARGET_KEYS = ("pairs", "settings", "towers", "data")
DATA_KEYS = ("base", "set", "pairs")
Known = Mapping[str, Mapping[str, object]]
METHOD_KEYS = ("method", "options", "by_pairs", "grid", "pairs", "settings", "towers", "data", "seeds")


def read_sweep(
    path: Path, overrides: Record | None = None, base: str | None = None, *, other_pairs: bool = False
) -> Sweep:
    """Read and check a sweep file.

    Args:
        overrides: nested options over those of the file.
        base: another base than the file's.
        other_pairs: whether other budgets replace the file's: ``by_pairs`` may name any.

    Raises:
        ConfigError: the file is missing or malformed; the message names the key and what it takes.
    """
    raw = _entry(_read_mapping(path, "sweep"), str(path), KEYS)
    pairs = _numbers(raw.get("pairs", [100]), f"{path}: pairs", 2)
    data = _grounds(raw, path, overrides or {}, base)
    first = next(iter(data.values())).options
    encoder = _mapping(first.get("encoder") or {}, f"{path}: encoder", "options, e.g. {setting: heads}")
    settings = _sections(raw.get("settings", [encoder.get("setting", "heads")]), f"{path}: settings")
    towers = _sections(raw.get("towers", ["own"]), f"{path}: towers")
    known: Known = {"settings": settings, "towers": towers, "data": data}
    for what, names in (("towers", towers), ("data", data if "data" in raw else ())):
        for name in names:
            if not plain_name(name):
                raise ConfigError(
                    f"{path}: {what}: {name!r} cannot name {what}; expected letters, digits, '_' and '-'."
                )
    budgets = tuple(dict.fromkeys((*pairs, *(number for one in data.values() for number in one.pairs or ()))))
    methods = {
        label: _method(label, entry, f"{path}: methods.{label}", known, None if other_pairs else budgets)
        for label, entry in _named(raw.get("methods", []), f"{path}: methods").items()
    }
    about = "a list such as [random, full, 'random:1000']"
    targets = {
        target: _target(target, limits, f"{path}: targets.{target}", known)
        for target, limits in _listed(raw.get("targets", ["random", "full"]), f"{path}: targets", about).items()
    }
    if not methods and not targets:
        raise ConfigError(f"{path}: no methods and no targets; name at least one.")
    given = raw.get("minutes", {})
    minutes = _by_pairs(given, f"{path}: minutes") if isinstance(given, Mapping) else {None: given}
    return Sweep(
        path=path,
        data=data,
        pairs=pairs,
        seeds=_numbers(raw.get("seeds", [0]), f"{path}: seeds", 0),
        settings=settings,
        towers=towers,
        methods=methods,
        targets=targets,
        minutes={key: _limit(value, f"{path}: minutes") for key, value in minutes.items()},
        trial_minutes=_limit(raw.get("trial_minutes", 0), f"{path}: trial_minutes"),
        trials=int(_limit(raw.get("trials", 0), f"{path}: trials")),
        widen=int(_limit(raw.get("widen", 0), f"{path}: widen")),
        grid=_grid(raw.get("grid", {}), f"{path}: grid"),
    )


def _grounds(raw: Record, path: Path, overrides: Record, base: str | None) -> dict[str, Ground]:
    """What the cells are of, by name: the sweep's base, or each of its ``data``."""
    shared = _options(raw.get("set"), f"{path}: set")
    if "data" not in raw:
        where = base or raw.get("base")
        options = _base(str(where), path, "--base" if base else f"{path}: base") if where else {}
        return {"": Ground(merged(options, shared, overrides))}
    if base or "source" in section(overrides, "data"):
        raise ConfigError(
            f"{path} is of several data sets, each with a base of its own, so --base and --data.source do not fit it. "
            f"Take a sweep of one, or a copy of this one with other data."
        )
    found: dict[str, Ground] = {}
    for name, given in _named(raw["data"], f"{path}: data").items():
        own = _entry(given, f"{path}: data.{name}", DATA_KEYS)
        where = own.get("base", raw.get("base"))
        options = _base(str(where), path, f"{path}: data.{name}.base") if where else {}
        options = merged(options, shared, _options(own.get("set"), f"{path}: data.{name}.set"), overrides)
        budgets = _numbers(own["pairs"], f"{path}: data.{name}.pairs", 2) if "pairs" in own else None
        found[name] = Ground(options, budgets)
    if not found:
        raise ConfigError(f"{path}: data names nothing; expected options by name, or leave it out.")
    return found


def _base(base: str, path: Path, option: str) -> Record:
    return nested(_read_mapping(_find(base, path, option), "base"))


def _read_mapping(path: Path, what: str) -> Record:
    read = read_yaml(path, what)
    if not isinstance(read, dict):
        raise ConfigError(f"{what} {path} is not a mapping; expected YAML such as `vldistill compare --help` shows.")
    return read


def _find(base: str, sweep: Path, option: str) -> Path:
    """The base's file: beside the sweep, from here, or packaged; ``option`` names it in the error."""
    beside = sweep.parent / base
    return beside if beside.is_file() else Path(packaged_config(base, option))


def _mapping(value: Plain, where: str, expected: str) -> Record:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; expected {expected}.")
    return value


def _options(value: Plain, where: str) -> Record:
    return nested(_mapping({} if value is None else value, where, "options, e.g. {distill: {iterations: 500}}"))


def _entry(value: Plain, where: str, keys: Sequence[str]) -> Record:
    """The mapping at ``where``, by some of ``keys``."""
    entry = _mapping({} if value is None else value, where, f"some of {', '.join(keys)}")
    for name in entry:
        if name not in keys:
            raise ConfigError(f"{where}: {unknown('key', name, keys)}")
    return entry


def _listed(value: Plain, where: str, expected: str) -> Record:
    """Entries by name; a list of names gives empty entries."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = {str(name): None for name in value}
    return {str(name): entry for name, entry in _mapping(value, where, expected).items()}


def _named(value: Plain, where: str) -> Record:
    return _listed([value] if isinstance(value, str) else value, where, "a list of names, or options by name")


def _sections(value: Plain, where: str) -> dict[str, Record]:
    return {name: _options(given, f"{where}.{name}") for name, given in _named(value, where).items()}


def _numbers(value: Plain, where: str, least: int) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    numbers = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= least)
    if not numbers or len(numbers) < len(values):
        raise ConfigError(f"{where} is {value!r}; expected whole numbers of {least} or more, e.g. [{least}, 100].")
    return numbers


def _limit(value: Plain, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"{where} is {value!r}; expected a number of 0 or more.")
    return float(value)


def _by_pairs(value: Plain, where: str) -> dict[int, Plain]:
    """A mapping whose keys are budgets."""
    found: dict[int, Plain] = {}
    for key, part in _mapping(value, where, "a mapping by number of pairs, e.g. {100: ...}").items():
        number: Plain = key  # YAML has keys that are not texts
        if isinstance(number, bool) or not isinstance(number, int):
            raise ConfigError(f"{where} has the key {key!r}; expected a number of pairs without quotes, e.g. 100.")
        found[number] = part
    return found


def _grid(value: Plain, where: str) -> Grid:
    lists = value if isinstance(value, Mapping) else {}
    grid = {option: values for option, values in lists.items() if isinstance(values, list) and values}
    if not isinstance(value, Mapping) or len(grid) < len(value):
        raise ConfigError(f"{where} is {value!r}; expected lists by option, e.g. {{distill.image_lr: [0.01, 0.03]}}.")
    return grid


def _method(label: str, value: Plain, where: str, known: Known, pairs: Sequence[int] | None) -> MethodRow:
    """A method's entry; ``pairs`` are the budgets of one that has none of its own, None lets it name any."""
    entry = _entry(value, where, METHOD_KEYS)
    method = str(entry.get("method", label))
    METHODS.find(method)
    options = _options(entry.get("options"), f"{where}.options")
    parts = _by_pairs(entry.get("by_pairs") or {}, f"{where}.by_pairs")
    by_pairs = {budget: _options(part, f"{where}.by_pairs.{budget}") for budget, part in parts.items()}
    grid = _grid(entry["grid"], f"{where}.grid") if "grid" in entry else None
    limits = _limits(entry, where, known)
    budgets = limits.pairs or pairs or ()
    for budget in by_pairs:
        if pairs is not None and budget not in budgets:
            raise ConfigError(
                f"{where}.by_pairs names {budget}, which is not one of its budgets; expected some of "
                f"{', '.join(map(str, budgets))}. Correct it, or add {budget} to pairs."
            )
    return MethodRow(method, options, by_pairs, limits, grid)


def _target(target: str, value: Plain, where: str, known: Known) -> Limits:
    """The limits of full, SELECTOR, SELECTOR:N or the folder of a set; anything else is refused."""
    limits = _limits(_entry(value, where, TARGET_KEYS), where, known)
    if target == "full" or "/" in target:
        return limits
    try:
        _ = ChosenTarget.parse(target) if ":" in target else SELECTORS.find(target)
    except ConfigError as error:
        other = "" if ":" in target else " Or full, or a set's folder (with a '/')."
        raise ConfigError(f"{where}: {error}{other}") from None
    return limits


def _limits(entry: Record, where: str, known: Known) -> Limits:
    """The limits of a row; ``known`` are the sweep's settings, towers and data."""
    return Limits(
        _numbers(entry["pairs"], f"{where}.pairs", 2) if "pairs" in entry else None,
        _numbers(entry["seeds"], f"{where}.seeds", 0) if "seeds" in entry else None,
        _names(entry, "settings", where, known),
        _names(entry, "towers", where, known),
        _names(entry, "data", where, known),
    )


def _names(entry: Record, name: str, where: str, known: Known) -> tuple[str, ...] | None:
    """Some of the sweep's settings, towers or data; None where the row names none."""
    if name not in entry:
        return None
    given = entry[name]
    values = given if isinstance(given, list) else [given]
    for one in values:
        if not isinstance(one, str) or one not in known[name]:
            raise ConfigError(f"{where}.{name}: {unknown(name, str(one), known[name])}")
    return tuple(map(str, values))
