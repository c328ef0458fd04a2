"""``vldistill ls methods|selectors|filters|duplicates|towers|readers|settings|configs``: what there is."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path

from vldistill.config import SETTINGS
from vldistill.errors import ConfigError, unknown


def main(argv: Sequence[str]) -> int:
    """The command; prints one listing."""
    words = [word for word in argv if word != "--json"]
    print(listing(words, as_json=len(words) < len(argv)))
    return 0


def listing(argv: Sequence[str], as_json: bool = False) -> str:
    """The text of one listing.

    A second word filters by pattern, e.g. ``ls towers '*nf*'``; a whole name shows options too: ``ls methods bitraj``.
    """
    if argv and argv[0] in ("-h", "--help"):
        return f"usage: vldistill ls {{{','.join(KINDS)}}} [PATTERN] [--json]\n\n{__doc__}"
    if not argv or len(argv) > 2:
        raise ConfigError(f"vldistill ls takes one of {', '.join(KINDS)}, and perhaps a pattern.")
    if argv[0] not in KINDS:
        raise ConfigError(unknown("listing", argv[0], KINDS))
    pattern = argv[1] if len(argv) > 1 else "*"
    rows = [(name, about) for name, about in KINDS[argv[0]](pattern) if fnmatch(name, pattern)]
    if as_json:
        more = DETAILS.get(argv[0])
        found = [
            {"name": name, "about": about} | ({"details": more(name).strip().splitlines()} if more else {})
            for name, about in rows
        ]
        return json.dumps(found, ensure_ascii=False)
    if argv[1:] and argv[0] in DETAILS and [name for name, _ in rows] == [pattern]:
        return f"{rows[0][1]}\n{DETAILS[argv[0]](pattern)}"
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(_row(name.ljust(width), about) for name, about in rows)


def _row(name: str, about: str) -> str:
    """One row; on a terminal wrapped to its width, elsewhere one line."""
    if not (sys.stdout and sys.stdout.isatty()):
        return f"{name}  {about}".rstrip()
    width = max(shutil.get_terminal_size().columns, len(name) + 40)
    return textwrap.fill(about, width, initial_indent=f"{name}  ", subsequent_indent=" " * (len(name) + 2))


def _methods(pattern: str) -> list[tuple[str, str]]:
    from vldistill.distillation.method import METHODS

    return [(name, entry.summary) for name, entry in METHODS.items()]


def _method(name: str) -> str:
    """Defaults of a method's options and of its outer loop, one a line."""
    from vldistill.distillation.method import METHODS

    entry = METHODS.find(name)
    options = {f"{name}.{key}": value for key, value in vars(entry.options()).items()}
    options |= {f"distill.{key}": value for key, value in vars(entry.outer).items()}
    return "\n".join(f"  {key}={value}" for key, value in options.items())


def _selectors(pattern: str) -> list[tuple[str, str]]:
    from vldistill.selection.selector import SELECTORS

    return [(name, entry.summary) for name, entry in SELECTORS.items()]


def _filters(pattern: str) -> list[tuple[str, str]]:
    from vldistill.selection.filter import FILTERS
    from vldistill.selection.pipeline import PRESETS

    presets = [(name, f"preset: {', '.join(filters)}") for name, filters in PRESETS.items()]
    return [
        (name, f"of a{'n' if entry.of == 'image' else ''} {entry.of}: {entry.summary}")
        for name, entry in FILTERS.items()
    ] + presets


def _duplicates(pattern: str) -> list[tuple[str, str]]:
    from vldistill.selection.duplicate import DETECTORS

    usual = {
        name: f" Usual threshold {entry.threshold:g}: {entry.unit}."
        for name, entry in DETECTORS.items()
        if entry.threshold is not None
    }
    return [(name, entry.summary + usual.get(name, "")) for name, entry in DETECTORS.items()]


def _selector(name: str) -> str:
    """Whether the pairs depend on the seed, and the options that are read."""
    from vldistill.selection.selector import SELECTORS

    entry = SELECTORS.find(name)
    seed = "New pairs for each seed." if entry.drawn else "The same pairs for every seed."
    return "\n".join((f"  {seed}", *(f"  select.{option}" for option in entry.reads)))


def _towers(pattern: str) -> list[tuple[str, str]]:
    from vldistill.encoders.image_towers import NAMED_IMAGE_TOWERS, OFFLINE_IMAGE_TOWERS
    from vldistill.encoders.text_towers import OFFLINE_TEXT_TOWERS

    rows = [(name, f"image tower: {about}") for name, about in OFFLINE_IMAGE_TOWERS.items()]
    rows += [(name, f"image tower: timm's {base} with {about}") for name, (base, about) in NAMED_IMAGE_TOWERS.items()]
    rows += [(name, f"text tower: {about}") for name, about in OFFLINE_TEXT_TOWERS.items()]
    if pattern == "*":
        rows += [
            ("NAME", "image tower: any of timm's models; list them with a pattern, e.g. vldistill ls towers '*nf*'"),
            ("NAME or FOLDER", "text tower: any encoder of transformers, from the hub or a local folder"),
            ("open_clip:MODEL", "image or text tower: a side of CLIP, e.g. open_clip:ViT-B-32 (extra clip)"),
        ]
    else:
        import timm

        rows += [(name, "image tower of timm") for name in timm.list_models(pattern)]
    return rows


def _readers(pattern: str) -> list[tuple[str, str]]:
    from vldistill.data.reader import READERS

    return [(name, entry.summary) for name, entry in READERS.items()]


def _settings(pattern: str) -> list[tuple[str, str]]:
    return list(SETTINGS.items())


def _configs(pattern: str) -> list[tuple[str, str]]:
    folder = Path(__file__).parents[1] / "configs"
    paths = sorted(folder.glob("**/*.yaml"))
    return [(f"configs/{path.relative_to(folder)}", _about(path.read_text(encoding="utf-8"))) for path in paths]


def _about(text: str, most: int = 140) -> str:
    """What a configuration says of itself below its command: its first sentence, and more while they fit ``most``."""
    block = takewhile(lambda line: line.startswith("#"), text.splitlines()[1:])
    first, *others = re.split(r"(?<=\.) (?=[A-Z])", " ".join(line[1:].strip() for line in block))
    for sentence in others:
        if len(first) + 1 + len(sentence) > most:
            break
        first += f" {sentence}"
    return first


DETAILS: dict[str, Callable[[str], str]] = {"methods": _method, "selectors": _selector}
"""What is shown beside the description where a whole name is given."""
KINDS: dict[str, Callable[[str], list[tuple[str, str]]]] = {
    "methods": _methods,
    "selectors": _selectors,
    "filters": _filters,
    "duplicates": _duplicates,
    "towers": _towers,
    "readers": _readers,
    "settings": _settings,
    "configs": _configs,
}
