"""``vldistill inspect PATH``: describe a data source, an experts folder, a set or a run.

The exit code is 2 when anything is broken, even one photo; other stages leave such photos out and continue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from vldistill.api.inspection import describe
from vldistill.config.plain import Plain, Record, items, number
from vldistill.errors import ConfigError
from vldistill.runtime.log import Reporter
from vldistill.storage.files import human_bytes

__all__ = ["describe", "main"]


def main(argv: Sequence[str]) -> int:
    """The command: prints a report, or one JSON object with ``--json``; 2 when something is broken."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="vldistill inspect", description=__doc__)
    parser.add_argument("path", type=str, help="a data source, a run, its experts folder, or a set")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--sheet", type=str, default=None, help="of a data source: the contact sheet, a .png file; default in the cache"
    )
    asked = parser.parse_args(list(argv))
    if asked.sheet and not asked.sheet.lower().endswith(".png"):
        raise ConfigError(f"--sheet is {asked.sheet!r}; expected a name that ends in .png.")
    found = describe(asked.path, Reporter(quiet=asked.json), asked.sheet)
    if asked.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print("\n".join(_lines(found)))
    return 2 if found.get("broken") else 0


def _shown(item: Plain, most: int = 500) -> str:
    """A value as text for a terminal: captions may hold codes that move its cursor, or be as long as a book."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(item)[:most])
    return text if len(str(item)) <= most else f"{text}…"


def _account_line(account: Record) -> str:
    """``31 lines: 30 used; 1 left out: header (line 1)``, from the plain values of an account."""
    parts = [f"{number(account['seen']):,.0f} {account['unit']}: {number(account['used']):,.0f} used"]
    for one in items(account["left_out"]):
        if isinstance(one, Mapping):
            first = [str(name) for name in items(one["first"])]
            count = number(one["count"])
            more = ", ..." if count > len(first) else ""
            names = f" ({', '.join(first)}{more})" if first else ""
            parts.append(f"{count:,.0f} left out: {one['reason']}{names}")
    return "; ".join(parts)


def _lines(value: Record, indent: str = "") -> Iterator[str]:
    for name, item in value.items():
        title = name.replace("_", " ")
        if name == "account":
            yield f"{indent}account:"
            own = item.values() if isinstance(item, Mapping) else item if isinstance(item, Sequence) else ()
            yield from (f"{indent}  {_shown(_account_line(one))}" for one in own if isinstance(one, Mapping))
        elif isinstance(item, Mapping):
            yield f"{indent}{title}:" + ("" if item else " none")
            yield from _lines(item, indent + "  ")
        elif isinstance(item, list):
            yield from (f"{indent}{line}" for line in _list_lines(name, title, item))
        elif name == "bytes" and isinstance(item, int):
            yield f"{indent}size: {human_bytes(item)}"
        else:
            yield f"{indent}{title}: {'none' if item is None else _shown(item)}"


def _list_lines(name: str, title: str, found: Sequence[Plain]) -> Iterator[str]:
    if name == "broken":
        yield f"broken: {len(found)}"
        yield from (f"  {_shown(trouble)}" for trouble in found[:20])
    elif name == "checks":
        for check in found:
            if isinstance(check, Mapping):
                yield f"{'WARNING' if check['flag'] else 'check'}, {check['name']}: {_shown(check['summary'])}"
                yield from (f"  {_shown(example)}" for example in items(check["examples"]) if check["flag"])
    elif name == "examples":
        yield f"{title}:"
        yield from (f"  {_shown(example)}" for example in found)
    elif found or name != "absent":
        yield f"{title}: {', '.join(map(_shown, found)) or 'none'}"
