"""Tables beside vectors: what a row's pair is called, says and comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vldistill.data.columns import CAPTIONS, texts_of
from vldistill.data.containers import readable, require_parquet
from vldistill.data.embedded.arrays import text_columns
from vldistill.data.evidence import TABLES
from vldistill.data.tables import layout_of, rows_of
from vldistill.errors import DataError, unknown

IDS = (
    "uid", "sha256", "sha", "md5", "image_path", "filepath", "path", "file_name", "filename", "image_name", "image",
    "key", "__key__", "image_id", "id",
)  # fmt: skip
PATHS = ("image_path", "filepath", "path", "file_name", "filename", "image_name", "image")
ADDRESSES = ("url", "image_url", "link")
KEYS = ("uid", "key", "__key__", "sha256", "image_path", "id")  # that two tables may share
SUFFIXES = (*TABLES, ".parquet")
OPTIONS = ("caption", "id", "split")  # of a source, that name columns

Cells = Mapping[str, Sequence[object]]
"""Columns by name, all of one length."""


@dataclass(frozen=True)
class Meaning:
    """The columns of a table by what they hold; empty where there is none.

    Attributes:
        id: rows with one value are of one image.
        caption: shown.
        path: of a picture to show.
        address: shown where there is no caption.
        split: train, val or test.
    """

    id: str = ""
    caption: str = ""
    path: str = ""
    address: str = ""
    split: str = ""

    @property
    def columns(self) -> list[str]:
        """All that are read."""
        named = (self.id, self.caption, self.path, self.address, self.split)
        return [name for name in dict.fromkeys(named) if name]

    def about(self) -> dict[str, str]:
        """For ``inspect``."""
        return {name: value for name, value in vars(self).items() if value}


def meaning_of(columns: Sequence[str], options: Mapping[str, str], source: str) -> Meaning:
    """What the columns of a table mean: by the options ``caption``, ``id`` and ``split``, else by usual names.

    An empty ``id`` means that every row is an image of its own. Raises DataError for a column that is not there.
    """
    lower = {column.strip().lower(): column for column in reversed(columns)}

    def find(option: str, usual: Sequence[str]) -> str:
        asked = options.get(option)
        if asked and asked not in columns:
            raise DataError(f"{source}: {unknown(f'column ({option}=)', asked, columns)}")
        if asked is not None:
            return asked
        return next((lower[name] for name in usual if name in lower), "")

    caption = find("caption", CAPTIONS)
    return Meaning(
        find("id", [name for name in IDS if lower.get(name) != caption]),
        caption,
        find("", PATHS),
        find("", ADDRESSES),
        find("split", ("split",)),
    )


def is_table(path: Path) -> bool:
    """Whether a file is named like a table."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(("._", "."))


def columns_of(path: Path) -> list[str]:
    """The names of a table's columns. Raises DataError."""
    if path.suffix.lower() == ".parquet":
        parquet = require_parquet()
        with readable(path):
            return text_columns(parquet.read_schema(path))
    return list(layout_of(path, {"caption": ""}, str(path)).header)


def read_cells(path: Path, columns: Sequence[str]) -> Cells:
    """The cells of some columns of a table, those that it has. Raises DataError."""
    own = columns_of(path)
    wanted = [name for name in dict.fromkeys(columns) if name in own]
    if path.suffix.lower() == ".parquet":
        parquet = require_parquet()
        with readable(path), parquet.ParquetFile(path) as file:
            found = file.read(wanted or own[:1]).to_pydict()
            if any(len(cells) != file.metadata.num_rows for cells in found.values()):
                raise DataError(f"{path} does not hold the {file.metadata.num_rows:,} rows it declares. Copy it again.")
            return found
    cells: dict[str, list[object]] = {name: [] for name in wanted or own[:1]}
    for row in rows_of(layout_of(path, {"caption": ""}, str(path))):
        if row.blank:
            continue
        if row.trouble:
            raise DataError(
                f"{path}: line {row.line}: {row.trouble} Correct it: rows belong to vectors by their order."
            )
        for name, own_cells in cells.items():
            own_cells.append(row.cells.get(name))
    return cells


def count_rows(cells: Cells) -> int:
    """The rows of a table."""
    return len(next(iter(cells.values()), ()))


def text_in(cell: object, where: str) -> str:
    """A cell as one line to show: the first caption of a list; empty where there is none."""
    if cell is None:
        return ""
    if isinstance(cell, str | list | dict):
        return next((text for text in texts_of(cell, where) if text.strip()), "")
    return "" if cell != cell else str(cell)  # NaN, as pandas writes nothing
