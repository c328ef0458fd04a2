"""``vldistill bench``: what this machine does in a second, in ten minutes at most: a table, and JSON for an issue."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from vldistill.commands.shared import DONE
from vldistill.config import RuntimeConfig
from vldistill.distillation.method import METHODS
from vldistill.errors import ConfigError
from vldistill.measuring.supervise import measure, table
from vldistill.measuring.works import Asked
from vldistill.runtime.devices import choose_device
from vldistill.storage.files import write_json


def main(argv: Sequence[str]) -> int:
    """The command; prints the table, or one JSON object."""
    parser = ArgumentParser(prog="vldistill bench", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which it ends, whatever is running")
    parser.add_argument("--image", type=str, default="mobilenetv2_100", help="the image tower, with random weights")
    parser.add_argument("--sizes", type=str, default="128,224", help="pixels, with commas")
    parser.add_argument("--pairs", type=int, default=20, help="distilled pairs of the methods")
    parser.add_argument("--methods", type=str, default="", help="with commas; all where none is named")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0 leaves torch's choice")
    parser.add_argument("--precision", type=str, default="auto", help="of experts: auto, float32 or bfloat16")
    parser.add_argument("--max_memory", type=str, default="0", help="such as 8GB; 0 is what is free")
    parser.add_argument("--out", type=str, default=None, help="a JSON file to write, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no line for every row as it is measured")
    given = parser.parse_args(list(argv))
    runtime = RuntimeConfig(
        device=given.device, threads=given.threads, precision=given.precision, max_memory=given.max_memory
    )
    asked = Asked(given.image, _sizes(given.sizes), given.pairs, _methods(given.methods), runtime, "")
    if not 0 < given.minutes <= 600:
        raise ConfigError(f"--minutes is {given.minutes:g}; expected more than 0, and at most 600.")
    if given.pairs < 2:
        raise ConfigError(f"--pairs is {given.pairs}; expected at least 2 (one alone has no contrast).")
    choose_device(runtime)
    quiet = given.quiet
    report = measure(asked, given.minutes, lambda text: None if quiet else print(text, file=sys.stderr, flush=True))
    if given.out:
        write_json(Path(given.out), report)
    print(json.dumps(report) if given.json else table(report))
    return DONE


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 16 or max(sizes) > 2048:
        raise ConfigError(f"--sizes is {text!r}; expected pixels from 16 to 2048, with commas, such as 128,224.")
    return tuple(dict.fromkeys(sizes))


def _methods(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in found:
        METHODS.find(name)
    return found
