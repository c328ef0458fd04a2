"""The reader of parquet files with the bytes of images in a column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.collection import Collection
from vldistill.data.columns import Columns, Gathered, choose_columns
from vldistill.data.containers import ParquetImages, RowGroup, readable, require_parquet
from vldistill.data.patterns import files_of
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.splits import split_of_file
from vldistill.errors import DataError

SUFFIX = ".parquet"


def is_parquet(path: Path) -> bool:
    """Whether a path is parquet files: one, a pattern of them, or a folder with some and no json, tar or table."""
    if path.is_dir():
        inside = {file.suffix for file in path.iterdir()} | {file.suffix for file in path.glob("data/*")}
        return SUFFIX in inside and not inside & {".json", ".tar", ".csv", ".tsv"}
    return path.suffix == SUFFIX


@path_reader("parquet", looks=is_parquet, options=("image", "caption", "name", "split"))
def read(source: Source) -> Collection:
    """.parquet files with image bytes: one, a pattern such as train-{000..007}.parquet or *.parquet, or their folder.

    Options as for ``hf``. Names of files such as ``train-00000-of-00002.parquet`` say the split. Needs the extra
    ``hf``.
    """
    parquet = require_parquet()
    files = files_of(source, SUFFIX, inside=("", "data"))
    found, total = Gathered(), 0
    groups: list[RowGroup] = []
    columns: Columns | None = None
    for path in files:
        with readable(path), parquet.ParquetFile(path) as file:
            if columns is None:
                columns = choose_columns(file.schema_arrow.names, source.options, source.text)
            if lacking := columns.lacking(file.schema_arrow.names):
                raise DataError(f"{path} has no column {lacking}, as the files before it have.")
            for group in range(file.num_row_groups):
                groups.append(RowGroup(path, group, total))
                total += _gather(found, file, group, columns, path, total)
    if columns is None or not found.names:
        raise DataError(f"{source.text} holds no rows.")
    images = ParquetImages(tuple(found.names), np.array(found.rows, np.int64), groups, columns.image)
    about = {"format": "parquet", "files": len(files), "columns": columns.about(), "rows": total}
    return Collection(source.text, images, found.captions, found.splits, about=about)


def _gather(found: Gathered, file: Any, group: int, columns: Columns, path: Path, start: int) -> int:
    """Names, splits and captions of a row group's rows, without its images; the number of rows."""
    rows = file.read_row_group(group, columns=columns.texts).to_pydict()
    usual = split_of_file(path)
    count = file.metadata.row_group(group).num_rows
    if any(len(cells) != count for cells in rows.values()):
        raise DataError(f"{path}: row group {group} does not hold the {count:,} rows it declares. Copy it again.")
    for row, cells in enumerate(zip(*rows.values())):
        name, where = f"{usual or 'row'}-{start + row:08d}", f"{path}: row group {group}, row {row}"
        found.add_cells(start + row, dict(zip(rows, cells)), columns, name, usual, where)
    return count
