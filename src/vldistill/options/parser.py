"""The parser of a command's options, and the configurations that come with the package."""

from __future__ import annotations

import copy
import glob
from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from vldistill.config.select import PIPELINE
from vldistill.errors import ConfigError, unknown

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from vldistill.config import Config
    from vldistill.config.checks import TypeExpression


ABOUT = {
    "experts": "train experts on the real data and keep their trajectories",
    "distill": "distil pairs by a method",
    "select": "choose real pairs by a selector (a coreset)",
    "evaluate": "train fresh students on a set, SELECTOR:N or full, and test them",
    "compare": "a sweep of methods, budgets, settings, towers and seeds as one table",
    "curve": "recall against pairs, and how many reach a share of the full data",
    "cross": "one set on a list of towers, as one matrix",
    "train": "train a student on a set and keep it",
    "search": "the photos of a folder that fit a text, by a student",
    "encode": "decode and encode the data once, ahead of the other stages",
    "report": "one offline HTML file about a run, or several compared",
    "inspect": "show what a data source, an experts folder or a set holds",
    "convert": "write a data source or a set as WebDataset, Hugging Face dataset, folder or csv",
    "push": "publish a set on the Hugging Face hub, with its licence",
    "export": "a student for other libraries: onnx or transformers",
    "import": "read a distilled set or experts that another code published",
    "ls": "list methods, selectors, towers, readers, settings or configs",
    "bench": "what this machine does in a second, in ten minutes at most",
    "demo": "drawn scenes, offline, from nothing to a table in minutes",
}


ALIASES = {
    "distill": {
        name: f"distill.{name}"
        for name in ("method", "pairs", "seed", "iterations", "minutes", "label", "start", "learn", "keep", "optimiser")
    },
    "evaluate": {name: f"evaluate.{name}" for name in ("seeds", "protocol", "recipes", "zero_shot")},
    "select": {
        name: f"select.{name}"
        for name in ("method", "pairs", "seed", "match", "budgets", "ids", "weigh", "across", *PIPELINE)
    },
}
EVERYWHERE = {"max_memory": "runtime.max_memory"}
"""Short options of every command that has the sections."""


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
    folder = Path(__file__).parents[1] / "configs"
    if Path(path).is_file():
        return path
    name = Path(path).as_posix().removeprefix("configs/")
    known = [file.relative_to(folder).as_posix() for file in folder.glob("**/*.yaml")]
    if name in known:
        return str(folder / name)
    raise ConfigError(f"{option}: {path} does not exist. " + unknown("packaged configuration", name, known))


def build_parser(stage: str, defaults: str | None) -> tuple[ArgumentParser, list[str], dict[str, TypeExpression]]:
    """The parser of a stage, the methods' names, and the type of every option of theirs and of the sections."""
    from vldistill.config.former import before_it_came
    from vldistill.distillation.method import METHODS

    sections = section_classes()
    parser = copy.deepcopy(_sections_parser(tuple(sections.items())))
    parser.prog, parser.description = f"vldistill {stage}", ABOUT[stage]
    parser.default_config_files = [glob.escape(defaults)] if defaults else []
    if defaults:  # a whole configuration: an option that it lacks came later
        later = {
            f"{name}.{option}": value for name, cls in sections.items() for option, value in before_it_came(cls).items()
        }
        parser.set_defaults(later)
    kinds = {name: kind for section, cls in sections.items() for name, kind in _kinds(cls, section).items()}
    return parser, list(METHODS), kinds


@cache
def _sections_parser(sections: tuple[tuple[str, type], ...]) -> ArgumentParser:
    """The parser of what all stages know, to be copied: reading the signatures takes half of a short command."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(parser_mode=_guarded_mode(), exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file; options on the command line win")
    parser.add_argument("--run", type=str, default=None, help="the run folder")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    parser.add_argument("--log", type=str, default="", help="tensorboard, wandb or mlflow, or several with commas")
    for name, cls in sections:
        parser.add_class_arguments(cls, name)
    return parser


def section_classes() -> dict[str, type]:
    """The dataclass of every section, those of the methods last."""
    from vldistill import config as configs
    from vldistill.distillation.method import METHODS

    sections: dict[str, type] = {name: getattr(configs, f"{name.capitalize()}Config") for name in SECTIONS}
    return sections | {name: entry.options for name, entry in METHODS.items()}


def section_parser(name: str) -> ArgumentParser:
    """A parser of one section alone: a sweep reads hundreds of them, and the whole parser takes half a second each."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(parser_mode=_guarded_mode(), exit_on_error=False)
    parser.add_class_arguments(section_classes()[name], name)
    return parser


def built(parser: ArgumentParser, read: Namespace, methods: Sequence[str]) -> Config:
    """The configuration of what a parser has read. Raises ConfigError for a section that holds no options."""
    from vldistill.config import Config
    from vldistill.options.vectors import on_vectors

    for name in (*SECTIONS, *methods):
        if not hasattr(read[name], "items"):
            raise ConfigError(f"{name} is {str(read[name])[:80]!r}; expected options by name.")
    made = parser.instantiate(read)
    sections = {name: made[name] for name in SECTIONS}
    return on_vectors(Config(**sections, methods={name: made[name] for name in methods}))


def _guarded_mode() -> str:
    """jsonargparse's way of reading YAML, behind our own checks: alone, it would import classes that a file names."""
    from jsonargparse import get_loader, set_loader
    from yaml import YAMLError

    from vldistill.config.former import current
    from vldistill.config.plain_yaml import parse_yaml

    load = get_loader("yaml")

    @lru_cache(maxsize=10_000)  # the same values are read several times in each parse
    def check(text: str) -> None:
        parse_yaml(text)

    def guarded(text: str) -> Any:
        check(text)
        read = load(text)
        return current(read) if isinstance(read, dict) else read

    set_loader("vldistill", guarded, exceptions=(YAMLError, ValueError))
    return "vldistill"


def _kinds(cls: type, prefix: str) -> dict[str, TypeExpression]:
    """The type of every option of a section, of nested sections too."""
    found: dict[str, TypeExpression] = {}
    for name, kind in get_type_hints(cls).items():
        if isinstance(kind, type) and is_dataclass(kind):
            found |= _kinds(kind, f"{prefix}.{name}")
        else:
            found[f"{prefix}.{name}"] = kind
    return found
