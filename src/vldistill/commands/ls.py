"""``vldistill ls methods|selectors|towers|readers|settings|configs``: what there is to choose from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path

from vldistill.config import SETTINGS
from vldistill.errors import ConfigError, unknown


def main(argv: Sequence[str]) -> int:
    """The command; prints one listing."""
    print(listing(argv))
    return 0


def listing(argv: Sequence[str]) -> str:
    """The text of one listing; a second word filters by pattern, e.g. ``ls towers '*nf*'``."""
    if argv and argv[0] in ("-h", "--help"):
        return f"usage: vldistill ls {{{','.join(KINDS)}}} [PATTERN]\n\n{__doc__}"
    if not argv or len(argv) > 2:
        raise ConfigError(f"vldistill ls takes one of {', '.join(KINDS)}, and perhaps a pattern.")
    if argv[0] not in KINDS:
        raise ConfigError(unknown("listing", argv[0], KINDS))
    pattern = argv[1] if len(argv) > 1 else "*"
    rows = [(name, about) for name, about in KINDS[argv[0]](pattern) if fnmatch(name, pattern)]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {about}".rstrip() for name, about in rows)


def _methods(pattern: str) -> list[tuple[str, str]]:
    from vldistill.distillation.method import METHODS

    rows = []
    for name, entry in METHODS.items():
        options = ", ".join(f"{field.name}={getattr(entry.options(), field.name)}" for field in fields(entry.options))
        own = ", ".join(f"distill.{option.name}={getattr(entry.outer, option.name)}" for option in fields(entry.outer))
        rows.append((name, f"{entry.summary} Options: {options}. Outer loop: {own}."))
    return rows


def _selectors(pattern: str) -> list[tuple[str, str]]:
    from vldistill.selection.selector import SELECTORS, WARMUP

    rows = []
    for name, entry in SELECTORS.items():
        seed = "New pairs for each seed." if entry.drawn else "The same pairs for every seed."
        shared = ["select.warmup_*"] if set(WARMUP) <= set(entry.reads) else []
        options = ", ".join(shared + [f"select.{option}" for option in entry.reads if option not in WARMUP])
        rows.append((name, f"{entry.summary} {seed}{f' Options: {options}.' if options else ''}"))
    return rows


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


KINDS: dict[str, Callable[[str], list[tuple[str, str]]]] = {
    "methods": _methods,
    "selectors": _selectors,
    "towers": _towers,
    "readers": _readers,
    "settings": _settings,
    "configs": _configs,
}
