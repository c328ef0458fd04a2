"""Options from several places over each other, and the configuration that they give."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from functools import cache
from typing import Any

from vldistill.config import Config
from vldistill.config.former import current
from vldistill.config.plain import Plain, Record
from vldistill.config.plain_yaml import check_plain
from vldistill.errors import ConfigError
from vldistill.options.parser import SECTIONS, build_parser, built, section_classes, section_parser
from vldistill.options.vectors import on_vectors
from vldistill.storage.files import digest

WHOLE = ("image", "text")  # sections of ``encoder`` that stand for one tower


def nested(options: Record) -> dict[str, Plain]:
    """``{"distill.image_lr": 1}`` as ``{"distill": {"image_lr": 1}}``; nested ones stay as they are."""
    out: dict[str, Plain] = {}
    for name, value in options.items():
        head, _, tail = str(name).partition(".")
        part = nested({tail: value}) if tail else nested(value) if isinstance(value, Mapping) else value
        out = merged(out, {head: part})
    return out


def merged(*parts: Record) -> dict[str, Plain]:
    """Nested options over each other; the later wins."""
    out: dict[str, Plain] = {}
    for part in parts:
        for name, value in part.items():
            old = out.get(name)
            out[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def on_towers(encoder: Record, towers: Record) -> dict[str, Plain]:
    """Section ``encoder`` with other ``towers``: each is replaced whole, because options of one fit no other."""
    return merged({name: part for name, part in encoder.items() if name not in WHOLE or name not in towers}, towers)


_parser = cache(section_parser)
_SECTIONS: dict[tuple[str, str], Any] = {}
_RESOLVED: dict[str, Config] = {}


def resolved(options: Record, where: str) -> Config:
    """The configuration that nested ``options`` give. Raises ConfigError naming ``where`` they stand."""
    try:
        check_plain(options)
        options = current(options, where)
        key = digest(options)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {str(error) or type(error).__name__}.") from None
    if key not in _RESOLVED:
        try:
            _RESOLVED[key] = _built(options)
        except (ArgumentError, ConfigError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{where}: {error}") from None
    return _RESOLVED[key]


def _built(options: Record) -> Config:
    """The configuration of options by section; equal sections are read once."""
    known = section_classes()
    if options.keys() - known.keys():
        parser, names, _ = build_parser("distill", None)  # names what it does not know
        return built(parser, parser.parse_object(dict(options)), names)
    made = {name: _section(name, options.get(name, {})) for name in known}
    sections = {name: made.pop(name) for name in SECTIONS}
    return on_vectors(Config(**sections, methods=made))


def _section(name: str, options: Plain) -> Any:
    if not isinstance(options, Mapping):
        raise ConfigError(f"{name} is {str(options)[:80]!r}; expected options by name.")
    key = name, digest(options)
    if key not in _SECTIONS:
        parser = _parser(name)
        _SECTIONS[key] = parser.instantiate(parser.parse_object({name: options}))[name]
    return _SECTIONS[key]
