"""From words on the command line to a configuration: short options, packaged files, lists, and unknown options."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from vldistill.errors import ArtefactError, ConfigError, unknown

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from vldistill.config import Config

ABOUT = {
    "experts": "train experts on the real data and keep their trajectories",
    "distill": "distil pairs by a method",
    "select": "choose real pairs by a selector (a coreset)",
    "evaluate": "train fresh students on a set, SELECTOR:N or full, and test them",
    "compare": "a sweep of methods, budgets, settings, towers and seeds as one table",
    "cross": "one set on a list of towers, as one matrix",
    "encode": "decode and encode the data once, ahead of the other stages",
    "report": "one offline HTML file about a run, or several compared",
    "inspect": "show what a data source, an experts folder or a set holds",
    "convert": "write a data source or a set as WebDataset, Hugging Face dataset, folder or csv",
    "import": "read a distilled set or experts that another code published",
    "ls": "list methods, selectors, towers, readers, settings or configs",
    "demo": "drawn scenes, offline, from nothing to a table in minutes",
}

ALIASES = {
    "distill": {
        name: f"distill.{name}"
        for name in ("method", "pairs", "seed", "iterations", "label", "start", "learn", "keep", "optimiser")
    },
    "evaluate": {name: f"evaluate.{name}" for name in ("seeds", "protocol", "recipes")},
    "select": {name: f"select.{name}" for name in ("method", "pairs", "seed")},
}
ALIASES |= {"demo": ALIASES["distill"] | ALIASES["evaluate"], "cross": ALIASES["evaluate"]}

SECTIONS = ("runtime", "data", "encoder", "experts", "distill", "evaluate", "select")


def packaged_config(path: str, option: str = "--config") -> str:
    """``path``, or the file of that name that comes with the package, e.g. ``configs/paper/flickr30k.yaml``.

    A path into another folder means that file and no packaged one of the same name.

    Args:
        path: as it was given.
        option: by which, for the message.

    Raises:
        ConfigError: neither is there.
    """
    folder = Path(__file__).parent / "configs"
    if Path(path).is_file():
        return path
    name = Path(path).as_posix().removeprefix("configs/")
    known = [file.relative_to(folder).as_posix() for file in folder.glob("**/*.yaml")]
    if name in known:
        return str(folder / name)
    raise ConfigError(f"{option}: {path} does not exist. " + unknown("packaged configuration", name, known))


def rewrite(stage: str, argv: Sequence[str], kinds: Mapping[str, Any]) -> list[str]:
    """Expand short options, find packaged configurations, and accept ``1,2,3`` where a list is meant.

    Args:
        kinds: the type of every option.

    Raises:
        ConfigError: no such configuration, or a number without end.
    """
    out: list[str] = []
    previous = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = ALIASES.get(stage, {}).get(name, name)
            previous = name
            if equals:
                out.append(f"--{name}={_value(name, value, kinds.get(name))}")
            else:
                out.append(f"--{name}")
        else:
            out.append(_value(previous, word, kinds.get(previous)))
            previous = ""
    return out


def _files_first(words: Sequence[str]) -> list[str]:
    """``words`` with every ``--config FILE`` before the options: these win wherever they stand."""
    files: list[str] = []
    others: list[str] = []
    for word in words:
        follows = others[-1:] == ["--config"]
        if follows:
            files += [others.pop(), word]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return files + others


def _value(name: str, value: str, kind: Any) -> str:
    if name == "config":
        from vldistill.config.plain_yaml import read_yaml

        path = packaged_config(value)
        read_yaml(Path(path), "--config")  # jsonargparse says less of what is wrong with a file
        return path
    if {int, float} & {kind, *get_args(kind)}:
        _refuse_endless(name, value)
    if get_origin(kind) is tuple and not value.startswith("["):
        return f"[{value}]"
    return value


def _refuse_endless(name: str, value: str) -> None:
    """Refuse whole numbers that no configuration may hold: as floats they would overflow. Raises ConfigError."""
    from vldistill.config.plain_yaml import LARGEST

    for digits in re.findall(r"(?<![\w.])[+-]?0*(\d{20,})(?![\w.])", value.replace("_", "")):
        if len(digits) > 20 or int(digits) > LARGEST:  # int() refuses thousands of digits
            raise ConfigError(
                f"{name} is {digits[:10]}…, a number of {len(digits)} digits; expected at most {LARGEST}."
            )


def build_parser(stage: str, defaults: str | None) -> tuple[ArgumentParser, list[str], dict[str, Any]]:
    """The parser of a stage, the methods' names, and the type of every option of theirs and of the sections."""
    from jsonargparse import ArgumentParser

    from vldistill import config as configs
    from vldistill.distillation.method import METHODS

    short = ALIASES.get(stage, {})
    epilog = "short forms: " + ", ".join(f"--{a} = --{b}" for a, b in short.items()) if short else None
    parser = ArgumentParser(
        prog=f"vldistill {stage}",
        description=ABOUT[stage],
        epilog=epilog,
        parser_mode=_guarded_mode(),
        default_config_files=[glob.escape(defaults)] if defaults else [],
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file; options on the command line win")
    parser.add_argument("--run", type=str, default=None, help="the run folder")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    sections: dict[str, type] = {name: getattr(configs, f"{name.capitalize()}Config") for name in SECTIONS}
    sections |= {name: entry.options for name, entry in METHODS.items()}
    for name, cls in sections.items():
        parser.add_class_arguments(cls, name)
    kinds = {name: kind for section, cls in sections.items() for name, kind in _kinds(cls, section).items()}
    return parser, list(METHODS), kinds


def _guarded_mode() -> str:
    """jsonargparse's way of reading YAML, behind our own checks: alone, it would import classes that a file names."""
    from jsonargparse import get_loader, set_loader
    from yaml import YAMLError

    from vldistill.config.plain_yaml import parse_yaml

    load = get_loader("yaml")

    def guarded(text: str) -> Any:
        parse_yaml(text)
        return load(text)

    set_loader("vldistill", guarded, exceptions=(YAMLError, ValueError))
    return "vldistill"


def _kinds(cls: type, prefix: str) -> dict[str, Any]:
    """The type of every option of a section, of nested sections too."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(cls).items():
        if isinstance(kind, type) and is_dataclass(kind):
            found |= _kinds(kind, f"{prefix}.{name}")
        else:
            found[f"{prefix}.{name}"] = kind
    return found


def parse(
    stage: str, argv: Sequence[str], extend: Callable[[ArgumentParser], None] | None = None
) -> tuple[Config, Any]:
    """The configuration of a stage and the remaining arguments.

    Values come from the dataclasses' defaults, then the run's own ``config.yaml`` or ``--config``, then the command
    line.
    """
    from argparse import ArgumentError

    from vldistill.config import Config
    from vldistill.config.plain_yaml import read_yaml

    run_config = _run_config(argv)
    if run_config:
        read_yaml(Path(run_config), "the run's own configuration", ArtefactError)
    parser, method_names, kinds = build_parser(stage, run_config)
    if extend:
        extend(parser)
    words = _files_first(rewrite(stage, argv, kinds))
    _refuse_unknown(parser, stage, words)
    try:
        namespace = parser.parse_args(words)
    except (ArgumentError, ValueError, TypeError, RecursionError, OverflowError) as error:
        read = f" The run's own configuration is {run_config}." if run_config else ""
        raise ConfigError(f"{_plain(str(error), kinds)}{read} See `vldistill {stage} --help`.") from None
    for name in (*SECTIONS, *method_names):
        if not hasattr(namespace[name], "items"):
            raise ConfigError(f"{name} is {str(namespace[name])[:80]!r}; expected options by name.")
    if not namespace.run:
        raise ConfigError(f"vldistill {stage} needs --run FOLDER, e.g. --run runs/first.")
    built = parser.instantiate(namespace)
    if run_config is None and not {word.partition("=")[0] for word in words} & {"--config", "--data", "--data.source"}:
        raise ConfigError(
            f"{namespace.run} holds no config.yaml, and no data are named. Correct --run, or begin a run there with "
            f"--config FILE or --data.source PATH (scenes are drawn ones)."
        )
    sections = {name: built[name] for name in SECTIONS}
    return Config(**sections, methods={name: built[name] for name in method_names}), namespace


def _plain(message: str, kinds: Mapping[str, Any]) -> str:
    """A message of the parser about a value, in the words of ours; other messages as they are."""
    from vldistill.config.checks import in_words

    found = re.match(r'Parser key "([^"]+)":', message)
    value = re.search(r"(?:Got|Given) value: (.*)\Z", message, re.DOTALL)
    if not found or not value or found[1] not in kinds:
        return message if message.endswith(".") else f"{message}."
    shown = value[1] if len(value[1]) <= 80 else f"{value[1][:80]}…"
    return f"{found[1]} is {shown!r}; expected {in_words(kinds[found[1]])}."


def _refuse_unknown(parser: ArgumentParser, stage: str, words: Sequence[str]) -> None:
    """Refuse an option that does not exist, naming the nearest ones: the last part of a name is enough to find it."""
    known = sorted({option for action in parser._actions for option in action.option_strings if option != "-h"})
    short = [f"--{name}" for name in ALIASES.get(stage, {})]
    for word in words:
        name = word.partition("=")[0]
        if (
            not name.startswith("--")
            or name in known
            or any(name.startswith(f"{option}.") for option in known if option.endswith(".options"))
        ):
            continue
        tail = name.removeprefix("--").rpartition(".")[2]
        near = difflib.get_close_matches(name, [*known, *short], n=2, cutoff=0.7)
        near += [
            option for option in known if difflib.get_close_matches(tail, [option.rpartition(".")[2]], cutoff=0.85)
        ]
        hint = f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
        raise ConfigError(f"unknown option {name!r}.{hint} See `vldistill {stage} --help`.")


def refuse_idle_options(argv: Sequence[str], config: Config) -> None:
    """Refuse options of a method that is not the one that is taken: they would be ignored.

    Where a method is typed too, a script may set the options of all.

    Raises:
        ConfigError: with both ways out.
    """
    from vldistill.options.resolve import first_method, settle

    if {word.partition("=")[0] for word in argv} & {"--method", "--distill.method"}:
        return
    taken, pairs = settle(config)[0].distill, config.distill.pairs
    why = f"no method is named and {taken.method} is taken for setting {config.encoder.setting} and {pairs} pairs"
    if config.distill.method:
        why = f"the method is {taken.method}"
    for word in argv:
        section, dot, _ = word.removeprefix("--").partition(".")
        if word.startswith("--") and dot and section in config.methods.keys() - {taken.method, first_method(taken)}:
            raise ConfigError(
                f"{word.partition('=')[0]} is an option of {section}, but {why}. Add --method {section}, or leave the "
                f"option out."
            )


def _run_config(argv: Sequence[str]) -> str | None:
    """The remembered configuration of the run named in ``argv``, unless ``--config`` is given."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if "--config" in words or "--run" not in words:
        return None
    index = words.index("--run") + 1
    path = Path(words[index]) / "config.yaml" if index < len(words) else None
    return str(path) if path and path.is_file() else None
