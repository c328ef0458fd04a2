"""Sources of several files: ``shard-{00000..00012}.tar``, ``shard-*.tar``, or the folder with them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from vldistill.data.source import Source
from vldistill.errors import DataError

BRACES = re.compile(r"\{([^{}]*)\}")
SPAN = re.compile(r"(\d+)\.\.(\d+)")
PACKED = (".zip", ".rar", ".7z", ".gz", ".bz2", ".xz", ".zst")
MOST = 1_000_000  # files of one pattern


def files_of(source: Source, suffix: str, inside: tuple[str, ...] = ("",)) -> list[Path]:
    """The files of a source, in order.

    Args:
        source: a file, a pattern, or a folder.
        suffix: of files in a folder.
        inside: folders of a folder that are looked into; ``*`` is any. The first that has files counts.

    Raises:
        DataError: nothing there, or a file of a span that is missing.
    """
    path = source.place
    if path.is_dir():
        for place in inside:
            if found := listed(path, f"{place}/*{suffix}".lstrip("/")):
                return found
        raise DataError(f"the folder {source.path} holds no {suffix} file. Give the folder with them, or a pattern.")
    if path.is_file():
        return [path]
    files: list[Path] = []
    for name in islice(expanded(str(path)), MOST):
        if Path(name).is_file():
            files.append(Path(name))
        elif any(letter in name for letter in "*["):
            place, _, below = name.rpartition("/")
            if any(letter in place for letter in "*["):
                raise DataError(f"{source.text}: * is in the name of a folder; expected it in names of files only.")
            files += listed(Path(place or "."), below)
        else:
            raise DataError(f"{source.text}: {name} does not exist. Correct the path or the pattern.")
    if not files:
        raise DataError(f"{source.text}: no file fits the pattern. Correct it.")
    if len(set(files)) < len(files):
        raise DataError(f"{source.text}: a file fits the pattern twice. Correct it.")
    return files


def listed(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder whose names fit a pattern, sorted; the suffix of a pattern fits in any case."""
    head, dot, suffix = pattern.rpartition(".")
    anyhow = suffix if "[" in suffix else "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in suffix)
    found = folder.glob(f"{head}{dot}{anyhow}")
    return sorted(path for path in found if path.is_file() and not path.name.startswith("._"))


def advice_to_unpack(paths: Iterable[Path]) -> str:
    """The advice to unpack the first archive of a kind that is not looked into; empty without one."""
    found = min((path.name for path in paths if path.name.lower().endswith(PACKED)), default="")
    return f"{found} is packed: unpack it first. " if found else ""


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder in a fixed order; links are followed, and a folder that they reach again is not."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, file) for file in sorted(files))


def expanded(pattern: str) -> Iterator[str]:
    """Every text that a pattern with ``{a,b}`` and ``{000..012}`` means, in order; zeros in front are kept."""
    braces = BRACES.search(pattern)
    if not braces:
        yield pattern
        return
    span = SPAN.fullmatch(braces[1])
    if span:
        first, last = int(span[1]), int(span[2])
        step = 1 if first <= last else -1
        width = len(span[1]) if span[1].startswith("0") or len(span[1]) == len(span[2]) else 0
        choices: Iterator[str] = (f"{number:0{width}d}" for number in range(first, last + step, step))
    else:
        choices = iter(braces[1].split(","))
    for choice in choices:
        yield from expanded(pattern[: braces.start()] + choice + pattern[braces.end() :])
