"""The reader of parquet files with the bytes or the paths of images in a column."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.account import Ledger
from vldistill.data.collection import Collection
from vldistill.data.columns import DOWNLOAD, Columns, Gathered, choose_columns
from vldistill.data.containers import ParquetImages, RowGroup, column_of, empty_cells, readable, require_parquet
from vldistill.data.evidence import caption_jsons, picture_tables, sample_tars
from vldistill.data.pairs import ImageStore
from vldistill.data.patterns import files_of, listed
from vldistill.data.places import find_images, images_folder, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.splits import split_of_file
from vldistill.data.tables import ADDRESS
from vldistill.errors import DataError

SUFFIX = ".parquet"
INSIDE = ("", "data", "*", "*/*")  # where in a folder the files may be; the first that has some counts


def is_parquet(path: Path) -> bool:
    """Whether a path is parquet files with images: one, a pattern of them, or a folder with some."""
    if not path.is_dir():
        return path.suffix == SUFFIX
    if caption_jsons(path) or sample_tars(path):
        return False
    found = next((files for place in INSIDE if (files := listed(path, f"{place}/*{SUFFIX}".lstrip("/")))), [])
    return bool(picture_tables(found[:3]))


@path_reader("parquet", looks=is_parquet, options=("image", "caption", "name", "split", "images"))
def read(source: Source) -> Collection:
    """.parquet files with image bytes: one, a pattern such as train-{000..007}.parquet or *.parquet, or their folder.

    Options as for ``hf``. Names of files such as ``train-00000-of-00002.parquet`` name the split, or folders such as
    ``default/train/``. A column of paths names files, in the folder or in that of the option ``images``. Needs the
    extra ``hf``.
    """
    files = files_of(source, SUFFIX, inside=INSIDE)
    found = _Found(source)
    for path in files:
        found.add_file(path, alone=len(files) == 1)
    account, weighed = found.ledger.close(found.seen), found.weighed.close(len(files), needed=False)
    if found.columns is None or not found.gathered.names:
        raise DataError(f"{source.text} holds no rows.")
    gathered = found.gathered
    images, missing = found.files() if found.paths else (found.images(), found.missing())
    about = {"format": "parquet", "files": len(files), "columns": found.columns.about(), "rows": found.total}
    return Collection(
        source.text, images, gathered.captions, gathered.splits, missing, about, accounts=(weighed, account)
    )


@dataclass
class _Found:
    """The rows read so far."""

    source: Source
    gathered: Gathered = field(default_factory=Gathered)
    ledger: Ledger = field(default_factory=lambda: Ledger("rows"))
    weighed: Ledger = field(default_factory=lambda: Ledger("files"))
    columns: Columns | None = None
    groups: list[RowGroup] = field(default_factory=list)
    empty: set[int] = field(default_factory=set)
    paths: dict[int, str] = field(default_factory=dict)  # of images that are files: row -> path
    total: int = 0
    seen: int = 0

    def add_file(self, path: Path, *, alone: bool) -> None:
        """The rows of one more file; of several, one that cannot be read is left out. Raises DataError."""
        parquet = require_parquet()
        try:
            with readable(path), parquet.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if self.columns is None:
                    self.columns = choose_columns(names, self.source.options, self.source.text)
                columns = self._fitting(names, path)
                self.seen += file.metadata.num_rows
                if isinstance(columns, str):
                    self.weighed.leave("without the columns of the others", path.name)
                    self.ledger.leave("without the columns", path.name, file.metadata.num_rows, detail=columns)
                    return
                for group in range(file.num_row_groups):
                    self._add_group(file, group, columns, path)
        except DataError as error:
            if alone or self.total:  # what was read of it would be half a file
                raise
            self.weighed.leave("cannot be read", path.name, detail=str(error))
            return
        self.weighed.use()

    def _fitting(self, names: list[str], path: Path) -> Columns | str:
        """The columns that are read of a file, or why it cannot be."""
        assert self.columns is not None
        lacking = self.columns.lacking(names)
        if not lacking:
            return self.columns
        if lacking == self.columns.name:  # a name is not needed
            return replace(self.columns, name="")
        return f"{path} has no column {lacking}, as the files before it have."

    def _add_group(self, file: Any, group: int, columns: Columns, path: Path) -> None:
        """Names, splits and captions of a row group's rows, without its images."""
        kind = str(file.schema_arrow.field(columns.image).type)
        files = kind in ("string", "large_string")
        rows = file.read_row_group(group, columns=columns.texts + [columns.image] * files).to_pydict()
        count, start = file.metadata.row_group(group).num_rows, self.total
        if any(len(cells) != count for cells in rows.values()):
            raise DataError(f"{path}: row group {group} does not hold the {count:,} rows it declares. Copy it again.")
        self.groups.append(RowGroup(path, group, start))
        self.total += count
        usual = split_of_file(path, self.source.place)
        images = self.images()
        if not files:
            self.empty |= {start + row for row in empty_cells(column_of(path, group, columns.image))}
        for row, cells in enumerate(zip(*rows.values())):
            name, where = f"{usual or 'row'}-{start + row:08d}", f"{path}: row group {group}, row {row}"
            with self.ledger.unit_of(f"row {row} of row group {group} of {path.name}"):
                own = dict(zip(rows, cells))
                if files:
                    self._add_path(own, columns, start + row, usual, where)
                else:
                    self.gathered.add_cells(start + row, own, columns, name, usual, where, images.same)

    def _add_path(self, cells: dict[str, Any], columns: Columns, row: int, usual: str | None, where: str) -> None:
        """A row with the path of its image, which names it."""
        value = cells[columns.image]
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: the column {columns.image!r} is empty; expected the path of an image.")
        if ADDRESS.fullmatch(value.strip()):
            raise DataError(f"{where}: the column {columns.image!r} holds addresses ({value[:80]}). {DOWNLOAD}")
        path = safe_name(where, value.strip())
        self.paths[row] = path
        self.gathered.add_cells(row, cells, replace(columns, name=columns.image), path, usual, where, self._same_path)

    def _same_path(self, one: int, other: int) -> bool:
        return self.paths[one] == self.paths[other]

    def images(self) -> ParquetImages:
        """The images in the cells."""
        column = self.columns.image if self.columns else ""
        return ParquetImages(tuple(self.gathered.names), np.array(self.gathered.rows, np.int64), self.groups, column)

    def missing(self) -> dict[int, str]:
        """The images whose cell is empty."""
        return {index: "its row, which is empty" for index, row in enumerate(self.gathered.rows) if row in self.empty}

    def files(self) -> tuple[ImageStore, dict[int, str]]:
        """The images in files, and those that are missing."""
        place = self.source.place
        folder = images_folder(self.source, place if place.is_dir() else place.parent)
        sought = [(self.paths[row],) for row in self.gathered.rows]
        return find_images(folder, self.gathered.names, sought, exactly_named="images" in self.source.options)
