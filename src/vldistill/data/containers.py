"""Images in the cells of tables: rows of Arrow tables (Hugging Face datasets) and of parquet files.

A cell holds the encoded bytes of an image, or an object with ``bytes`` and perhaps ``path``. The libraries are optional
and imported when a store is made.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vldistill.data.stores import EncodedImages
from vldistill.errors import DataError, MissingExtraError
from vldistill.storage.files import digest, human_bytes

GROUPS_KEPT = 2  # row groups of parquet files in memory
GROUP_BYTES = 2_000_000_000  # largest row group that is read


def require_datasets() -> Any:
    """The package ``datasets``. Raises MissingExtraError with the command that installs it."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            "Hugging Face datasets and parquet files need the package datasets: pip install 'vldistill[hf]'"
        ) from None
    return datasets


def require_parquet() -> Any:
    """The module ``pyarrow.parquet``, which comes with ``datasets``. Raises MissingExtraError."""
    try:
        import pyarrow.parquet
    except ImportError:
        require_datasets()
        raise
    return pyarrow.parquet


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors on a broken file into DataError."""
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}). Copy it again, or take it out of the source.") from None


def file_of(path: str, folder: Path) -> Path:
    """The file of a path in a cell: in ``folder``, else as it stands there."""
    return inside if (inside := folder / path).is_file() else Path(path)


def image_bytes(cell: object, label: str, folder: Path) -> bytes:
    """The encoded image in a cell: bytes, or an object with ``bytes``, or with the ``path`` of a file.

    Raises DataError when there is none, with ``label``, which names the image.
    """
    path = None
    if isinstance(cell, Sequence) and not isinstance(cell, bytes | str) and len(cell) == 1:
        cell = cell[0]  # a list of one image
    if isinstance(cell, Mapping):
        cell, path = cell.get("bytes"), cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if cell is None and isinstance(path, str) and path:
        try:
            return file_of(path, folder).read_bytes()
        except OSError as error:
            raise DataError(f"{label}: {path} cannot be read ({error.strerror}).") from None
    found = "empty" if cell is None else type(cell).__name__
    if isinstance(cell, list):
        raise DataError(f"{label}: the cell holds a list of {len(cell)} images; expected one. Leave the row out.")
    raise DataError(f"{label}: the cell is {found}; expected the bytes of an image. Name the right column: ?image=...")


def missing_cells(column: Any, folder: Path) -> dict[int, str]:
    """The rows of an Arrow column of images that have none, with where it was looked for.

    They are null, without bytes and path, or with the path alone of a file that is not there.
    """
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute
    unfilled = compute.is_null(column)
    paths = None
    if pyarrow.types.is_struct(column.type):
        names = {field.name for field in column.type}
        if "bytes" in names:
            unfilled = compute.or_(unfilled, compute.is_null(compute.struct_field(column, "bytes")))
        paths = compute.struct_field(column, "path") if "path" in names else None
        unfilled = unfilled if "bytes" in names or paths is None else compute.is_valid(unfilled)
    elif pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        unfilled = compute.or_kleene(unfilled, compute.equal(compute.list_value_length(column), 0))
    rows = np.flatnonzero(np.array(unfilled.to_pylist(), bool)).tolist()
    named = {row: None if paths is None else paths[row].as_py() for row in rows}
    return {
        row: path or "its row, which is empty"
        for row, path in named.items()
        if not path or not file_of(path, folder).is_file()
    }


@dataclass(frozen=True)
class TableImages(EncodedImages):
    """An image store over cells; subclasses know where a cell is.

    Attributes:
        rows: int64 (N,), the row of each image.
        folder: of the files that cells name by a path.
    """

    rows: np.ndarray
    folder: Path = field(default=Path(), kw_only=True)

    @abstractmethod
    def cell(self, row: int) -> Any:
        """The content of the image column in a row."""

    def encoded(self, index: int) -> bytes:
        """The bytes in the cell."""
        return image_bytes(self.cell(int(self.rows[index])), self.label(index), self.folder)

    def picture(self, row: int) -> object:
        """What rows with the same picture have in common: its bytes, or the path of a file; the row of an empty one."""
        cell = self.cell(row)
        cell = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell
        cell = (cell.get("bytes") or cell.get("path")) if isinstance(cell, Mapping) else cell
        return digest(cell) if isinstance(cell, bytes | str) and cell else row


@dataclass(frozen=True)
class ArrowImages(TableImages):
    """Images in memory-mapped tables of the package ``datasets``.

    Attributes:
        tables: one after the other, each with the column ``column`` alone and its images not decoded.
        starts: int64 (T,), the row that each table begins with.
    """

    tables: Sequence[Any]
    starts: np.ndarray
    column: str

    def cell(self, row: int) -> Any:
        """See TableImages."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.tables[number][row - int(self.starts[number])][self.column]


class RowGroup(NamedTuple):
    """A row group of a parquet file: its number there, and the first of its rows, counted through all files."""

    path: Path
    number: int
    start: int


@dataclass(frozen=True)
class ParquetImages(TableImages):
    """Images in parquet files. Row groups are read whole, the last ones are kept: read images in order.

    Attributes:
        groups: the row groups of all files, in order.
        column: the column of images.
    """

    groups: Sequence[RowGroup]
    column: str

    def cell(self, row: int) -> Any:
        """See TableImages."""
        path, number, start = self.groups[bisect_right(self.groups, row, key=attrgetter("start")) - 1]
        cells = _GROUPS.get(path, number, self.column)
        if row - start >= len(cells):
            raise DataError(f"{path}: row {row} is missing, though the file declares it. Copy the file again.")
        with readable(path):
            return cells[row - start].as_py()


class _Groups:
    """The row groups read last, shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def get(self, path: Path, number: int, column: str) -> Any:
        try:
            state = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from None
        key = (path, state.st_size, state.st_mtime_ns, number, column)
        with self._lock:  # one thread reads, the others wait: each would need the whole group in memory
            if key not in self._kept:
                while len(self._kept) >= GROUPS_KEPT:
                    self._kept.popitem(last=False)
                self._kept[key] = _read_group(path, number, column)
            self._kept.move_to_end(key)
            return self._kept[key]


_GROUPS = _Groups()


def column_of(path: Path, number: int, column: str) -> Any:
    """A column of a row group of a parquet file. Raises DataError."""
    return _GROUPS.get(path, number, column)


def _read_group(path: Path, number: int, column: str) -> Any:
    """The column of one row group as an Arrow array. Raises DataError."""
    parquet = require_parquet()
    with readable(path), parquet.ParquetFile(path) as file:
        group = file.metadata.row_group(number)
        if group.total_byte_size > GROUP_BYTES:
            raise DataError(
                f"{path}: row group {number} has {human_bytes(group.total_byte_size)}; expected at most "
                f"{human_bytes(GROUP_BYTES)}. Write the file again with smaller row groups, e.g. "
                f"pyarrow.parquet.write_table(table, path, row_group_size=1000)."
            )
        return file.read_row_group(number, columns=[column]).column(column)
