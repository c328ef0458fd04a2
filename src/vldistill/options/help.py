"""``--help`` of a stage in two screens; ``--help SECTION`` and ``--help all`` show the rest."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vldistill.errors import ConfigError, unknown
from vldistill.options.parser import ABOUT, ALIASES

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COLUMN = 26  # where descriptions begin
DATA = ("data.source", "data.strict")
TOWERS = ("encoder.setting", "encoder.image.name", "encoder.text.name", "runtime.device")
COMMON: Mapping[str, tuple[str, ...]] = {
    "encode": (*DATA, *TOWERS),
    "experts": (*DATA, *TOWERS, "experts.count", "experts.epochs", "experts.batch", "experts.image_rate"),
    "distill": (
        *("distill.method", "distill.pairs", "distill.iterations", "distill.minutes", "distill.seed", "distill.label"),
        *("distill.start", "distill.space", "distill.size", "distill.captions", "distill.validate_every"),
        *("distill.image_lr", "distill.text_lr", *DATA, *TOWERS),
    ),
    "select": ("select.method", "select.pairs", "select.seed", *DATA, *TOWERS),
    "evaluate": ("evaluate.seeds", "evaluate.protocol", "evaluate.recipes", "select.seed", *DATA, *TOWERS),
    "cross": ("evaluate.seeds", "evaluate.protocol", "evaluate.recipes", "runtime.device"),
    "curve": ("evaluate.seeds", "evaluate.trials", "evaluate.protocol", "runtime.device"),
    "demo": ("distill.method", "distill.pairs", "distill.iterations", "evaluate.seeds", "runtime.device"),
}
"""The options that most users set, by stage; those of the command itself are always shown."""

EXAMPLES: Mapping[str, str] = {
    "encode": "vldistill encode --run runs/mine --data.source photos/captions.csv",
    "experts": "vldistill experts --config photos.yaml --run runs/mine --experts.count 4",
    "distill": "vldistill distill --config photos.yaml --run runs/mine --pairs 100",
    "select": "vldistill select --run runs/mine --method kmeans --pairs 100",
    "evaluate": "vldistill evaluate --run runs/mine --set runs/mine/sets/bilevel-100-s0",
    "cross": "vldistill cross --run runs/mine --set bilevel-100-s0 --towers towers.yaml",
    "curve": "vldistill curve --run runs/mine --budgets 20,50,100 --selectors random,kmeans",
    "demo": "vldistill demo --run runs/demo",
}


def wanted_topic(argv: Sequence[str]) -> str | None:
    """What follows ``--help``: empty for the common options; None where no help is wanted."""
    for word, following in zip(argv, (*argv[1:], "")):
        name, _, value = word.partition("=")
        if name in ("-h", "--help"):
            return value or ("" if following.startswith("-") else following)
    return None


def help_text(stage: str, topic: str, parser: ArgumentParser, sections: Sequence[str]) -> str:
    """The help of a stage.

    Args:
        topic: empty for the common options, the name of a section or method, or ``all``.
        parser: of the stage, with all its options.
        sections: that a topic can name.

    Raises:
        ConfigError: another topic.
    """
    options = {action.dest: action for action in parser._actions if action.option_strings}
    if topic == "all":
        parts = {name: [dest for dest in options if dest.startswith(f"{name}.")] for name in sections}
    elif topic in sections:
        parts = {topic: [dest for dest in options if dest.startswith(f"{topic}.")]}
    elif topic:
        raise ConfigError(unknown("help topic", topic, (*sections, "all")))
    else:
        parts = {"common options": [dest for dest in COMMON[stage] if dest in options]}
    own = [dest for dest in options if "." not in dest and dest not in (*sections, "help")]
    if topic not in sections:
        parts = {"command": own, **parts}
    short = {full: f"--{alias}" for alias, full in ALIASES.get(stage, {}).items()}
    about = f"{ABOUT[stage][0].upper()}{ABOUT[stage][1:]}."
    lines = [f"usage: vldistill {stage} [options]", "", about, "", f"example: {EXAMPLES[stage]}"]
    for title, found in parts.items():
        lines += ["", f"{title}:"]
        for dest in found:
            lines += _described(options[dest], short.get(dest, ""), brief=not topic)
    if not topic:
        more = (
            f"All options: vldistill {stage} --help all. Those of one section or method: --help NAME, with NAME one of"
        )
        lines += ["", *textwrap.wrap(f"{more} {', '.join(sections)}.", _width())]
    return "\n".join(lines)


def _described(action: argparse.Action, short: str, brief: bool) -> list[str]:
    """The lines of one option: its name, default and meaning; of a brief one the first sentence alone."""
    name = short if short and brief else ", ".join((*([short] if short else []), action.option_strings[-1]))
    text = (action.help or "").replace("``", "").replace("%%", "%")
    if brief:
        text = re.split(r"(?<=[\w)])[.;:] ", text, maxsplit=1)[0].rstrip(".")
    if action.default is not None and action.default not in ("", (), argparse.SUPPRESS) and action.default is not False:
        text += f" (default: {action.default})"
    head = f"  {name} ".ljust(COLUMN)
    if len(head) > COLUMN:
        head = f"{head}\n{' ' * COLUMN}"
    wrapped = textwrap.wrap(" ".join(text.split()), max(30, _width() - COLUMN)) or [""]
    return [f"{head}{wrapped[0]}", *(" " * COLUMN + line for line in wrapped[1:])]


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)
