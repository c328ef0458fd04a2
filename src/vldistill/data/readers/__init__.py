"""Readers turn a data source into a Collection; each is one function in one file of this folder.

To add one, put a file beside ``karpathy.py`` with a function ``read(source) -> Collection`` under
``@reader("name", matches=...)``. Every file of this folder is imported, so nothing else has to be edited.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from vldistill.data.collection import Collection
from vldistill.errors import DataError


@dataclass(frozen=True)
class Reader:
    """A kind of data source: how to recognise it (cheaply, by name and file listing) and how to read it."""

    name: str
    description: str
    matches: Callable[[str], bool]
    read: Callable[[str], Collection]


READERS: dict[str, str] = {}  # name -> one line, for listings
_REGISTRY: dict[str, Reader] = {}


def reader(
    name: str, *, matches: Callable[[str], bool]
) -> Callable[[Callable[[str], Collection]], Callable[[str], Collection]]:
    """Register a reader; the first line of the function's docstring describes it.

    Raises:
        ValueError: the name is taken or not lower case, or the docstring is missing.
    """

    def register(function: Callable[[str], Collection]) -> Callable[[str], Collection]:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"reader name {name!r}: expected lower case letters, digits and _.")
        if name in _REGISTRY:
            raise ValueError(
                f"a reader named {name!r} exists already, in {_REGISTRY[name].read.__module__}. Choose another."
            )
        if not (function.__doc__ or "").strip():
            raise ValueError(
                f"reader {name!r}: expected a docstring; its first line is shown by `vldistill ls readers`."
            )
        description = (function.__doc__ or "").strip().splitlines()[0]
        _REGISTRY[name] = Reader(name, description, matches, function)
        READERS[name] = description
        return function

    return register


def find_reader(source: str | Path) -> Reader:
    """The reader for a source. Raises DataError when none or several recognise it."""
    text = str(source)
    if not text.strip():
        raise DataError("the data source is empty; expected a path, or a name such as scenes.")
    try:
        found = [one for one in _REGISTRY.values() if one.matches(text)]
        if not found:
            raise DataError(_nothing_fits(text))
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a name too long, NUL, ~ of nobody
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data source {text[:200]!r} cannot be read ({reason}).") from None
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise DataError(f"data source {text!r} is recognised by several readers: {names}. Give a more exact path.")
    return found[0]


def _nothing_fits(source: str) -> str:
    """The message for a source that no reader recognises."""
    path = Path(source).expanduser()
    if path.is_dir():
        listing = sorted(entry.name for entry in path.iterdir())
        holds = ", ".join(listing[:5]) + (", ..." if len(listing) > 5 else "") if listing else "nothing"
        problem = f"the folder {source} is no data source: it holds {holds}"
    elif path.exists():
        problem = f"the file {source} is no data source"
    else:
        near = get_close_matches(source.partition(":")[0], READERS)
        problem = f"the data source {source} does not exist" + (f" (did you mean {' or '.join(near)}?)" if near else "")
    kinds = " ".join(f"[{name}] {line}" for name, line in sorted(READERS.items()))
    return f"{problem}. Expected one of: {kinds}"


def read_collection(source: str | Path) -> Collection:
    """Read a source with the reader that recognises it. Raises DataError."""
    return find_reader(source).read(str(source))


def clean_caption(caption: str, words: int = 30) -> str:
    """The caption cleaning of the field: lower case, ``.!"()*#:;~`` become spaces, at most ``words`` words.

    No reader applies it; whoever compares with published rows does. The result may be empty.
    """
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", caption.lower()).split()[:words])


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
