"""What a reader is, and how one is registered; see data/readers/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vldistill.data.collection import Collection
from vldistill.data.source import Source, parse_source
from vldistill.data.splits import shares_asked
from vldistill.registry import Registry, summary_of

SHARES = ("val", "test")


@dataclass(frozen=True)
class Reader:
    """A kind of data source: how to recognise it (cheaply, by name and file listing) and how to read it.

    Args:
        name: what ``vldistill ls readers`` calls it.
        summary: one line about it.
        matches: whether it recognises a source.
        read: turns a source into a collection.
        fallback: gives way to any other reader that recognises the source.
        prefixed: whether a source may name it before a colon, e.g. ``wds:shards/``.
    """

    name: str
    summary: str
    matches: Callable[[str], bool]
    read: Callable[[str], Collection]
    fallback: bool = False
    prefixed: bool = False


READERS: Registry[Reader] = Registry("reader", "vldistill.data.readers")


def reader(
    name: str, *, matches: Callable[[str], bool], fallback: bool = False, prefixed: bool = False
) -> Callable[[Callable[[str], Collection]], Callable[[str], Collection]]:
    """Register a reader; the first line of the function's docstring is its summary.

    Raises:
        ConfigError: the name is taken or malformed, or the docstring is missing.
    """

    def register(function: Callable[[str], Collection]) -> Callable[[str], Collection]:
        READERS.add(name, Reader(name, summary_of(function, name), matches, function, fallback, prefixed))
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
        name: of the reader, and the prefix that requests it.
        looks: whether a path without prefix is of this kind, seen from its name and the beginning of files.
        options: names of its options, beside the shares ``val`` and ``test``.
        says_splits: the source names the split of every image; others are made only where shares are requested.
        fallback: gives way to any other reader that recognises the source.
    """

    def register(function: Callable[[Source], Collection]) -> Callable[[Source], Collection]:
        def read(text: str) -> Collection:
            source = source_of(text)
            source.check_options((*options, *SHARES))
            shares = shares_asked(text, source.options)
            found = function(source)
            return found if says_splits and not shares else replace(found, shares=shares)

        read.__doc__, read.__module__ = function.__doc__, function.__module__
        reader(name, matches=lambda text: looks(source_of(text).place), fallback=fallback, prefixed=True)(read)
        return function

    return register


def source_of(text: str) -> Source:
    """The parts of a source: the reader it names, its path and its options."""
    return parse_source(text, {name for name, entry in READERS.items() if entry.prefixed})
