"""The reader of parquet files with the bytes or the paths of images in a column."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.account import Ledger
from vldistill.data.collection import Collection
from vldistill.data.columns import Columns, Gathered, choose_columns
from vldistill.data.containers import ParquetImages, RowGroup, column_of, missing_cells, readable, require_parquet
from vldistill.data.downloads import tells_downloads, why_failed
from vldistill.data.embedded.recognise import is_embedded
from vldistill.data.evidence import caption_jsons, picture_tables, sample_tars
from vldistill.data.patterns import files_of, listed
from vldistill.data.places import NamedFiles
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.splits import WORDS, split_of_file
from vldistill.errors import DataError

SUFFIX = ".parquet"
INSIDE = ("", "data", "*", "*/*")  # where in a folder the files may be; the first that has some counts


def is_parquet(path: Path) -> bool:
    """Whether a path is parquet files with images: one, a pattern of them, or a folder with some."""
    if not path.is_dir():
        return path.suffix.lower() == SUFFIX
    if caption_jsons(path) or sample_tars(path) or is_embedded(path):
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
    _check_configurations(source.place, files)
    found = _Found(source)
    for path in files:
        found.add_file(path, alone=len(files) == 1)
    weighed, account = found.weighed.close(len(files)), found.ledger.close(found.seen)
    if found.columns is None or not found.gathered.names:
        raise DataError(f"{source.text} holds no rows.")
    gathered = found.gathered
    images, missing = found.images(), found.missing()
    if found.files.paths:
        images, missing = found.files.find(gathered.names, gathered.rows)
    about = {"format": "parquet", "files": len(files), "columns": found.columns.about(), "rows": found.total}
    return Collection(
        source.text, images, gathered.captions, gathered.splits, missing, about, accounts=(weighed, account)
    )


def _check_configurations(place: Path, files: list[Path]) -> None:
    """Refuse several configurations of a data set of the hub, which have files of the same names. Raises DataError."""
    below: dict[str, str] = {}
    for path in files:
        top, *rest = path.relative_to(place).parts if path.is_relative_to(place) and path != place else ("",)
        if rest and top.lower() not in WORDS and below.setdefault("/".join(rest), top) != top:
            raise DataError(
                f"the folder {place} holds several data sets: {below['/'.join(rest)]}/ and {top}/ both have "
                f"{'/'.join(rest)}. Give the folder of one."
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
    lost: dict[int, str] = field(default_factory=dict)  # row without an image -> where it was looked for
    total: int = 0
    seen: int = 0

    def __post_init__(self) -> None:
        place = self.source.place
        self.files = NamedFiles(self.source, place if place.is_dir() else place.parent)

    def add_file(self, path: Path, *, alone: bool) -> None:
        """The rows of one more file; of several, one that cannot be read is left out. Raises DataError."""
        parquet = require_parquet()
        before = self.total
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
            if alone or self.total > before:  # what was read of it would be half a file
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
        files = str(_inner(file.schema_arrow.field(columns.image).type)) in ("string", "large_string")
        told = ["status"] if tells_downloads(file.schema_arrow.names) else []
        rows = file.read_row_group(group, columns=columns.texts + told + [columns.image] * files).to_pydict()
        count, start = file.metadata.row_group(group).num_rows, self.total
        if any(len(cells) != count for cells in rows.values()):
            raise DataError(f"{path}: row group {group} does not hold the {count:,} rows it declares. Copy it again.")
        self.groups.append(RowGroup(path, group, start))
        self.total += count
        usual = split_of_file(path, self.source.place)
        images = self.images()
        if not files:
            lost = missing_cells(column_of(path, group, columns.image), self.files.folder)
            self.lost |= {start + row: where for row, where in lost.items()}
        for row, cells in enumerate(zip(*rows.values())):
            name, where = f"{usual or 'row'}-{start + row:08d}", f"{path}: row group {group}, row {row}"
            label, own = f"row {row} of row group {group} of {path.name}", dict(zip(rows, cells))
            if start + row in self.lost and (failure := why_failed(own.get("status"))):
                self.ledger.leave(failure, label)
                continue
            with self.ledger.unit_of(label):
                if files:
                    name = self.files.add(start + row, own[columns.image], columns.image, where)
                    named = replace(columns, name="")
                    self.gathered.add_cells(start + row, own, named, name, usual, where, lambda _, path=name: path)
                else:
                    self.gathered.add_cells(start + row, own, columns, name, usual, where, images.picture)

    def images(self) -> ParquetImages:
        """The images in the cells."""
        column = self.columns.image if self.columns else ""
        rows = np.array(self.gathered.rows, np.int64)
        return ParquetImages(tuple(self.gathered.names), rows, self.groups, column, folder=self.files.folder)

    def missing(self) -> dict[int, str]:
        """The images that are not in their cells, and where they were looked for."""
        rows = enumerate(self.gathered.rows)
        return {index: self.lost[row] for index, row in rows if row in self.lost}


def _inner(kind: Any) -> Any:
    """What an Arrow type is a list, or a dictionary, of."""
    return _inner(kind.value_type) if hasattr(kind, "value_type") else kind
