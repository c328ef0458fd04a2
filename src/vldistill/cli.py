"""The command line: ``vldistill STAGE --config FILE --run FOLDER [--section.option VALUE ...]``.

Only the standard library is imported until a stage is known, so that ``--help`` answers at once.
"""

from __future__ import annotations

import atexit
import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from vldistill.commands.shared import BUG, DONE, STOPPED, WRONG, process
from vldistill.errors import ConfigError, Stopped, VldistillError, unknown
from vldistill.options.parser import ABOUT
from vldistill.runtime.log import waiting
from vldistill.version import __version__

TOGETHER = ("distill", "experts", "evaluate")  # stages of which several processes can do one piece of work
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
        if process() and argv[0] not in TOGETHER:
            raise ConfigError(
                f"`vldistill {argv[0]}` runs in one process; torchrun is for {', '.join(TOGETHER)}. Give several "
                f"units to several processes with --workers or --cluster."
            )
        _stop_on_sigterm()
        _wait_passively()
        with waiting("loading PyTorch"):
            command = find_command(argv[0])
        return command([_underscored(word) for word in argv[1:]])
    except VldistillError as error:
        print(f"error: {process()}{error}", file=sys.stderr)
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
        print("Stopped. Run the same command to resume; complete files are kept.", file=sys.stderr)
        return STOPPED
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else WRONG
    except Exception as error:
        if _short_of_memory(error):
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            print(
                f"error: {process()}there is too little memory ({reason}). Use fewer pairs, a smaller "
                f"encoder.image.size, smaller batches, or another runtime.device. What was saved is kept: run the "
                f"same command to resume.",
                file=sys.stderr,
            )
            return WRONG
        return _bug()


def _underscored(word: str) -> str:
    """``--dry-run`` as ``--dry_run``: options may be typed with either."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _short_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from vldistill.runtime.micro_batches import is_short_of_memory

    return isinstance(error, MemoryError) or is_short_of_memory(error)


def _bug() -> int:
    traceback.print_exc()
    print(f"This is a bug in vldistill {__version__}. Please report it with the lines above.", file=sys.stderr)
    return BUG


def _wait_passively() -> None:
    """Threads that wait for each other sleep, see ``runtime/threads.py``; OpenMP reads this once, when it is loaded."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _stop_on_sigterm() -> None:
    from vldistill.runtime.interrupts import end_with_parent, stop_at_once

    signal.signal(signal.SIGTERM, stop_at_once)
    end_with_parent()


COMMANDS = {
    **{name: f"vldistill.commands.{name}" for name in ("experts", "distill", "select", "evaluate", "compare", "cross")},
    **{name: f"vldistill.commands.{name}" for name in ("curve", "train", "search", "encode")},
    **{name: f"vldistill.commands.{name}" for name in ("report", "inspect", "convert", "push", "export")},
    "import": "vldistill.commands.import_published",
    **{name: f"vldistill.commands.{name}" for name in ("ls", "demo", "bench")},
}
"""The module of every command; each has ``main(argv) -> exit code``."""


def find_command(name: str) -> Callable[[Sequence[str]], int]:
    """The function of a command: its words in, its exit code out. Raises ConfigError for an unknown name."""
    if name not in COMMANDS:
        raise ConfigError(unknown("command", name, COMMANDS))
    return importlib.import_module(COMMANDS[name]).main


def program() -> NoReturn:
    """Run the command and end the process at once: unloading torch's modules would take seconds more."""
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
