"""Lines of text tables: what a table looks like, and its rows, one for each line unless a quoted cell spans several."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from vldistill.data.columns import CAPTIONS, IMAGES, NUMBERED
from vldistill.data.samples import IMAGE_SUFFIXES
from vldistill.errors import DataError

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}
TOKEN = re.compile(r"(?P<name>[^\t]+)#(?P<number>\d+)\t(?P<text>.*)")  # of Flickr8k.token.txt
UNDECODED = re.compile("[\ud800-\udfff]")  # bytes that are not text in the encoding of the file
SPANNED = 100  # lines that a quoted cell may span
FIRST = 6  # lines that tell what a table is
MARKS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}  # fmt: skip
UNMARKED = {"0101": "utf-16-le", "1010": "utf-16-be"}  # by which of the first bytes are zero

csv.field_size_limit(2**31 - 1)  # a base64 image is named as such, not refused as a long cell


class Layout(Enum):
    """What the lines of a table are."""

    HEADER = "a header and a row on each line"
    TOKEN = "NAME#NUMBER, a tab and a caption on each line"
    PAIR = "the name of an image and a caption on each line"
    JSON = "a json object on each line"
    UNKNOWN = "nothing that is known"


@dataclass(frozen=True)
class Table:
    """How a text table is read.

    Attributes:
        path: of the file.
        kind: what its lines are.
        encoding: of its text.
        separator: between the cells of a line; empty for json.
        header: the names of the columns; of JSON the keys of its first object with an image and a caption.
        skipped: lines before the first row: the header, Excel's ``sep=;``.
    """

    path: Path
    kind: Layout
    encoding: str
    separator: str
    header: tuple[str, ...]
    skipped: int


def layout_of(path: Path, options: Mapping[str, str], source: str) -> Table:
    """What a table looks like, from its first lines and the option ``sep``. Raises DataError."""
    encoding = _encoding(path)
    first = [line for _, line in islice(lines_of(path, encoding), FIRST)]
    named = re.fullmatch(r"sep=(.)", first[0].strip("\r\n")) if first else None  # Excel's own line
    asked = _asked(options, source) or (named[1] if named else "")
    start = 1 if named else 0
    if not any(line.strip() for line in first[start:]):
        raise DataError(f"{path} is empty; expected a header such as filepath{asked or ','}title.")
    while not first[start].strip():
        start += 1
    head = first[start].rstrip("\r\n")
    if head.lstrip().startswith("{"):
        return Table(path, Layout.JSON, encoding, "", _keys(path, first[start:]), start)
    separator = asked or _separator(path, head)
    if not options.keys() & {"image", "caption"}:
        if TOKEN.fullmatch(head):
            return Table(path, Layout.TOKEN, encoding, "\t", ("image", "caption"), start)
        cells = [cell.strip() for cell in head.split(separator, 1)]
        if len(cells) == 2 and _is_image(cells[0]) and " " not in cells[0]:
            return Table(path, Layout.PAIR, encoding, separator, ("image", "caption"), start)
    header = tuple(cell.strip() for cell in next(csv.reader([head], delimiter=separator)))
    kind = Layout.HEADER if _fits(header) or options.keys() & {"image", "caption"} else Layout.UNKNOWN
    return Table(path, kind, encoding, separator, header, start + 1)


def lines_of(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1; what is not text becomes surrogates. Raises DataError."""
    try:
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as handle:
            yield from enumerate(handle, 1)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give the path of a .csv or .tsv file, or of its folder.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding} text ({error}). Save it as UTF-8.") from None


def count_lines(path: Path, encoding: str) -> int:
    """The number of lines, from a listing of its own."""
    return sum(1 for _ in lines_of(path, encoding))


@dataclass(frozen=True)
class Row:
    """One row: the number of its last line, how many lines it spans, and its cells, or why it has none."""

    line: int
    span: int
    cells: Mapping[str, Any]
    trouble: str = ""
    blank: bool = False


def rows_of(table: Table) -> Iterator[Row]:
    """The rows of a table; every line after the skipped ones belongs to exactly one."""
    lines = list(lines_of(table.path, table.encoding))[table.skipped :]
    at = 0
    while at < len(lines):
        number, text = lines[at]
        span, row = 1, None
        if not text.strip():
            row = Row(number, 1, {}, blank=True)
        elif UNDECODED.search(text):
            where = f"{table.path}: line {number}"
            row = Row(number, 1, {}, f"{where} is not UTF-8 text. Save the table as UTF-8.")
        else:
            span, row = _row(table, lines, at)
        at += span
        yield row


def _row(table: Table, lines: list[tuple[int, str]], at: int) -> tuple[int, Row]:
    """The row that begins on a line, and how many lines it spans."""
    number, text = lines[at]
    text = text.rstrip("\r\n")
    where = f"{table.path}: line {number}"
    if table.kind is Layout.JSON:
        try:
            return 1, Row(number, 1, _object(text, table.path, number))
        except DataError as error:
            return 1, Row(number, 1, {}, str(error))
    if table.kind is Layout.TOKEN:
        match = TOKEN.fullmatch(text)
        if not match:
            return 1, Row(number, 1, {}, f"{where} is not NAME#NUMBER, a tab and a caption. Correct it.")
        return 1, Row(number, 1, {"image": match["name"], "caption": match["text"]})
    span, cells = _cells(table, lines, at)
    if table.kind is Layout.PAIR and len(cells) > 2:
        cells = [cells[0], table.separator.join(cells[1:])]
    cells = _padded(cells, table.header)
    if len(cells) != len(table.header):
        return span, Row(number, span, {}, (
            f"{where} has {len(cells)} cells, the header {len(table.header)}. Quote texts that hold the separator "
            f"{table.separator!r}, or name another: ?sep=tab."
        ))  # fmt: skip
    return span, Row(number, span, dict(zip(reversed(table.header), reversed(cells))))


def _padded(cells: list[str], header: tuple[str, ...]) -> list[str]:
    """Cells of a row without empty ones past the header, and with those added that the header does not name."""
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    return cells if any(header[len(cells) :]) else [*cells, *header[len(cells) :]]


def _cells(table: Table, lines: list[tuple[int, str]], at: int) -> tuple[int, list[str]]:
    """The cells of the row that begins on a line, and how many lines it spans.

    A quote only opens a cell of several lines where it closes again before a separator, and where the lines between
    are no rows of their own: captions begin with quotes that never close.
    """
    text = lines[at][1].rstrip("\r\n")
    literal = text.split(table.separator)
    if '"' not in text:
        return 1, literal
    spanned = [lines[at][1]]
    while (cells := _parsed(spanned, table.separator)) is None:
        number = at + len(spanned)
        if number == len(lines) or len(spanned) == SPANNED or _is_row(lines[number][1], table, literal):
            return 1, literal
        spanned.append(lines[number][1])
    if len(spanned) == 1 or (len(cells) == len(table.header) and _closes_well(spanned, table.separator)):
        return len(spanned), cells
    return 1, literal


def _parsed(lines: list[str], separator: str) -> list[str] | None:
    """The cells of a row of some lines; None where a quote is still open at their end."""
    reader = csv.reader(iter([*lines, "end\n"]), delimiter=separator)
    try:
        cells = next(reader)
    except csv.Error:
        return "".join(lines).rstrip("\r\n").split(separator)
    return cells if reader.line_num <= len(lines) else None


def _closes_well(lines: list[str], separator: str) -> bool:
    """Whether every quoted cell is closed right before a separator or the end."""
    try:
        return len(list(csv.reader(lines, delimiter=separator, strict=True))) == 1
    except csv.Error:
        return False


def _is_row(text: str, table: Table, first: list[str]) -> bool:
    """Whether a line is a whole row by itself, with an image named as in the row before it."""
    cells = text.rstrip("\r\n").split(table.separator)
    if len(cells) < len(table.header):
        return False
    suffixes = {PurePath(cell.strip().strip('"')).suffix.lower() for cell in first} & IMAGE_SUFFIXES
    if suffixes:
        return any(PurePath(cell.strip().strip('"')).suffix.lower() in suffixes for cell in cells)
    return len(cells) == len(table.header) and not any(character.isspace() for character in cells[0].strip())


def _keys(path: Path, lines: list[str]) -> tuple[str, ...]:
    """The keys of the first object with an image and a caption, else of the first. Raises DataError without any."""
    found: list[tuple[str, ...]] = []
    for line in lines:
        with suppress(DataError):
            found.append(tuple(_object(line, path)))
    if not found:
        _object(lines[0], path)
    return next(filter(_fits, found), found[0])


def _object(text: str, path: Path, line: int = 1) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: line {line} is not JSON ({error}). Expected one object on each line.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: line {line} is not an object. Expected one object on each line.")
    return value


def _encoding(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            head = handle.read(4)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give the path of a .csv or .tsv file, or of its folder.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), "")
    return marked or UNMARKED.get("".join(str(int(not byte)) for byte in head), "utf-8")


def _asked(options: Mapping[str, str], source: str) -> str:
    asked = options.get("sep")
    if asked is None:
        return ""
    separator = SEPARATORS.get(asked, asked)
    if len(separator) != 1 or separator in '"\r\n':
        expected = ", ".join(SEPARATORS)
        raise DataError(f"{source}: sep is {asked!r}; expected one character, or one of {expected}.")
    return separator


def _separator(path: Path, head: str) -> str:
    """The separator whose header has columns of images and captions, else the one that the suffix means."""
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    for separator in dict.fromkeys((usual, *SEPARATORS.values())):
        if _fits(tuple(head.split(separator))):
            return separator
    fitting = [separator for separator in dict.fromkeys((usual, *SEPARATORS.values())) if separator in head]
    return fitting[0] if fitting else usual


def _fits(header: tuple[str, ...]) -> bool:
    """Whether a header names an image and a caption."""
    columns = {column.strip().strip('"').lower() for column in header}
    return bool(columns & {*IMAGES}) and bool(columns & {*CAPTIONS} or any(map(NUMBERED.fullmatch, columns)))


def _is_image(name: str) -> bool:
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES
