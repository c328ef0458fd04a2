"""The reader of Hugging Face datasets: a name on the hub, or a folder that ``save_to_disk`` wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.account import Account, Ledger
from vldistill.data.collection import Collection
from vldistill.data.columns import Columns, Gathered, choose_columns
from vldistill.data.containers import ArrowImages, empty_cells, require_datasets
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.splits import split_in
from vldistill.errors import DataError

BATCH = 10_000  # rows whose texts are turned into Python at a time


def is_saved(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of datasets."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


@path_reader("hf", looks=is_saved, options=("image", "caption", "name", "split", "config", "revision"))
def read(source: Source) -> Collection:
    """hf:OWNER/NAME of the Hugging Face hub, or a folder of save_to_disk; columns are guessed, or named by options.

    Options: ``image``, ``caption`` (several joined by commas), ``name`` (rows with one name and one picture are one
    image; empty: every row is one), ``split`` (columns), and of the hub ``config`` and ``revision``. Needs the extra
    ``hf``.
    """
    tables = {name: table.with_format(None) for name, table in _load(source).items()}  # a format hides columns
    first = next(iter(tables.values()))
    pictures = [name for name, feature in first.features.items() if type(feature).__name__ == "Image"]
    options = dict(source.options)
    if "image" not in options and pictures:
        options["image"] = pictures[0]
    columns = choose_columns(first.column_names, options, source.text)
    read, account = _read(tables, columns, source)
    rows = {name: len(table) for name, table in tables.items()}
    about = {"format": "Hugging Face dataset", "columns": columns.about(), "rows": rows}
    return replace(read, about=about, accounts=(account,))


def _read(tables: dict[str, Any], columns: Columns, source: Source) -> tuple[Collection, Account]:
    """The rows of all tables that have the columns, and their account. Raises DataError where none can be used."""
    found, ledger = Gathered(), Ledger("rows")
    starts: list[int] = []
    stores: list[Any] = []
    empty: set[int] = set()
    total = 0
    for name, table in tables.items():
        lacking = columns.lacking(table.column_names)
        own = replace(columns, name="") if lacking == columns.name else columns  # a name is not needed
        if own is columns and lacking:
            detail = (
                f"{source.text}: split {name!r} has no column {lacking}, as {next(iter(tables))!r} has. Name columns "
                f"that all have: ?image=COLUMN&caption=COLUMN."
            )
            ledger.leave("of a split without the columns", name, len(table), detail=detail)
            continue
        starts.append(total)
        stores.append(_pictures_only(table, columns.image, source.text))
        empty |= {total + row for row in _empty(stores[-1], columns.image)}
        images = _images(found, stores, starts, columns.image)
        _gather(found, ledger, table, own, name, total, source.text, images)
        total += len(table)
    account = ledger.close(sum(len(table) for table in tables.values()))
    if not found.names:
        raise DataError(f"{source.text} holds no rows.")
    missing = {index: "its row, which is empty" for index, row in enumerate(found.rows) if row in empty}
    images = _images(found, stores, starts, columns.image)
    return Collection(source.text, images, found.captions, found.splits, missing), account


def _images(found: Gathered, stores: list[Any], starts: list[int], column: str) -> ArrowImages:
    rows = np.array(found.rows, np.int64)
    return ArrowImages(tuple(found.names), rows, tuple(stores), np.array(starts, np.int64), column)


def _load(source: Source) -> dict[str, Any]:
    """The tables of a dataset by the name of their split. Raises DataError and MissingExtraError."""
    datasets = require_datasets()
    path = source.place
    try:
        if is_saved(path):
            found = datasets.load_from_disk(str(path))
        elif path.exists():
            raise DataError(
                f"{source.path} is there, but was not written by save_to_disk: it has no dataset_dict.json and no "
                f"state.json. Give that folder, or read other files without hf:."
            )
        else:
            config, revision = source.options.get("config"), source.options.get("revision")
            found = datasets.load_dataset(source.path, config, revision=revision)
    except DataError:
        raise
    except Exception as error:  # of the hub, of files, of the network: datasets raises nearly anything
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise DataError(
            f"{source.text} cannot be loaded by datasets ({reason}). Expected a name such as OWNER/NAME of the hub, "
            f"which needs a network the first time, or a folder of save_to_disk."
        ) from None
    return dict(found) if isinstance(found, dict) else {"train": found}


def _pictures_only(table: Any, column: str, where: str) -> Any:
    """The image column alone, as encoded bytes."""
    datasets = require_datasets()
    only = table.select_columns([column])
    feature = only.features[column]
    if type(feature).__name__ == "Image":
        return only.cast_column(column, datasets.Image(decode=False))
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    if type(inner).__name__ == "Image":
        return only.cast_column(column, type(feature)(datasets.Image(decode=False)))
    if isinstance(feature, dict) or getattr(feature, "dtype", "") in ("binary", "large_binary"):
        return only
    raise DataError(f"{where}: the column {column!r} holds {feature}; expected images. Name another: ?image=COLUMN.")


def _empty(store: Any, column: str) -> list[int]:
    """The rows whose image is empty."""
    found: list[int] = []
    arrow = store.with_format("arrow")
    for first in range(0, len(store), BATCH):
        found += [first + row for row in empty_cells(arrow[first : first + BATCH].column(column))]
    return found


def _gather(
    found: Gathered, ledger: Ledger, table: Any, columns: Columns, split: str, start: int, source: str,
    images: ArrowImages,
) -> None:  # fmt: skip
    """Names, splits and captions of a table's rows, without its images."""
    texts = table.select_columns(columns.texts)
    usual = split_in(split)
    for first in range(0, len(table), BATCH):
        rows = texts[first : first + BATCH]
        for row, cells in enumerate(zip(*rows.values()), first):
            where = f"{source}: row {row} of {split}"
            with ledger.unit_of(f"row {row} of {split}"):
                own = dict(zip(rows, cells))
                found.add_cells(start + row, own, columns, f"{split}-{row:08d}", usual, where, images.same)
