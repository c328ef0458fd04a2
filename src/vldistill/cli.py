"""The command line: ``vldistill STAGE --config FILE --run FOLDER [--section.option VALUE ...]``.

Only the standard library is imported until a stage is known, so that ``--help`` answers at once.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vldistill.errors import ConfigError, Stopped, VldistillError, unknown
from vldistill.options.parser import ABOUT
from vldistill.options.words import parse, refuse_idle_options
from vldistill.version import __version__

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from vldistill.config import Config
    from vldistill.runtime.log import Reporter
    from vldistill.workbench.run_folder import Run

TOGETHER = ("distill", "experts")  # stages of which several processes can do one piece of work
DONE, BUG, WRONG, STOPPED, SOME_FAILED = 0, 1, 2, 3, 4
TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # of the machine, not of the program

USAGE = """\
usage: vldistill STAGE [--config FILE] [--run FOLDER] [--section.option VALUE ...]

Distil image-caption data sets into a few hundred synthetic pairs, and measure what they train.

stages:
{stages}

Every stage has its own --help, and --print_config where it has a configuration. A run folder remembers its
configuration, so only the first stage needs --config. Exit codes: 0 done, 2 wrong use or input, 3 stopped and
resumable, 4 some units (cells of a comparison, experts, ...) failed, 1 a bug.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help"):
        stages = "\n".join(f"  {name:<10}{about}" for name, about in ABOUT.items())
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
        return STAGES[argv[0]](argv[1:])
    except VldistillError as error:
        print(f"error: {_rank()}{error}", file=sys.stderr)
        return WRONG
    except Stopped as stop:
        print(str(stop), file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        return DONE
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # wherever a word or a file names a path
            print(f"error: the name is too long: {str(error.filename)[:200]}. Choose another path.", file=sys.stderr)
            return WRONG
        if error.errno not in TROUBLE:
            return _bug()
        print(f"error: {error}. Free some space or choose a folder that can be written.", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("stopped; the same command goes on where files are complete.", file=sys.stderr)
        return STOPPED
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else WRONG
    except Exception as error:
        if _short_of_memory(error):
            said = str(error).partition("\n")[0][:200] or type(error).__name__
            print(
                f"error: {_rank()}there is too little memory ({said}). Use fewer pairs, a smaller encoder.image.size, "
                f"smaller batches, or another runtime.device. What was saved is kept: the same command goes on.",
                file=sys.stderr,
            )
            return WRONG
        return _bug()


def _short_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from vldistill.runtime.passes import is_short_of_memory

    return isinstance(error, MemoryError) or is_short_of_memory(error)


def _rank() -> str:
    """Which of the processes that torchrun started this is, for messages; empty without it."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ
    return "" if alone else f"process {os.environ['RANK']}: "


def _bug() -> int:
    traceback.print_exc()
    print(f"This is a bug in vldistill {__version__}. Please report it with the lines above.", file=sys.stderr)
    return BUG


def _stop_on_sigterm() -> None:
    from vldistill.runtime.interrupts import end_with_parent, stop_at_once

    signal.signal(signal.SIGTERM, stop_at_once)
    end_with_parent()


def _add_dry_run(parser: ArgumentParser) -> None:
    parser.add_argument("--dry_run", action="store_true", help="validate, show plan, disk and expected time, and end")


def _plan(stage: str, config: Config, rest: Any) -> int:
    from vldistill.plan.plans import stage_plan

    text, problems = stage_plan(stage, config, Path(rest.run), _experts_from(rest))
    print(text)
    if problems:
        raise ConfigError("; ".join(problems))
    return DONE


def _experts_from(rest: Any) -> Path | None:
    """The other run whose experts are used, if the arguments of a stage name one."""
    given = getattr(rest, "experts_from", None)
    return Path(given) if given else None


def _opened(rest: Any, mute: bool = False) -> tuple[Run, Reporter]:
    """The run folder that the arguments of a stage name, and where its lines go."""
    from vldistill.runtime.log import Mute, Reporter
    from vldistill.workbench.run_folder import Run

    return Run(Path(rest.run)), Mute() if mute else Reporter(quiet=rest.quiet)


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

    if _rank():
        from vldistill.runtime.processes import joined

        with joined() as ranks:
            run, reporter = _opened(rest, mute=not ranks.first)
            commands.experts(run, config, reporter, place, ranks)
        return DONE
    run, reporter = _opened(rest)
    failed = commands.experts(run, config, reporter, place)
    return SOME_FAILED if failed else DONE


def _encode(argv: Sequence[str]) -> int:
    from vldistill.cluster.options import add_place, place_of

    def extend(parser: ArgumentParser) -> None:
        add_place(parser)
        parser.add_argument("--decode_only", action="store_true", help="decode the images and leave the rest")

    config, rest = parse("encode", argv, extend)
    place = place_of(rest)
    from vldistill import commands

    run, reporter = _opened(rest)
    failed = commands.encode(run, config, reporter, place, rest.decode_only)
    return SOME_FAILED if failed else DONE


def _distill(argv: Sequence[str]) -> int:
    def extend(parser: ArgumentParser) -> None:
        parser.add_argument("--experts_from", type=str, default=None, help="another run folder, whose experts are used")
        _add_dry_run(parser)

    config, rest = parse("distill", argv, extend)
    refuse_idle_options(argv, config)
    if rest.dry_run:
        return _plan("distill", config, rest)
    from vldistill import commands
    from vldistill.runtime.processes import joined

    with joined() as ranks:
        run, reporter = _opened(rest, mute=not ranks.first)
        folder = commands.distill(run, config, reporter, _experts_from(rest), ranks)
    if ranks.first:
        print(folder)
    return DONE


def _select(argv: Sequence[str]) -> int:
    def extend(parser: ArgumentParser) -> None:
        about = "added to the set's name, to keep variants side by side in one run"
        parser.add_argument("--label", type=str, default="", help=about)

    config, rest = parse("select", argv, extend)
    from vldistill import commands

    run, reporter = _opened(rest)
    print(commands.select(run, config, reporter, rest.label))
    return DONE


def _evaluate(argv: Sequence[str]) -> int:
    def extend(parser: ArgumentParser) -> None:
        parser.add_argument(
            "--set", type=str, required=True, help="a set's folder, SELECTOR:N such as random:N, or full"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--val_only", action="store_true", help="mean recall on val, as distill looks at it; test stays closed"
        )

    config, rest = parse("evaluate", argv, extend)
    from vldistill import commands
    from vldistill.evaluation.tables import evaluation_text

    run, reporter = _opened(rest)
    judge = commands.score if rest.val_only else commands.evaluate
    result = judge(run, config, reporter, rest.set)
    if rest.val_only and not rest.json:
        print(f"{result['set']}: mean recall on val {result['val_mean_recall']:.2f}")
    elif rest.json:
        import json

        print(json.dumps(result))
    else:
        print(evaluation_text([result]))
    return DONE


def _inspect(argv: Sequence[str]) -> int:
    from vldistill.commands.inspect import inspect

    return inspect(argv)


def _import(argv: Sequence[str]) -> int:
    from vldistill.commands.import_published import import_command

    return import_command(argv)


def _convert(argv: Sequence[str]) -> int:
    from vldistill.commands.convert import convert

    return convert(argv)


def _ls(argv: Sequence[str]) -> int:
    from vldistill.commands.ls import listing

    print(listing(argv))
    return DONE


def _report(argv: Sequence[str]) -> int:
    from vldistill.commands.report import report

    return report(argv)


def _compare(argv: Sequence[str]) -> int:
    from vldistill.commands.compare import compare

    return compare(argv)


def _cross(argv: Sequence[str]) -> int:
    from vldistill.commands.cross import cross

    return cross(argv)


def _demo(argv: Sequence[str]) -> int:
    from vldistill.commands.demo import demo

    return demo(argv)


STAGES: dict[str, Callable[[Sequence[str]], int]] = {
    "experts": _experts,
    "distill": _distill,
    "select": _select,
    "evaluate": _evaluate,
    "compare": _compare,
    "cross": _cross,
    "encode": _encode,
    "report": _report,
    "inspect": _inspect,
    "convert": _convert,
    "import": _import,
    "ls": _ls,
    "demo": _demo,
}


def program() -> NoReturn:
    """Run the command and end the process at once: taking torch's modules apart would take seconds more."""
    code = main()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # there may be none, in a daemon
        try:
            stream.flush()
        except BrokenPipeError:
            pass  # nobody reads it any more
        except (OSError, ValueError) as error:
            code = code or WRONG
            if stream is sys.stdout and sys.stderr is not None:
                print(f"error: what was printed cannot be written ({error}).", file=sys.stderr)
    os._exit(code)


if __name__ == "__main__":
    program()
