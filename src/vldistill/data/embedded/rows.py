"""The rows of parts with what their tables say: names, captions, paths of pictures, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from vldistill.data.account import Account, Ledger
from vldistill.data.columns import split_of_cell
from vldistill.data.downloads import COLUMNS as DOWNLOADS
from vldistill.data.downloads import tells_downloads, why_failed
from vldistill.data.embedded.shards import Part
from vldistill.data.embedded.tables import (
    KEYS,
    Cells,
    columns_of,
    count_rows,
    is_table,
    meaning_of,
    read_cells,
    text_in,
)
from vldistill.data.pairs import SPLITS
from vldistill.data.patterns import listed
from vldistill.data.source import Source
from vldistill.data.texts import Texts
from vldistill.errors import DataError


@dataclass(frozen=True, eq=False)
class Rows:
    """R rows, in the order of their vectors.

    Attributes:
        ids: equal for rows of one image.
        captions: to show.
        paths: of pictures; None where no table has any.
        hashes: uint64 (R,), of the ids.
        splits: int8 (R,), the number of each in SPLITS.
        own_splits: whether the source says any.
        about: the columns, for ``inspect``.
        accounts: of tables with other rows than the vectors have.
    """

    ids: Texts
    captions: Texts
    paths: Texts | None
    hashes: np.ndarray
    splits: np.ndarray
    own_splits: bool
    about: Mapping[str, str]
    accounts: Sequence[Account]


def read_rows(parts: Sequence[Part], source: Source, root: Path) -> Rows:
    """What the tables say of every row. Raises DataError where rows and vectors do not belong together."""
    extra = _Extra.of(source, root, sum(len(part.image) for part in parts))
    found = _Collected(source, extra)
    for part in parts:
        found.add(part)
    return found.rows()


@dataclass
class _Collected:
    """The rows so far."""

    source: Source
    extra: _Extra | None
    ids: list[Texts] = field(default_factory=list)
    captions: list[Texts] = field(default_factory=list)
    paths: list[Texts] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    splits: list[np.ndarray] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    pictured: bool = False
    split: bool = False
    count: int = 0
    failed: Ledger = field(default_factory=lambda: Ledger("table rows"))
    seen: int = 0

    def add(self, part: Part) -> None:
        """The rows of one part."""
        rows = len(part.image)
        cells, where = self._cells(part, rows)
        meaning = meaning_of(list(cells), self.source.options, self.source.text)
        self.about |= meaning.about()
        ids = self._texts(cells, meaning.id, where)
        named = [text or f"row-{self.count + row:08d}" for row, text in enumerate(ids or [""] * rows)]
        captions = self._texts(cells, meaning.caption, where)
        addresses = self._texts(cells, meaning.address, where)
        self.ids.append(Texts.of(named))
        self.hashes.append(hashes_of(named))
        shown = captions or addresses
        if shown:
            also = addresses or named
            self.captions.append(Texts.of(text or also[row] or named[row] for row, text in enumerate(shown)))
        else:
            self.captions.append(self.ids[-1])
        paths = self._texts(cells, meaning.path, where) if meaning.path != meaning.id else named
        self.paths.append(self.ids[-1] if paths is named else Texts.of(paths or [""] * rows))
        self.pictured = self.pictured or bool(meaning.path)
        own = cells.get(meaning.split) if meaning.split else None
        self.split = self.split or own is not None or part.split is not None
        if own is None:
            code = SPLITS.index(part.split or "train")
            self.splits.append(np.full(rows, code, np.int8))
        else:
            words = [split_of_cell(word, part.split, f"{where}: row {row}") for row, word in enumerate(own)]
            self.splits.append(np.array([SPLITS.index(word) for word in words], np.int8))
        self.count += rows

    def _texts(self, cells: Cells, column: str, where: str) -> list[str]:
        """The cells of a column as texts; none without the column."""
        if not column:
            return []
        return [text_in(cell, f"{where}: row {row}").strip() for row, cell in enumerate(cells[column])]

    def _cells(self, part: Part, rows: int) -> tuple[Cells, str]:
        """The cells of a part's table, one for each row of its vectors."""
        cells: Cells = {}
        where = part.table or part.names[0]
        if part.cells is not None:
            meaning = meaning_of(part.headings, {}, self.source.text)  # options may mean another table
            asked = [self.source.options.get(name, "") for name in ("caption", "id", "split")]
            keys = [name for name in (*KEYS, *DOWNLOADS) if name in part.headings]
            cells = part.cells([*meaning.columns, *(name for name in asked if name in part.headings), *keys])
            cells = self._aligned(cells, rows, where, part.names[0])
        if self.extra is not None:
            cells = {**cells, **self.extra.cells_of(cells, rows, self.count, part.names[0])}
            where = f"{where}, {self.extra.path.name}"
        return cells, where

    def _aligned(self, cells: Cells, rows: int, where: str, vectors: str) -> Cells:
        """The rows of a table that the vectors belong to: all, or those that img2dataset downloaded."""
        count = count_rows(cells)
        if count == rows:
            return cells
        chosen = downloaded(cells)
        if self.extra is not None and len(chosen or ()) != rows:
            return {}  # another table is named
        if chosen is None or len(chosen) != rows:
            told = "" if chosen is None else f", of which {len(chosen):,} were downloaded"
            raise DataError(
                f"{vectors} has {rows:,} rows and {where} {count:,}{told}; expected a row of the table for each "
                f"vector. Give the table that was made with the vectors, or one with a column that both have "
                f"({', '.join(KEYS)}): ?table=FILE."
            )
        self.failed.use(rows)
        self.seen += count
        statuses = cells["status"]
        for row in sorted(set(range(count)) - set(chosen)):
            self.failed.leave(why_failed(statuses[row]), f"row {row} of {where}", loss=False)
        return {name: [own[row] for row in chosen] for name, own in cells.items()}

    def rows(self) -> Rows:
        """All of them."""
        accounts = [self.failed.close(self.seen)] if self.seen else []
        if self.extra is not None:
            accounts.append(self.extra.account())
        ids = Texts.joined(self.ids)
        same = all(own is shown for own, shown in zip(self.ids, self.captions))
        pictured = self.pictured and any(len(part.raw) for part in self.paths)
        alike = all(own is path for own, path in zip(self.ids, self.paths))
        return Rows(
            ids,
            ids if same else Texts.joined(self.captions),
            None if not pictured else ids if alike else Texts.joined(self.paths),
            np.concatenate(self.hashes),
            np.concatenate(self.splits),
            self.split,
            self.about,
            accounts,
        )


def hashes_of(names: Sequence[str]) -> np.ndarray:
    """(N,) uint64: the hashes by which splits are made, see :mod:`vldistill.data.splits`."""
    raw = (blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(raw), "<u8").astype(np.uint64)


def downloaded(cells: Cells) -> list[int] | None:
    """The rows of a table of img2dataset whose download did not fail; None of any other table."""
    if not tells_downloads(list(cells)):
        return None
    return [row for row, status in enumerate(cells["status"]) if not why_failed(status)]


@dataclass
class _Extra:
    """The table that the option ``table`` names: joined by a column that both have, else by the order of rows."""

    path: Path
    columns: dict[str, list[object]]
    total: int  # rows of vectors
    used: set[int] = field(default_factory=set)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source, root: Path, total: int) -> _Extra | None:
        if "table" not in source.options:
            return None
        given = Path(source.options["table"]).expanduser()
        path = given if given.is_absolute() or not (root / given).exists() else root / given
        files = [file for file in listed(path, "*") if is_table(file)] if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise DataError(
                f"{source.text}: table is {str(given)!r}; expected a table, or a folder of some. Correct it."
            )
        columns: dict[str, list[object]] = {}
        for file in files:
            names = columns_of(file)
            options = {name: source.options[name] for name in ("caption", "id", "split") if name in source.options}
            wanted = meaning_of(names, {k: v for k, v in options.items() if v in names or not v}, source.text).columns
            cells = read_cells(file, [*wanted, *(name for name in (*KEYS, *DOWNLOADS) if name in names)])
            if columns and set(cells) != set(columns):
                raise DataError(f"{file} has other columns than {files[0].name}. Give tables with the same ones.")
            for name, own in cells.items():
                columns.setdefault(name, []).extend(own)
        return cls(path, columns, total)

    def cells_of(self, cells: Cells, rows: int, first: int, vectors: str) -> Cells:
        """The cells of this table for ``rows`` rows of vectors, counted from ``first``."""
        key = next((name for name in KEYS if name in cells and name in self.columns), "")
        if key:
            return self._joined(key, cells[key])
        count, chosen = count_rows(self.columns), downloaded(self.columns) or []
        if count == self.total:
            chosen = list(range(count))
        if len(chosen) != self.total:
            raise DataError(
                f"{vectors} and what belongs to it have {self.total:,} rows and {self.path.name} {count:,}, and they "
                f"share no column ({', '.join(KEYS)}); expected a row of the table for each vector."
            )
        taken = chosen[first : first + rows]
        self.used |= set(taken)
        return {name: [own[row] for row in taken] for name, own in self.columns.items()}

    def _joined(self, key: str, wanted: Sequence[object]) -> Cells:
        """The rows with the same key; empty cells where there is none."""
        if key not in self.rows:
            self.rows[key] = {str(value): row for row, value in enumerate(self.columns[key]) if value is not None}
        rows = [self.rows[key].get(str(value)) for value in wanted]
        self.used |= {row for row in rows if row is not None}
        others = {name: own for name, own in self.columns.items() if name != key}
        return {name: [None if row is None else own[row] for row in rows] for name, own in others.items()}

    def account(self) -> Account:
        """The account of its rows: those without a vector are no loss, for a download may have failed."""
        ledger, count = Ledger("table rows"), count_rows(self.columns)
        statuses = self.columns.get("status") or [None] * count
        ledger.use(len(self.used))
        for row in range(count):
            if row not in self.used:
                ledger.leave(
                    why_failed(statuses[row]) or "without a vector", f"row {row} of {self.path.name}", loss=False
                )
        return ledger.close(count)
