"""YAML that others wrote, read as plain values: no file makes this program import, build or expand anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.scanner import ScannerError

from vldistill.errors import ConfigError, VldistillError

MOST_BYTES = 300_000  # the largest configuration of this package has 4,000
MOST_DEPTH = 50
MOST_VALUES = 100_000  # with every alias written out
MOST_MERGED = 1000  # keys of a mapping with ``<<``, and mappings that one ``<<`` names
FORBIDDEN = ("class_path", "init_args", "dict_kwargs")  # jsonargparse would import what they name
PLAIN = (str, int, float, bool, type(None))


class _Loader(yaml.SafeLoader):
    """Plain values; dates stay the texts they are, and merge keys cannot multiply without end."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own way
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # PyYAML's name
        """Refuse depth where it begins: PyYAML takes quadratic time on it."""
        self._check_depth(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        """The same for indented blocks."""
        self._check_depth(len(self.indents))
        return super().add_indent(column)

    def _check_depth(self, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise ScannerError(None, None, "it is nested too deeply", self.get_mark())

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merges that bring in too much: each level can multiply the one before."""
        merges = [(key, value) for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        if any(len(value.value) > MOST_MERGED for _, value in merges):
            raise ConstructorError(None, None, "too many merged keys", node.start_mark)
        super().flatten_mapping(node)
        if merges and len(node.value) > MOST_MERGED:
            raise ConstructorError(None, None, "too many merged keys", node.start_mark)


def read_yaml(path: Path, what: str, error: type[VldistillError] = ConfigError) -> Any:
    """The plain values in a YAML file.

    Args:
        path: of the file.
        what: names it in messages, such as ``sweep``.
        error: class of the error that is raised.

    Raises:
        VldistillError: of class ``error``: missing, too large, no UTF-8, no YAML, with tags that build objects,
            nested without end, multiplying itself by aliases, or naming a class to import.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes; expected a configuration of {MOST_BYTES:,} or less")
        return parse_yaml(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        reason = problem.strerror or str(problem)
    except UnicodeDecodeError as problem:
        reason = f"byte {problem.start} is not UTF-8"
    except yaml.YAMLError as problem:
        reason = _first_lines(problem)
    except ValueError as problem:
        reason = _first_lines(problem)
    raise error(f"{what} {path} cannot be read: {reason}. Correct the file.")


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text. Raises ValueError or yaml.YAMLError with the reason."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text):,} characters; expected a configuration of {MOST_BYTES:,} or less")
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (TypeError, AttributeError, KeyError, IndexError, OverflowError) as problem:  # of tags with odd values
        raise ValueError(f"a value is malformed ({problem})") from None
    check_plain(value)
    return value


LARGEST = 2**64


def check_plain(value: Any) -> None:
    """Refuse values that are endless, name a class to import, or are no plain values. Raises ValueError."""
    left, count = [(value, 0)], 0
    while left:
        one, depth = left.pop()
        count += 1
        if count > MOST_VALUES or depth > MOST_DEPTH:
            endless = f"its aliases multiply to more than {MOST_VALUES:,} values"
            raise ValueError(endless if depth <= MOST_DEPTH else "it is nested too deeply")
        if isinstance(one, dict):
            for key, item in one.items():
                if not isinstance(key, PLAIN):
                    raise ValueError(f"a key is {type(key).__name__}; expected a name")
                if key in FORBIDDEN:
                    raise ValueError(f"the key {key!r} names a class to import, which no configuration may")
                left.append((item, depth + 1))
        elif isinstance(one, list | tuple):
            if len(one) + len(left) > MOST_VALUES:
                raise ValueError(f"it has more than {MOST_VALUES:,} values")
            left.extend((item, depth + 1) for item in one)
        elif not isinstance(one, PLAIN):
            raise ValueError(f"a value is {type(one).__name__}; expected numbers, texts, lists and mappings")
        elif isinstance(one, int) and abs(one) > LARGEST:
            raise ValueError(f"a number has {one.bit_length()} bits; expected at most 64")


def _first_lines(problem: Exception) -> str:
    text = re.sub(r"\s+", " ", str(problem)).strip()
    return (text if len(text) <= 200 else text[:199] + "…") or type(problem).__name__
