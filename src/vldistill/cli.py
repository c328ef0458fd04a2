"""The command line: ``vldistill STAGE --config FILE --run FOLDER [--section.option VALUE ...]``.

Only the standard library is imported until a stage is known, so that ``--help`` answers at once.
"""

from __future__ import annotations

import difflib
import errno
import glob
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from vldistill import __version__
from vldistill.errors import ConfigError, Stopped, VldistillError, unknown

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from vldistill.config import Config

TOGETHER = ("distill", "experts")  # stages of which several processes can do one piece of work
DONE, BUG, WRONG, STOPPED, SOME_FAILED = 0, 1, 2, 3, 4
TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # of the machine, not of the program

ALIASES = {
    "distill": {
        name: f"distill.{name}"
        for name in ("method", "pairs", "seed", "iterations", "label", "start", "learn", "keep", "optimiser")
    },
    "evaluate": {name: f"evaluate.{name}" for name in ("seeds", "protocol", "recipes")},
    "select": {name: f"select.{name}" for name in ("method", "pairs", "seed")},
}

SECTIONS = ("runtime", "data", "encoder", "experts", "distill", "evaluate", "select")

USAGE = """\
usage: vldistill STAGE [--config FILE] [--run FOLDER] [--section.option VALUE ...]

Distil image-caption data sets into a few hundred synthetic pairs, and measure what they train.

stages:
{stages}

Every stage has its own --help and --print_config. A run folder remembers its configuration, so only the
first stage needs --config. Exit codes: 0 done, 2 wrong use or input, 3 stopped and resumable, 4 some units
(cells of a comparison, experts, ...) failed, 1 a bug.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help"):
        stages = "\n".join(f"  {name:<10}{about}" for name, (about, _) in STAGES.items())
        print(USAGE.format(stages=stages))
        return DONE if argv else WRONG
    if argv[0] == "--version":
        print(f"vldistill {__version__}")
        return DONE
    try:
        if argv[0] not in STAGES:
            raise ConfigError(unknown("stage", argv[0], STAGES))
        if _rank() and argv[0] not in TOGETHER:
            raise ConfigError(
                f"`vldistill {argv[0]}` runs in one process; torchrun is for {' and '.join(TOGETHER)}. Give several "
                f"units to several processes with --workers or --cluster."
            )
        _stop_on_sigterm()
        return STAGES[argv[0]][1](argv[1:])
    except VldistillError as error:
        print(f"error: {_rank()}{error}", file=sys.stderr)
        return WRONG
    except Stopped as stop:
        print(str(stop), file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        return DONE
    except OSError as error:
        if error.errno not in TROUBLE:
            return _bug()
        print(f"error: {error}. Free some space or choose a folder that can be written.", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("stopped; the same command goes on where files are complete.", file=sys.stderr)
        return STOPPED
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else WRONG
    except Exception:
        return _bug()


def _rank() -> str:
    """Which of the processes that torchrun started this is, for messages; empty without it."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ
    return "" if alone else f"process {os.environ['RANK']}: "


def _bug() -> int:
    traceback.print_exc()
    print(f"This is a bug in vldistill {__version__}. Please report it with the lines above.", file=sys.stderr)
    return BUG


def _stop_on_sigterm() -> None:
    from vldistill.interrupts import end_with_parent, stop_at_once

    signal.signal(signal.SIGTERM, stop_at_once)
    end_with_parent()


def packaged_config(path: str) -> str:
    """``path``, or the file of that name that comes with the package, e.g. ``configs/paper/flickr30k.yaml``."""
    folder = Path(__file__).parent / "configs"
    if Path(path).is_file():
        return path
    parts = Path(path).parts
    own = folder.joinpath(*parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-1:])
    if own.is_file():
        return str(own)
    known = [str(file.relative_to(folder)) for file in folder.glob("**/*.yaml")]
    name = own.relative_to(folder)
    raise ConfigError(f"--config: {path} does not exist. " + unknown("packaged configuration", name, known))


def rewrite(stage: str, argv: Sequence[str], lists: Sequence[str] = ()) -> list[str]:
    """Expand short options, find packaged configurations, and accept ``1,2,3`` where a list is meant."""
    out: list[str] = []
    previous = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = ALIASES.get(stage, {}).get(name, name)
            previous = name
            if equals:
                out.append(f"--{name}={_value(name, value, lists)}")
            else:
                out.append(f"--{name}")
        else:
            out.append(_value(previous, word, lists))
            previous = ""
    return out


def _value(name: str, value: str, lists: Sequence[str]) -> str:
    if name == "config":
        return packaged_config(value)
    if name in lists and not value.startswith("["):
        return f"[{value}]"
    return value


def build_parser(stage: str, defaults: str | None) -> tuple[ArgumentParser, list[str], list[str]]:
    """The parser of a stage, the methods' names, and the options that take lists."""
    from jsonargparse import ArgumentParser

    from vldistill import config as configs
    from vldistill.distill.methods import methods

    about = STAGES[stage][0]
    short = ALIASES.get(stage, {})
    epilog = "short forms: " + ", ".join(f"--{a} = --{b}" for a, b in short.items()) if short else None
    parser = ArgumentParser(
        prog=f"vldistill {stage}",
        description=about,
        epilog=epilog,
        default_config_files=[glob.escape(defaults)] if defaults else [],
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file; options on the command line win")
    parser.add_argument("--run", type=str, default=None, help="the run folder")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    sections: dict[str, type] = {name: getattr(configs, f"{name.capitalize()}Config") for name in SECTIONS}
    sections |= {name: entry.options for name, entry in methods().items()}
    for name, cls in sections.items():
        parser.add_class_arguments(cls, name)
    return parser, list(methods()), [name for section, cls in sections.items() for name in _lists(cls, section)]


def _lists(cls: type, prefix: str) -> list[str]:
    """The options of a section that take lists, those of nested sections too."""
    found: list[str] = []
    for name, kind in get_type_hints(cls).items():
        if isinstance(kind, type) and is_dataclass(kind):
            found += _lists(kind, f"{prefix}.{name}")
        elif get_origin(kind) is tuple:
            found.append(f"{prefix}.{name}")
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

    run_config = _run_config(argv)
    parser, method_names, lists = build_parser(stage, run_config)
    if extend:
        extend(parser)
    words = rewrite(stage, argv, lists)
    _refuse_unknown(parser, stage, words)
    try:
        namespace = parser.parse_args(words)
    except ArgumentError as error:
        read = f" (the run's own configuration is {run_config})" if run_config else ""
        raise ConfigError(f"{error}{read} See `vldistill {stage} --help`.") from None
    if namespace.run is None:
        raise ConfigError(f"vldistill {stage} needs --run FOLDER, e.g. --run runs/first.")
    built = parser.instantiate(namespace)
    sections = {name: built[name] for name in SECTIONS}
    return Config(**sections, methods={name: built[name] for name in method_names}), namespace


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


def _run_config(argv: Sequence[str]) -> str | None:
    """The remembered configuration of the run named in ``argv``, unless ``--config`` is given."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if "--config" in words or "--run" not in words:
        return None
    index = words.index("--run") + 1
    path = Path(words[index]) / "config.yaml" if index < len(words) else None
    return str(path) if path and path.is_file() else None


def _add_dry_run(parser: ArgumentParser) -> None:
    parser.add_argument("--dry_run", action="store_true", help="validate, show plan, disk and expected time, and end")


def _plan(stage: str, config: Config, rest: Any) -> int:
    from vldistill.plan import stage_plan

    text, problems = stage_plan(stage, config, Path(rest.run))
    print(text)
    if problems:
        raise ConfigError("; ".join(problems))
    return DONE


def _experts(argv: Sequence[str]) -> int:
    from vldistill.cluster.options import add_place, place_of

    def extend(parser: ArgumentParser) -> None:
        add_place(parser)
        _add_dry_run(parser)

    config, rest = parse("experts", argv, extend)
    place = place_of(rest)
    if rest.dry_run:
        return _plan("experts", config, rest)
    from vldistill import commands
    from vldistill.log import Reporter
    from vldistill.runs import Run

    failed = commands.experts(Run(Path(rest.run)), config, Reporter(quiet=rest.quiet), place)
    return SOME_FAILED if failed else DONE


def _encode(argv: Sequence[str]) -> int:
    from vldistill.cluster.options import add_place, place_of

    def extend(parser: ArgumentParser) -> None:
        add_place(parser)
        parser.add_argument("--decode_only", action="store_true", help="decode the images and leave the rest")

    config, rest = parse("encode", argv, extend)
    place = place_of(rest)
    from vldistill import commands
    from vldistill.log import Reporter
    from vldistill.runs import Run

    failed = commands.encode(Run(Path(rest.run)), config, Reporter(quiet=rest.quiet), place, rest.decode_only)
    return SOME_FAILED if failed else DONE


def _distill(argv: Sequence[str]) -> int:
    def extend(parser: ArgumentParser) -> None:
        parser.add_argument("--experts_from", type=str, default=None, help="another run folder that has the experts")
        _add_dry_run(parser)

    config, rest = parse("distill", argv, extend)
    if rest.dry_run:
        return _plan("distill", config, rest)
    from vldistill import commands
    from vldistill.log import Mute, Reporter
    from vldistill.ranks import joined
    from vldistill.runs import Run

    experts_from = Path(rest.experts_from) if rest.experts_from else None
    with joined() as ranks:
        reporter = Reporter(quiet=rest.quiet) if ranks.first else Mute()
        folder = commands.distill(Run(Path(rest.run)), config, reporter, experts_from, ranks)
    if ranks.first:
        print(folder)
    return DONE


def _select(argv: Sequence[str]) -> int:
    config, rest = parse("select", argv)
    from vldistill import commands
    from vldistill.log import Reporter
    from vldistill.runs import Run

    print(commands.select(Run(Path(rest.run)), config, Reporter(quiet=rest.quiet)))
    return DONE


def _evaluate(argv: Sequence[str]) -> int:
    def extend(parser: ArgumentParser) -> None:
        parser.add_argument(
            "--set", type=str, required=True, help="a set's folder, SELECTOR:N such as random:N, or full"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--val_only", action="store_true", help="one student's mean recall on val; test stays closed"
        )

    config, rest = parse("evaluate", argv, extend)
    from vldistill import commands
    from vldistill.log import Reporter
    from vldistill.report.tables import evaluation_text
    from vldistill.runs import Run

    judge = commands.score if rest.val_only else commands.evaluate
    result = judge(Run(Path(rest.run)), config, Reporter(quiet=rest.quiet), rest.set)
    if rest.val_only and not rest.json:
        print(f"{result['set']}: mean recall on val {result['val_mean_recall']:.2f}")
    elif rest.json:
        import json

        print(json.dumps(result))
    else:
        print(evaluation_text([result]))
    return DONE


def _inspect(argv: Sequence[str]) -> int:
    from vldistill.inspect import inspect

    return inspect(argv)


def _import(argv: Sequence[str]) -> int:
    from vldistill.importers.command import import_command

    return import_command(argv)


def _ls(argv: Sequence[str]) -> int:
    from vldistill.listing import listing

    print(listing(argv))
    return DONE


def _report(argv: Sequence[str]) -> int:
    from vldistill.report.command import report

    return report(argv)


def _compare(argv: Sequence[str]) -> int:
    from vldistill.evaluate.compare import compare

    return compare(argv)


def _cross(argv: Sequence[str]) -> int:
    from vldistill.evaluate.cross import cross

    return cross(argv)


def _demo(argv: Sequence[str]) -> int:
    from vldistill.demo import demo

    return demo(argv)


STAGES: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "experts": ("train experts on the real data and keep their trajectories", _experts),
    "distill": ("distil pairs by a method", _distill),
    "select": ("choose real pairs by a selector (a coreset)", _select),
    "evaluate": ("train fresh students on a set, SELECTOR:N or full, and test them", _evaluate),
    "compare": ("a sweep of methods, budgets, settings, towers and seeds as one table", _compare),
    "cross": ("one set on a list of towers, as one matrix", _cross),
    "encode": ("decode and encode the data once, ahead of the other stages", _encode),
    "report": ("one offline HTML file about a run, or several compared", _report),
    "inspect": ("show what a data source, an experts folder or a set holds", _inspect),
    "import": ("read a distilled set or experts that another code published", _import),
    "ls": ("list methods, selectors, towers, readers, settings or configs", _ls),
    "demo": ("drawn scenes, offline, from nothing to a table in minutes", _demo),
}

if __name__ == "__main__":
    sys.exit(main())
