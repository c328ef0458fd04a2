"""From words on the command line to a configuration: short options, packaged files, lists, and unknown options."""

from __future__ import annotations

import difflib
import json
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_origin

from vldistill.config.checks import TypeExpression, in_words
from vldistill.config.former import successor
from vldistill.config.plain_yaml import LARGEST, read_yaml
from vldistill.errors import ArtefactError, ConfigError
from vldistill.options.help import help_text, wanted_topic
from vldistill.options.parser import ALIASES, EVERYWHERE, SECTIONS, build_parser, built, packaged_config

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from vldistill.config import Config
    from vldistill.options.resolve import ResolvedConfig


ONE_TEXT = ("data.prompts", "evaluate.zero_shot", "evaluate.zero_shot_prompts")
"""Lists of texts that may hold commas: a word alone is one text."""

ALIASES |= {"demo": ALIASES["distill"] | ALIASES["evaluate"], "cross": ALIASES["evaluate"]}


def rewrite(stage: str, argv: Sequence[str], kinds: Mapping[str, TypeExpression]) -> list[str]:
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
            previous = name = (EVERYWHERE | ALIASES.get(stage, {})).get(name, name)
            out.append(f"--{name}={_value(name, value, kinds.get(name))}" if equals else f"--{name}")
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


def _value(name: str, value: str, kind: TypeExpression | None) -> str:
    if name == "config":
        path = packaged_config(value)
        read_yaml(Path(path), "--config")  # jsonargparse says less of what is wrong with a file
        return path
    if {int, float} & {kind, *get_args(kind)}:
        _refuse_endless(name, value)
    if get_origin(kind) is tuple and not value.startswith("["):
        return json.dumps([value], ensure_ascii=False) if name in ONE_TEXT else f"[{value}]"
    return value


def _refuse_endless(name: str, value: str) -> None:
    """Refuse whole numbers that no configuration may hold: as floats they would overflow. Raises ConfigError."""
    for digits in re.findall(r"(?<![\w.])[+-]?0*(\d{20,})(?![\w.])", value.replace("_", "")):
        if len(digits) > 20 or int(digits) > LARGEST:  # int() refuses thousands of digits
            raise ConfigError(
                f"{name} is {digits[:10]}…, a number of {len(digits)} digits; expected at most {LARGEST}."
            )


def parse(
    stage: str, argv: Sequence[str], extend: Callable[[ArgumentParser], None] | None = None
) -> tuple[Config, Namespace]:
    """The configuration of a stage and the remaining arguments.

    Values come from the dataclasses' defaults, then the run's own ``config.yaml`` or ``--config``, then the command
    line.
    """
    run_config = _run_config(argv)
    if run_config:
        read_yaml(Path(run_config), "the run's own configuration", ArtefactError)
    parser, methods, kinds = build_parser(stage, run_config)
    if extend:
        extend(parser)
    if (topic := wanted_topic(argv)) is not None:
        print(help_text(stage, topic, parser, (*SECTIONS, *methods)))
        raise SystemExit(0)
    words = _files_first(rewrite(stage, argv, kinds))
    _refuse_unknown(parser, stage, words)
    try:
        namespace = parser.parse_args(words)
    except (ArgumentError, ValueError, TypeError, RecursionError, OverflowError) as error:
        read = f" The run's own configuration is {run_config}." if run_config else ""
        raise ConfigError(f"{_plain(str(error), kinds)}{read} See `vldistill {stage} --help`.") from None
    if not namespace.run:
        raise ConfigError(f"vldistill {stage} needs --run FOLDER, e.g. --run runs/first.")
    config = built(parser, namespace, methods)
    if run_config is None and not {word.partition("=")[0] for word in words} & {"--config", "--data", "--data.source"}:
        raise ConfigError(
            f"{namespace.run} holds no config.yaml, and no data are named. Correct --run, or begin a run there with "
            f"--config FILE or --data.source PATH (scenes are drawn ones)."
        )
    return config, namespace


def _plain(message: str, kinds: Mapping[str, TypeExpression]) -> str:
    """A message of the parser about a value, in the words of ours; other messages as they are."""
    found = re.match(r'Parser key "([^"]+)":', message)
    value = re.search(r"(?:Got|Given) value: (.*)\Z", message, re.DOTALL)
    if not found or not value or found[1] not in kinds:
        return message if message.endswith(".") else f"{message}."
    shown = value[1] if len(value[1]) <= 80 else f"{value[1][:80]}…"
    return f"{found[1]} is {shown!r}; expected {in_words(kinds[found[1]])}."


def _refuse_unknown(parser: ArgumentParser, stage: str, words: Sequence[str]) -> None:
    """Refuse an option that does not exist, naming the nearest ones: the last part of a name is enough to find it."""
    known = sorted({option for action in parser._actions for option in action.option_strings if option != "-h"})
    short = [f"--{name}" for name in (*ALIASES.get(stage, {}), *EVERYWHERE)]
    for word in words:
        name = word.partition("=")[0]
        if (
            not name.startswith("--")
            or name in known
            or any(name.startswith(f"{option}.") for option in known if option.endswith(".options"))
        ):
            continue
        if became := successor(name.removeprefix("--")):
            raise ConfigError(f"unknown option {name!r}: {became}")
        tail = name.removeprefix("--").rpartition(".")[2]
        near = difflib.get_close_matches(name, [*known, *short], n=2, cutoff=0.7)
        near += [
            option for option in known if difflib.get_close_matches(tail, [option.rpartition(".")[2]], cutoff=0.85)
        ]
        hint = f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
        raise ConfigError(f"unknown option {name!r}.{hint} See `vldistill {stage} --help`.")


def refuse_idle_options(argv: Sequence[str], config: ResolvedConfig) -> None:
    """Refuse options of a method that is not the one that is taken: they would be ignored.

    Where a method is typed too, a script may set the options of all.

    Raises:
        ConfigError: with both ways out.
    """
    if {word.partition("=")[0] for word in argv} & {"--method", "--distill.method"}:
        return
    taken, first = config.distill, config.first
    why = f"no method is named and {taken.method} is taken for setting {config.encoder.setting} and {taken.pairs} pairs"
    if config.given.distill.method:
        why = f"the method is {taken.method}"
    used = {taken.method, first.method if first else ""}
    for word in argv:
        section, dot, _ = word.removeprefix("--").partition(".")
        if word.startswith("--") and dot and section in config.methods.keys() - used:
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
