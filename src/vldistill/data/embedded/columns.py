"""Columns of vectors in Hugging Face data sets, mapped as the data set is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vldistill.data.account import Account, files_account
from vldistill.data.embedded.arrays import array_of, text_columns, vector_columns
from vldistill.data.embedded.shards import EXPECTED, Part, Parts
from vldistill.data.embedded.sides import choose_sides
from vldistill.data.embedded.tables import Cells
from vldistill.data.source import Source
from vldistill.data.splits import split_in
from vldistill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def parts_of_dataset(tables: Mapping[str, Dataset], source: Source) -> tuple[Parts, Account]:
    """The parts of a data set, one for each batch of its file, and the account of its tables. Raises DataError."""
    found = Parts(format="a Hugging Face data set")
    some = any(split_in(name) for name in tables)
    read: list[str] = []
    other: list[str] = []
    for name, table in tables.items():
        if some and split_in(name) is None:
            other.append(name)
            continue
        read.append(name)
        _add(found, table, name, source, split_in(name) if some else None)
    if not found.every:
        raise DataError(f"{source.text} holds no vectors of pairs. {EXPECTED}")
    return found, files_account(read, {"a split that is none of train, val and test": other}, len(tables))


def _add(found: Parts, table: Any, name: str, source: Source, split: str | None) -> None:
    """The batches of one table."""
    if getattr(table, "_indices", None) is not None:
        table = table.flatten_indices()
    vectors = [column for column, holds in vector_columns(table.features.arrow_schema).items() if holds]
    image, text = choose_sides(vectors, source.options, source.text, "columns")
    if found.towers != ("", "") and found.towers != (image, text):
        raise DataError(f"{source.text}: split {name!r} has other columns of vectors than the splits before it.")
    found.towers = image, text
    arrow, first = table.data.table, 0
    headings = text_columns(table.features.arrow_schema)
    for image_array, text_array in _batches(arrow, image, text, f"{source.text}, split {name!r}"):
        rows = range(first, first + len(image_array))
        first = rows.stop

        def cells(columns: Sequence[str], rows: range = rows) -> Cells:
            wanted = [column for column in columns if column in headings] or headings[:1]
            return table.select_columns(wanted)[rows.start : rows.stop] if wanted else {}

        where = f"{name}, rows from {rows.start:,}"
        names = f"{where}, {image}", f"{where}, {text}"
        found.every.append(Part(image_array, text_array, names, headings, cells if headings else None, where, split))


def _batches(arrow: Any, image: str, text: str, where: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both columns of an Arrow table, in the parts in which its file holds them."""
    found = []
    for batch in arrow.select([image, text]).to_batches():
        if len(batch):
            one, two = (array_of(batch.column(column), f"{where}, {column}") for column in (image, text))
            found.append((one, two))
    return found
