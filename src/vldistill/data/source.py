"""How a data source is written: ``[KIND:]PATH[?option=value&option=value]``.

The kind is the name of a reader and is only needed where a path alone does not decide it (``hf:OWNER/NAME``).
Options are percent-decoded, so that ``sep=%3B`` is a semicolon.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from vldistill.errors import DataError, unknown

OPTIONS = re.compile(r"\w+=[^&]*(&\w+=[^&]*)*", re.ASCII)
KIND = re.compile(r"(?P<kind>[a-z][a-z0-9_]+):(?P<rest>.+)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A data source in its parts.

    Attributes:
        text: as the user wrote it.
        kind: the reader's name, empty where none was written.
        path: a path, a pattern of paths, or a name.
        options: by name.
    """

    text: str
    kind: str
    path: str
    options: Mapping[str, str]

    @property
    def place(self) -> Path:
        """``path`` with ``~`` filled in."""
        return Path(self.path).expanduser()

    def check_options(self, known: Collection[str]) -> None:
        """Refuse options that the reader does not have. Raises DataError."""
        for name in self.options:
            if name not in known:
                raise DataError(f"{self.text}: {unknown('option', name, known)}")


def parse_source(text: str, kinds: Collection[str]) -> Source:
    """Parse a source; ``kinds`` are the names that count as a kind before a colon.

    Raises:
        DataError: an option is given twice.
    """
    named = KIND.fullmatch(text)
    kind, path = (named["kind"], named["rest"]) if named and named["kind"] in kinds else ("", text)
    head, mark, tail = path.rpartition("?")
    if not mark or not OPTIONS.fullmatch(tail) or Path(path).expanduser().exists():
        return Source(text, kind, path, {})
    options: dict[str, str] = {}
    for part in tail.split("&"):
        name, _, value = part.partition("=")
        if name in options:
            raise DataError(f"{text}: {name} is given twice; expected it once.")
        options[name] = unquote(value)
    return Source(text, kind, head, options)
