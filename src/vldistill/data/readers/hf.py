"""The reader of Hugging Face datasets: a name on the hub, or a folder that ``save_to_disk`` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vldistill.data.account import Account, Ledger
from vldistill.data.collection import Collection
from vldistill.data.columns import Columns, Gathered, choose_columns
from vldistill.data.containers import ArrowImages, missing_cells, require_datasets
from vldistill.data.jsonfile import load_json
from vldistill.data.pairs import ImageStore
from vldistill.data.places import NamedFiles
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.splits import split_in
from vldistill.errors import DataError, VldistillError
from vldistill.storage.hub import bounded_look_up

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 10_000  # rows whose texts are turned into Python at a time


def is_saved(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of datasets."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


@path_reader("hf", looks=is_saved, options=("image", "caption", "name", "split", "images", "config", "revision"))
def read(source: Source) -> Collection:
    """hf:OWNER/NAME of the Hugging Face hub, or a folder of save_to_disk; columns are guessed, or named by options.

    Options: ``image``, ``caption`` (several joined by commas), ``name`` (rows with one name and one picture are one
    image; empty: every row is one), ``split`` (columns), ``images`` (the folder of a column of paths), and of the hub
    ``config`` and ``revision``. Needs the extra ``hf``.
    """
    return of_tables(source, loaded(source))


def loaded(source: Source) -> dict[str, Dataset]:
    """The tables of a dataset by the name of their split. Raises DataError and MissingExtraError."""
    tables = {name: table.with_format(None) for name, table in _load(source).items()}  # a format hides columns
    if not tables:
        raise DataError(f"{source.text} holds no rows.")
    return tables


def of_tables(source: Source, tables: dict[str, Dataset]) -> Collection:
    """The pairs of a dataset's tables. Raises DataError."""
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
    found = _Found(source, next(iter(tables)), any(map(split_in, tables)))
    for name, table in tables.items():
        found.add_table(name, table, columns)
    account = found.ledger.close(sum(len(table) for table in tables.values()))
    if not found.gathered.names:
        raise DataError(f"{source.text} holds no rows.")
    gathered = found.gathered
    rows = enumerate(gathered.rows)
    missing = {index: found.lost[row] for index, row in rows if row in found.lost}
    images: ImageStore = found.images(columns.image)
    if found.files.paths:
        images, missing = found.files.find(gathered.names, gathered.rows)
    return Collection(source.text, images, gathered.captions, gathered.splits, missing), account


@dataclass
class _Found:
    """The rows read so far."""

    source: Source
    first: str  # the split whose columns all must have
    split: bool  # some are called like a split: others are none
    gathered: Gathered = field(default_factory=Gathered)
    ledger: Ledger = field(default_factory=lambda: Ledger("rows"))
    starts: list[int] = field(default_factory=list)
    stores: list[Any] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)  # row without an image -> where it was looked for
    total: int = 0

    def __post_init__(self) -> None:
        self.files = NamedFiles(self.source, self.source.place)

    def add_table(self, name: str, table: Any, columns: Columns) -> None:
        """The rows of one more split, or why they are left out."""
        lacking = columns.lacking(table.column_names)
        own = replace(columns, name="") if lacking == columns.name else columns  # a name is not needed
        if own is columns and lacking:
            detail = (
                f"{self.source.text}: split {name!r} has no column {lacking}, as {self.first!r} has. Name columns that "
                f"all have: ?image=COLUMN&caption=COLUMN."
            )
            self.ledger.leave("of a split without the columns", name, len(table), detail=detail)
        elif self.split and split_in(name) is None:
            self.ledger.leave("of a split that is none of train, val and test", name, len(table))
        else:
            store = _pictures_only(table, columns.image, self.source.text)
            if store is not None:
                self.starts.append(self.total)
                self.stores.append(store)
                self.lost |= {self.total + row: where for row, where in self._lost(store, columns.image)}
            self._gather(table, own, name, paths=store is None)
            self.total += len(table)

    def images(self, column: str) -> ArrowImages:
        """The images in the cells."""
        names, rows = tuple(self.gathered.names), np.array(self.gathered.rows, np.int64)
        return ArrowImages(names, rows, self.stores, np.array(self.starts, np.int64), column, folder=self.files.folder)

    def _lost(self, store: Any, column: str) -> Iterator[tuple[int, str]]:
        """The rows whose image is not there."""
        arrow = store.with_format("arrow")
        for first in range(0, len(store), BATCH):
            lost = missing_cells(arrow[first : first + BATCH].column(column), self.files.folder)
            yield from ((first + row, where) for row, where in lost.items())

    def _gather(self, table: Any, columns: Columns, split: str, *, paths: bool) -> None:
        """Names, splits and captions of a table's rows, without its images."""
        texts = table.select_columns(columns.texts + [columns.image] * paths)
        usual, images = split_in(split), self.images(columns.image)
        for first in range(0, len(table), BATCH):
            rows = texts[first : first + BATCH]
            for row, cells in enumerate(zip(*rows.values()), first):
                where, number, own = (
                    f"{self.source.text}: row {row} of {split}",
                    self.total + row,
                    dict(zip(rows, cells)),
                )
                with self.ledger.unit_of(f"row {row} of {split}"):
                    if paths:
                        name = self.files.add(number, own[columns.image], columns.image, where)
                        named = replace(columns, name="")
                        self.gathered.add_cells(number, own, named, name, usual, where, lambda _, path=name: path)
                    else:
                        name = f"{split}-{row:08d}"
                        self.gathered.add_cells(number, own, columns, name, usual, where, images.picture)


def _load(source: Source) -> dict[str, Any]:
    """The tables of a dataset by the name of their split. Raises DataError and MissingExtraError."""
    datasets = require_datasets()
    path = source.place
    try:
        if is_saved(path):
            found = _saved(datasets, path)
        elif path.exists():
            raise DataError(
                f"{source.path} is there, but was not written by save_to_disk: it has no dataset_dict.json and no "
                f"state.json. Give that folder, or read other files without hf:."
            )
        else:
            config, revision = source.options.get("config"), source.options.get("revision")
            with bounded_look_up(source.text, "Connect once, or give a folder of save_to_disk."):
                found = datasets.load_dataset(source.path, config, revision=revision)
    except VldistillError:
        raise
    except Exception as error:  # of the hub, of files, of the network: datasets raises nearly anything
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise DataError(
            f"{source.text} cannot be loaded by datasets ({reason}). Expected a name such as OWNER/NAME of the hub, "
            f"which needs a network the first time, or a folder of save_to_disk."
        ) from None
    return dict(found) if isinstance(found, dict) else {"train": found}


def _saved(datasets: Any, path: Path) -> dict[str, Any]:
    """The tables of a folder of ``save_to_disk`` but for empty ones, which datasets writes but does not load."""
    listing = path / "dataset_dict.json"
    places = {name: path / name for name in load_json(listing)["splits"]} if listing.is_file() else {"train": path}
    filled = {name: place for name, place in places.items() if load_json(place / "state.json")["_data_files"]}
    return {name: datasets.load_from_disk(str(place)) for name, place in filled.items()}


def _pictures_only(table: Any, column: str, where: str) -> Any:
    """The image column alone, as encoded bytes; None where it holds paths. Raises DataError."""
    datasets = require_datasets()
    only = table.select_columns([column])
    feature = only.features[column]
    if type(feature).__name__ == "Image":
        return only.cast_column(column, datasets.Image(decode=False))
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    if getattr(inner or feature, "dtype", "") in ("string", "large_string"):
        return None
    if type(inner).__name__ == "Image":
        return only.cast_column(column, type(feature)(datasets.Image(decode=False)))
    if isinstance(feature, dict) or getattr(feature, "dtype", "") in ("binary", "large_binary"):
        return only
    raise DataError(f"{where}: the column {column!r} holds {feature}; expected images. Name another: ?image=COLUMN.")
