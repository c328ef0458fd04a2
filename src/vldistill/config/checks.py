"""Checks that the sections share, and variables in paths."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from vldistill.errors import ConfigError


def expand(text: str) -> str:
    """``text`` with ``${VAR}``, ``${VAR:-default}`` and a leading ``~`` filled in. Raises ConfigError if unset."""

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match["name"]) or match["default"]
        if value is None:
            raise ConfigError(f"{text!r} needs the environment variable {match['name']}, which is not set.")
        return value

    filled = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", fill, text)
    return str(Path(filled).expanduser()) if filled.startswith("~") else filled


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise ConfigError that names the value and what was expected, unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}.")


def positive(config: object, section: str, *names: str) -> None:
    """Refuse options of ``section`` that are not above 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name}", value, "a number above 0")


def finite(config: object, section: str) -> None:
    """Refuse NaN and infinity anywhere in ``config``: every later comparison would let them pass."""
    for name, value in vars(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                require(math.isfinite(number), f"{section}.{name}", value, "finite numbers")
