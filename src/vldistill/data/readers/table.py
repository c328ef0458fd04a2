"""The reader of text tables: csv, tsv, a json object on each line, and Flickr's token files."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path, PurePosixPath
from typing import Any

from vldistill.data.account import Account, Ledger, files_account, merged
from vldistill.data.collection import Collection
from vldistill.data.columns import DOWNLOAD, Columns, Gathered, choose_columns, split_of_cell, texts_of
from vldistill.data.embedded.recognise import is_embedded
from vldistill.data.evidence import TABLES, caption_jsons, caption_tables, is_table_name, sample_tars, tables_of
from vldistill.data.pairs import in_order
from vldistill.data.patterns import listed
from vldistill.data.places import ADDRESS, find_images, images_folder, path_in_cell
from vldistill.data.reader import path_reader
from vldistill.data.readers.folder import is_folder
from vldistill.data.readers.hf import is_saved
from vldistill.data.readers.parquet import is_parquet
from vldistill.data.samples import IMAGE_SUFFIXES
from vldistill.data.source import Source
from vldistill.data.splits import WORDS, split_in
from vldistill.data.tables import Layout, Table, count_lines, layout_of, rows_of
from vldistill.errors import DataError

LISTS = {"trainimages": "train", "devimages": "val", "testimages": "test"}  # Flickr_8k.trainImages.txt, ...


@dataclass(frozen=True)
class File:
    """A table of a source, the split that its name means, and the folder of its images in the source."""

    path: Path
    split: str | None = None
    folder: str = ""


def is_table(path: Path) -> bool:
    """Whether a path is a text table, or a folder with some that name images and captions."""
    if path.is_dir():
        if caption_jsons(path) or sample_tars(path) or is_saved(path) or is_embedded(path):
            return False
        return bool(_tables(path)) or (bool(listed(path, "*.[ct]sv")) and not is_folder(path) and not is_parquet(path))
    return is_table_name(path) or (path.suffix.lower() == ".txt" and path.is_file() and _is_captions(path))


@path_reader("csv", looks=is_table, options=("image", "caption", "split", "sep", "images"))
def read(source: Source) -> Collection:
    """A .csv, .tsv, .jsonl or Flickr's .token.txt (filepath and title, or others), or the folder with train.csv, ...

    Rows with the same image belong together. Images are looked for beside the file and in ``images/``; the option
    ``images`` names another folder. Further options: ``image``, ``caption``, ``split`` (columns) and ``sep``.
    """
    return read_rows(source, texts_of)


def read_rows(source: Source, texts: Callable[[object, str], list[str]]) -> Collection:
    """The rows of a source's tables; ``texts`` are the captions in a cell, whose place is its second argument."""
    files, weighed = _files(source)
    root = files[0].path.parent if not files[0].folder else source.place
    folder = images_folder(source, root).absolute()
    found = Gathered()
    about: dict[str, Any] = {"format": "csv", "files": [str(file.path) for file in files]}
    accounts = []
    for file in files:
        table = layout_of(file.path, source.options, source.text)
        columns = choose_columns(table.header, source.options, str(file.path)) if _named(table) else None
        if columns is None:
            raise DataError(_unknown(table))
        accounts.append(_gather(found, table, columns, file, folder, "images" in source.options, texts))
        about |= {"columns": columns.about(), "separator": table.separator, "lines": table.kind.value}
    account = merged(accounts)
    if file_split := next((file for file in files if file.split and len(files) == 1), None):
        about["split"] = f"{file_split.split}, from the name {file_split.path.name}; ?val=0.1&test=0.1 splits it again"
    images, missing = find_images(folder, found.names, exactly_named="images" in source.options)
    about["images_in"] = str(folder)
    return Collection(source.text, images, found.captions, found.splits, missing, about, accounts=(weighed, account))


def _gather(
    found: Gathered,
    table: Table,
    columns: Columns,
    file: File,
    folder: Path,
    named: bool,
    texts: Callable[[object, str], list[str]],
) -> Account:
    """Add the rows of a table; returns the account of its lines. Raises DataError where no row can be used."""
    ledger = Ledger("lines")
    if table.skipped:
        ledger.leave("header", "line 1", table.skipped, loss=False)
    lists = _split_lists(table)
    for row in rows_of(table):
        where = f"{table.path}: line {row.line}"
        if row.blank:
            ledger.leave("blank", f"line {row.line}", loss=False)
            continue
        with ledger.unit_of(f"line {row.line}", row.span, "malformed"):
            if row.trouble:
                raise DataError(row.trouble)
            name = path_in_cell(row.cells.get(columns.image), columns.image, folder, where, exactly_named=named)
            split = lists.get(name) if lists else file.split
            if lists and split is None:
                raise DataError(f"{where}: {name} is in none of the lists of splits beside it. Add it to one.")
            own = split_of_cell(row.cells.get(columns.split) if columns.split else None, split, where)
            captions = [text for column in columns.captions for text in texts(row.cells.get(column), where)]
            found.add(0, f"{file.folder}/{name}" if file.folder else name, own, captions, where)
    return ledger.close(count_lines(table.path, table.encoding))


def _named(table: Table) -> bool:
    return table.kind is not Layout.UNKNOWN or not any(map(ADDRESS.search, table.header))


def _unknown(table: Table) -> str:
    return f"{table.path} has no header, and holds addresses of images ({', '.join(table.header)[:120]}). {DOWNLOAD}"


def _is_captions(path: Path) -> bool:
    try:
        return layout_of(path, {}, str(path)).kind in (Layout.HEADER, Layout.TOKEN)
    except DataError:
        return False


def _tables(folder: Path) -> list[File]:
    """The tables in a folder, or in its folders of splits."""
    texts = [path for path in nsmallest(50, folder.glob("*.txt")) if not _beside_image(path) and _is_captions(path)]
    own = sorted({*caption_tables(folder), *texts})
    if own:
        return [File(path) for path in own]
    nested = [(WORDS[sub.name.lower()], sub) for sub in sorted(folder.glob("*/")) if sub.name.lower() in WORDS]
    return [File(path, split, sub.name) for split, sub in nested for path in caption_tables(sub)]


def _beside_image(path: Path) -> bool:
    return any(path.with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES)


def _files(source: Source) -> tuple[list[File], Account]:
    """The tables of a source with their splits, and the account of the tables weighed. Raises DataError."""
    path = source.place
    if not path.is_dir():
        return [File(path, split_in(_stem(path)))], files_account([path], {}, 1)
    tables = _tables(path) or [File(file) for file in listed(path, "*.[ct]sv")]
    if not tables:
        raise DataError(
            f"the folder {path} holds no table ({', '.join(TABLES)}) of images and captions. Give the file."
        )
    kept, copies = _without_copies(tables)
    read = {file.path for file in tables}
    others = [one for one in tables_of(path) if one not in read]
    account = files_account(
        [file.path for file in kept], {"copy of another": copies, "table of other things": others},
        len(tables) + len(others),
    )  # fmt: skip
    if len(kept) == 1:
        return [File(kept[0].path, kept[0].split or split_in(_stem(kept[0].path)), kept[0].folder)], account
    named: dict[str, File] = {}
    for file in kept:
        split = file.split or split_in(_stem(file.path))
        if split is None or split in named:
            among = ", ".join(one.path.name for one in kept)
            raise DataError(f"the folder {path} holds several tables: {among}. Give the path of the one to read.")
        named[split] = File(file.path, split, file.folder)
    return [named[split] for split in in_order(named)], account


def _without_copies(tables: list[File]) -> tuple[list[File], list[Path]]:
    kept: list[File] = []
    copies: list[Path] = []
    for file in tables:
        same = any(one.split == file.split and filecmp.cmp(one.path, file.path, shallow=False) for one in kept)
        if same:
            copies.append(file.path)
        else:
            kept.append(file)
    return kept, copies


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _split_lists(table: Table) -> dict[str, str]:
    """Image -> split from Flickr's lists beside a table, where all three are there; else nothing."""
    found: dict[str, Path] = {}
    for path in table.path.parent.glob("*Images.txt"):
        for word, split in LISTS.items():
            if path.stem.lower().endswith(word):
                found[split] = path
    if len(found) < len(LISTS) or table.kind is not Layout.TOKEN:
        return {}
    return {
        PurePosixPath(name.strip()).name: split
        for split, path in found.items()
        for name in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if name.strip()
    }
