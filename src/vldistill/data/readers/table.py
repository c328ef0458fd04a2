"""The reader of csv and tsv tables, one row for each pair, as open_clip trains on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vldistill.data.collection import Collection
from vldistill.data.columns import CAPTIONS, IMAGES, NUMBERED, Columns, Gathered, choose_columns, split_of_cell
from vldistill.data.pairs import in_order
from vldistill.data.places import find_images, images_folder, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.splits import split_in, split_of_file
from vldistill.errors import DataError

SUFFIXES = (".csv", ".tsv")
SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}


def is_table(path: Path) -> bool:
    """Whether a path is a csv or tsv file, or a folder with some and without a json or a tar."""
    if path.is_dir():
        return bool(_tables(path)) and not any(file.suffix in (".json", ".tar") for file in path.iterdir())
    return path.suffix.lower() in SUFFIXES


@path_reader("csv", looks=is_table, options=("image", "caption", "split", "sep", "images"))
def read(source: Source) -> Collection:
    """A .csv or .tsv with a header (filepath and title, or other columns), or the folder with train.csv, val.csv, ...

    Rows with the same image belong together. Images are looked for beside the file and in ``images/``; the option
    ``images`` names another folder. Further options: ``image``, ``caption``, ``split`` (columns) and ``sep``.
    """
    found = Gathered()
    files = _files(source)
    folder = images_folder(source, files[0][1].parent).absolute()
    about: dict[str, Any] = {"format": "csv", "files": [str(path) for _, path in files]}
    for split, path in files:
        separator = _separator(path, source)
        rows = _rows(path, separator)
        _, header = next(rows)
        columns = choose_columns(header, source.options, str(path))
        about |= {"columns": columns.about(), "separator": separator}
        for line, cells in rows:
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: line {line} has {len(cells)} cells, the header {len(header)}. Quote texts that hold the "
                    f"separator {separator!r}, or name another: ?sep=tab."
                )
            row = dict(zip(reversed(header), reversed(cells)))  # of two columns with one name the first counts
            _add(found, columns, row, split, folder, f"{path}: line {line}")
    images, missing = find_images(folder, found.names)
    about["images_in"] = str(folder)
    return Collection(source.text, images, found.captions, found.splits, missing, about)


def _add(found: Gathered, columns: Columns, cells: dict[str, str], split: str | None, folder: Path, where: str) -> None:
    raw = cells[columns.image].strip()
    path = Path(raw)
    if path.is_absolute() and path.is_relative_to(folder):
        raw = path.relative_to(folder).as_posix()
    elif path.is_absolute():
        raise DataError(
            f"{where}: {raw!r} is outside {folder}, where images are looked for. Name the folder above them, e.g. "
            f"?images={path.parent}."
        )
    if not raw:
        raise DataError(f"{where}: the column {columns.image!r} is empty; expected the path of an image.")
    own = split_of_cell(cells[columns.split] if columns.split else None, split, where)
    found.add(0, safe_name(where, raw), own, [cells[column] for column in columns.captions], where)


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _files(source: Source) -> list[tuple[str | None, Path]]:
    """The tables of a source with the split that their names speak of. Raises DataError."""
    path = source.place
    tables = _tables(path) if path.is_dir() else [path]
    if not tables:
        raise DataError(f"the folder {path} holds no .csv and no .tsv file. Give the file.")
    if len(tables) == 1:
        return [(split_of_file(tables[0]), tables[0])]
    named: dict[str, Path] = {}
    for table in tables:
        split = split_in(table.stem)
        if split is None or split in named:
            among = ", ".join(file.name for file in tables)
            raise DataError(f"the folder {path} holds several tables: {among}. Give the path of the one to read.")
        named[split] = table
    return [(split, named[split]) for split in in_order(named)]


def _separator(path: Path, source: Source) -> str:
    """The separator asked for, or the one whose header has columns of images and captions."""
    asked = source.options.get("sep")
    if asked is not None:
        separator = SEPARATORS.get(asked, asked)
        if len(separator) != 1 or separator in '"\r\n':
            expected = ", ".join(SEPARATORS)
            raise DataError(f"{source.text}: sep is {asked!r}; expected one character, or one of {expected}.")
        return separator
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            header = handle.readline().lower()
    except (OSError, UnicodeDecodeError):
        return usual  # reading it says why
    fitting = []
    for separator in dict.fromkeys((usual, *SEPARATORS.values())):
        columns = {column.strip().strip('"') for column in header.split(separator)}
        captioned = columns & {*CAPTIONS} or any(map(NUMBERED.fullmatch, columns))
        if columns & {*IMAGES} and captioned:
            fitting.append(separator)
    return fitting[0] if fitting else usual


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of every row, the header first. Raises DataError."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = csv.reader(handle, delimiter=separator)
            for cells in rows:
                if cells:
                    yield rows.line_num, [cell.strip() for cell in cells] if not number else cells
                    number += 1
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give the path of a .csv or .tsv file, or of its folder.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}). Save the table as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {number + 1} is no row of a table ({error}). Check its quotes.") from None
    if not number:
        raise DataError(f"{path} is empty; expected a header such as filepath{separator}title.")
