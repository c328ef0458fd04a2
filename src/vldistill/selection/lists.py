"""Lists of images in files: those to keep, to leave out, or to choose among."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from vldistill.config import expand
from vldistill.data.side_files import IMAGE_COLUMNS, read_table
from vldistill.errors import ConfigError
from vldistill.selection.columns import matched

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def images_in(path: str, names: Sequence[str], option: str) -> np.ndarray:
    """Which images (N,) bool a file names: a table, the ``pairs.json`` of a set, a json list, or a name on each line.

    Args:
        path: of the file, or the folder of a set.
        names: of the images.
        option: for messages.

    Raises:
        ConfigError: a file that cannot be read, names nothing, or names an image that does not exist.
    """
    asked = _names(Path(expand(path)), option)
    if not asked:
        raise ConfigError(f"{option} {path} names no image; expected one on each line.")
    found = matched(asked, names)
    missing = [name for place, name in zip(found.tolist(), asked) if place < 0]
    if missing:
        near = get_close_matches(missing[0], names, n=2, cutoff=0.6)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" Images are named like {names[0]!r}."
        shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise ConfigError(
            f"{option} {path} names {len(missing):,} of {len(asked):,} images that the train split does not have: "
            f"{shown}.{hint} Correct the list."
        )
    chosen = np.zeros(len(names), bool)
    chosen[found] = True
    return chosen


def _names(path: Path, option: str) -> list[str]:
    """The names in a file, in order. Raises ConfigError."""
    path = path / "pairs.json" if path.is_dir() else path
    if path.suffix.lower() in TABLES:
        columns = read_table(path, option)
        key = next((name for name in IMAGE_COLUMNS if name in columns), None) or next(iter(columns), "")
        return [str(name) for name in columns.get(key, []) if str(name).strip()]
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        record = json.loads(text)
        listed = record["pairs"] if isinstance(record, dict) else record
        return [str(one["image"] if isinstance(one, dict) else one) for one in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{option} {path} cannot be read ({reason}); expected a name on each line, a table, or a set's pairs.json."
        ) from None
