"""Files of run folders as plain values: one that is missing or damaged becomes a note, not an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from vldistill.config.plain import Plain, Record
from vldistill.config.plain_yaml import parse_yaml

MOST_BYTES = 200_000_000  # of a file; a log of a million iterations has less


def disk_of(folder: Path) -> dict[str, int]:
    """Bytes of a run folder by part; of links nothing."""
    parts = {"experts": 0, "sets": 0, "report": 0, "other": 0}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            part = path.relative_to(folder).parts[0]
            parts[part if part in parts else "other"] += path.stat().st_size
    return parts


def read_text(path: Path, notes: list[str]) -> str:
    """A file as text; empty where it is missing, or with a note where it cannot be read."""
    if not path.exists():
        return ""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read ({error}).")
        return ""


def read_config(text: str, folder: Path, notes: list[str]) -> Record:
    """A run's configuration; empty, with a note, where it is no YAML."""
    try:
        config = parse_yaml(text)
        return config if isinstance(config, Mapping) else {}
    except (yaml.YAMLError, ValueError):
        notes.append(f"{folder / 'config.yaml'} is not YAML that can be read.")
        return {}


def read_mapping(path: Path, notes: list[str]) -> Record:
    """The JSON object in a file; empty where there is none."""
    value = read_plain(path, notes)
    return value if isinstance(value, Mapping) else {}


def read_plain(path: Path, notes: list[str]) -> Plain:
    """The JSON value in a file; None where there is none that can be read."""
    text = read_text(path, notes)
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        notes.append(f"{path} is not readable JSON; it is ignored.")
        return None


def read_lines(path: Path, notes: list[str]) -> list[Record]:
    """A file of one JSON object a line; half a line, left by a crash, is ignored."""
    out = []
    for line in read_text(path, notes).splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            out.append(value)
    return out
