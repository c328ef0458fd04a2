"""Readers turn a data source into a Collection; each is one function in one file of this folder.

To add one, put a file beside ``karpathy.py`` with a function ``read(source) -> Collection`` under
``@reader("name", matches=...)``, or with ``@path_reader`` where a source is a path with options (``folder.py``). Every
file of this folder is imported, so nothing else has to be edited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from vldistill.data.collection import Collection
from vldistill.data.source import Source, parse_source
from vldistill.data.splits import shares_asked, with_splits
from vldistill.errors import DataError


@dataclass(frozen=True)
class Reader:
    """A kind of data source: how to recognise it (cheaply, by name and file listing) and how to read it.

    A ``fallback`` gives way to any other reader that recognises the source.
    """

    name: str
    description: str
    matches: Callable[[str], bool]
    read: Callable[[str], Collection]
    fallback: bool = False


READERS: dict[str, str] = {}  # name -> one line, for listings
_REGISTRY: dict[str, Reader] = {}
_PREFIXED: set[str] = set()  # readers that a source may name before a colon
SHARES = ("val", "test")


def reader(
    name: str, *, matches: Callable[[str], bool], fallback: bool = False
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
        _REGISTRY[name] = Reader(name, description, matches, function, fallback)
        READERS[name] = description
        return function

    return register


def path_reader(
    name: str,
    *,
    looks: Callable[[Path], bool],
    options: Sequence[str] = (),
    says_splits: bool = False,
    fallback: bool = False,
) -> Callable[[Callable[[Source], Collection]], Callable[[Source], Collection]]:
    """Register a reader of ``[NAME:]PATH[?option=value&...]``; splits that the source lacks are made of train.

    Args:
        name: of the reader, and the prefix that asks for it.
        looks: whether a path without prefix is of this kind, seen from its name and the beginning of files.
        options: names of its options, beside the shares ``val`` and ``test``.
        says_splits: the source says the split of every image; none is made, and no shares are asked for.
        fallback: gives way to any other reader that recognises the source.
    """

    def register(function: Callable[[Source], Collection]) -> Callable[[Source], Collection]:
        def read(text: str) -> Collection:
            source = _source(text)
            if says_splits and not source.options.keys().isdisjoint(SHARES):
                raise DataError(
                    f"{text} asks for shares of val and test, but {name} files say the split of every image. "
                    f"Leave ?val= and ?test= out."
                )
            source.check_options(options if says_splits else (*options, *SHARES))
            if says_splits:
                return function(source)
            shares_asked(text, source.options)
            return with_splits(function(source), source.options)

        read.__doc__, read.__module__ = function.__doc__, function.__module__
        reader(name, matches=lambda text: looks(_source(text).place), fallback=fallback)(read)
        _PREFIXED.add(name)
        return function

    return register


def _source(text: str) -> Source:
    return parse_source(text, _PREFIXED)


def find_reader(source: str | Path) -> Reader:
    """The reader for a source. Raises DataError when none or several recognise it."""
    text = str(source)
    if not text.strip():
        raise DataError("the data source is empty; expected a path, or a name such as scenes.")
    kind = _source(text).kind
    if kind:
        return _REGISTRY[kind]
    try:
        found = [one for one in _REGISTRY.values() if one.matches(text)]
        if not found:
            raise DataError(_nothing_fits(text))
        found = [one for one in found if not one.fallback] or found
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a name too long, NUL, ~ of nobody
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data source {text[:200]!r} cannot be read ({reason}).") from None
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise DataError(
            f"data source {text!r} is recognised by several readers: {names}. Give a more exact path."
            + (f" Or say which: {prefixes}." if (prefixes := ", ".join(_prefixed(found, text))) else "")
        )
    return found[0]


def _prefixed(found: list[Reader], text: str) -> list[str]:
    return [f"{one.name}:{text}" for one in found if one.name in _PREFIXED]


def _nothing_fits(source: str) -> str:
    """The message for a source that no reader recognises."""
    path = Path(source).expanduser()
    if path.is_dir():
        listing = sorted(entry.name for entry in path.iterdir())
        holds = ", ".join(listing[:5]) + (", ..." if len(listing) > 5 else "") if listing else "nothing"
        return f"the folder {source} is no data source: it holds {holds}. {_kinds()}"
    if path.exists():
        return f"the file {source} is no data source. {_kinds()}"
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = [*get_close_matches(source.partition(":")[0], READERS)]
    near += [str(path.with_name(name)) for name in get_close_matches(path.name, beside)]
    kind = source.partition(":")[0]
    strange = f", and {kind!r} is no kind of source" if re.match(r"\w\w+:", source) and kind not in READERS else ""
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    return (
        f"the data source {source} does not exist{strange}{meant}. Expected the path of a file, a folder or a pattern, "
        f"or scenes, or hf:OWNER/NAME. `vldistill ls readers` tells the kinds."
    )


def _kinds() -> str:
    return "Expected one of:" + "".join(f"\n  [{name}] {line}" for name, line in sorted(READERS.items()))


def read_collection(source: str | Path) -> Collection:
    """Read a source with the reader that recognises it. Raises DataError."""
    found = find_reader(source)
    return replace(found.read(str(source)), reader=found.name)


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
