"""Checks that the sections share, and variables in paths."""

from __future__ import annotations

import math
import os
import re
import types
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vldistill.errors import ConfigError

PROMPT, BLANK = "a photo of a {}", "{}"
"""The usual prompt of a class, and where its name stands."""

TypeExpression = type | types.GenericAlias | types.UnionType
"""What a field of a dataclass is annotated with."""


def expand(text: str) -> str:
    """``text`` with ``${VAR}``, ``${VAR:-default}`` and a leading ``~`` filled in. Raises ConfigError if unset."""

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match["name"]) or match["default"]
        if value is None:
            raise ConfigError(f"{text!r} needs the environment variable {match['name']}, which is not set.")
        return value

    if "\0" in text:
        raise ConfigError(f"{text!r} holds a NUL character, which no path or name has.")
    filled = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", fill, text)
    try:
        return str(Path(filled).expanduser()) if filled.startswith("~") else filled
    except RuntimeError:
        raise ConfigError(f"{text!r} names the home folder of a user who does not exist.") from None


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise ConfigError that names the value and what was expected, unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}.")


def check_label(name: str, label: str) -> None:
    """Refuse a label that cannot end the name of a folder. Raises ConfigError."""
    fine = re.fullmatch(r"[\w.-]{0,80}", label, re.ASCII) is not None
    require(fine, name, label, "letters, digits, '_', '.' and '-', at most 80")


def prompt_for(prompt: str, name: str) -> str:
    """A prompt with the name of a class in its place."""
    return prompt.replace(BLANK, name)


def check_prompts(name: str, prompts: Sequence[str]) -> None:
    """Refuse templates of prompts that leave no place for the name of a class, or that come twice."""
    for prompt in prompts:
        require(BLANK in prompt, name, prompt, f"a template with {BLANK} for the name of the class, as {PROMPT!r}")
    require(len({*prompts}) == len(prompts), name, prompts, "templates that differ")


def positive(config: object, section: str, *names: str) -> None:
    """Refuse options of ``section`` that are not above 0, or not finite."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{section}.{name}", value, "a number above 0")


def at_least(least: int, config: object, section: str, *names: str) -> None:
    """Refuse options of ``section`` that are below ``least``, or not finite."""
    for name in names:
        value = getattr(config, name)
        require(least <= value < math.inf, f"{section}.{name}", value, f"{least} or more")


def check_fields(config: Any, section: str) -> None:
    """Refuse values of another type than their field says, negative seeds, and NaN and infinity anywhere in ``config``.

    The command line checks types itself; a section that is built in Python would take ``"float12"`` for a Literal and
    fail hours later, and every comparison lets NaN pass.
    """
    for name, kind in _kinds(type(config)).items():
        value = getattr(config, name)
        require(_fits(value, kind), f"{section}.{name}", value, in_words(kind))
        for number in value if isinstance(value, tuple) else (value,):
            if "seed" in name and name != "seeds":
                require(number >= 0, f"{section}.{name}", value, "a whole number of 0 or more")
            if isinstance(number, float):
                require(math.isfinite(number), f"{section}.{name}", value, "finite numbers")


@cache
def _kinds(cls: type) -> dict[str, TypeExpression]:
    return {
        name: kind for name, kind in get_type_hints(cls).items() if name in getattr(cls, "__dataclass_fields__", {})
    }


def _fits(value: object, kind: TypeExpression) -> bool:
    """Whether a field of type ``kind`` takes ``value``; a whole number will do for a float, a list for a tuple."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if inner[-1] is Ellipsis:
            return all(_fits(one, inner[0]) for one in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    plain = origin or kind
    return isinstance(plain, type) and isinstance(value, plain)


def in_words(kind: TypeExpression) -> str:
    """What a field of type ``kind`` takes, for messages."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(in_words, inner))
    if origin is tuple:
        return f"a list of: {in_words(inner[0])}"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "options by name"}
    return names.get(origin or kind, "null" if kind is type(None) else getattr(kind, "__name__", str(kind)))
