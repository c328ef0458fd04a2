"""The reader of class sets: folders of classes, tables with labels, and Hugging Face datasets with a ClassLabel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.data.account import Ledger
from vldistill.data.classes import Classes, class_names, in_label_order, labels_of
from vldistill.data.collection import Collection
from vldistill.data.columns import texts_of
from vldistill.data.evidence import is_table_name, tables_of
from vldistill.data.patterns import walk
from vldistill.data.reader import path_reader
from vldistill.data.readers import hf, table
from vldistill.data.readers.folder import ENOUGH, files_of, images_in, split_folders
from vldistill.data.samples import HIDDEN, IMAGE_SUFFIXES, is_hidden
from vldistill.data.source import Source
from vldistill.data.stores import FileImages, Place
from vldistill.data.tables import layout_of
from vldistill.errors import DataError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

LABELS = ("label", "labels", "class", "class_name", "category", "target", "fine_label", "y")
HUB = "hf:"  # before a name on the hub
OPTIONS = ("label", "names", "image", "split", "images", "sep", "name", "config", "revision")


def is_class_folder(path: Path) -> bool:
    """Whether a folder has folders of splits, and in these folders of images alone, of two classes or more.

    Without splits, folders may be albums as well as classes: then the prefix ``classes:`` decides.
    """
    if not path.is_dir():
        return False
    files = [file for file in islice(walk(path), ENOUGH) if not is_hidden(file.parts[len(path.parts) :])]
    pictures = images_in(files)
    named = split_folders(path, pictures)
    inside = [parts for file in pictures if (parts := file.relative_to(path).parts)[0] in named]
    return all(len(parts) > 2 for parts in inside) and len({parts[1] for parts in inside}) > 1


@path_reader("classes", looks=is_class_folder, options=OPTIONS, fallback=True)
def read(source: Source) -> Collection:
    """train/cat/*.png, or cat/*.png by classes:PATH; classes:labels.csv, classes:hf:OWNER/NAME, classes:SAVED.

    Every image gets the prompts of its class as captions. Options: ``label`` (the column), ``names`` (a file of the
    classes' names), and those of tables and datasets.
    """
    if source.path.startswith(HUB) or hf.is_saved(source.place):
        return _of_dataset(source)
    if source.place.is_dir() and not ("label" in source.options or _has_tables(source.place)):
        return _of_folders(source)
    if source.place.is_dir() or is_table_name(source.place):
        return _of_table(source)
    raise DataError(
        f"{source.text}: {source.path} is no class set. Expected a folder of class folders, a table with a column of "
        f"labels (.csv, .tsv, .jsonl), a folder of save_to_disk, or hf:OWNER/NAME."
    )


def _classified(found: Collection, source: Source, keys: Sequence[str] = ()) -> Collection:
    """A class set of a collection whose captions are the keys of classes, ``keys`` being all in order."""
    known = list(keys) or in_label_order(key for own in found.captions for key in own)
    names = class_names(known, source.text, source.options.get("names", ""))
    classes = Classes(names, labels_of(found.captions, known), source=source.text)
    about = {**found.about, "classes": list(names)}
    return replace(found, captions=classes.captions(), classes=classes, about=about)


def _has_tables(folder: Path) -> bool:
    """Whether a folder has tables and no folder with images."""
    inside = (file for sub in folder.glob("*/") for file in islice(sub.iterdir(), ENOUGH))
    return bool(tables_of(folder)) and not any(file.suffix.lower() in IMAGE_SUFFIXES for file in inside)


def _of_table(source: Source) -> Collection:
    """The rows of a table, or of the tables of a folder."""
    first = source.place if source.place.is_file() else next(iter(tables_of(source.place)), None)
    if first is None:
        raise DataError(f"{source.text}: the folder {source.path} holds no table with a column of labels.")
    sep = {name: source.options[name] for name in ("sep",) if name in source.options}
    header = layout_of(first, {**sep, "caption": ""}, source.text).header
    label = _label_column(header, source, str(first))
    options = {name: value for name, value in source.options.items() if name in ("image", "split", "sep", "images")}
    found = table.read_rows(replace(source, options={**options, "caption": label}), _label_texts)
    return _classified(found, source)


def _label_texts(value: object, where: str) -> list[str]:
    """The labels in a cell, which may be numbers. Raises DataError."""
    if isinstance(value, int | float):
        return [str(value)]
    return texts_of(value, where, "Expected a label. Name the right column: ?label=COLUMN.")


def _label_column(columns: Sequence[str], source: Source, where: str, likely: Sequence[str] = ()) -> str:
    """The column of labels: the one named, a likely one, or one with a usual name. Raises DataError."""
    asked = source.options.get("label")
    if asked and asked not in columns:
        raise DataError(f"{source.text}: {unknown('column (label=)', asked, columns)}")
    lower = {column.strip().lower(): column for column in reversed(columns)}
    usual = [lower[name] for name in LABELS if name in lower]
    found = asked or next(iter([*likely, *usual]), "")
    if not found:
        raise DataError(
            f"{where}: no column looks like a class; it has: {', '.join(columns) or 'none'}. Name it: ?label=COLUMN."
        )
    return found


def _of_dataset(source: Source) -> Collection:
    """The rows of a dataset's tables. Numbers become the names that the dataset has for them."""
    plain = replace(source, path=source.path.removeprefix(HUB))
    tables = hf.loaded(plain)
    first = next(iter(tables.values()))
    likely = [name for name, feature in first.features.items() if _names(feature)]
    label = _label_column(first.column_names, source, source.text, likely)
    names = _names(first.features[label])
    named = {name: _with_texts(one, label, names) for name, one in tables.items()}
    options = {name: value for name, value in source.options.items() if name not in ("label", "names", "sep")}
    found = hf.of_tables(replace(plain, options={**options, "caption": label}), named)
    return _classified(found, source, names)


def _names(feature: object) -> list[str]:
    """The names that a column has for its numbers, also one of lists of them; none where it has none."""
    return getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None) or []


def _with_texts(rows: Dataset, label: str, names: Sequence[str]) -> Dataset:
    """A table whose labels are texts: the names of numbers where there are any, nothing for those below 0."""
    if label not in rows.column_names:
        return rows

    def texts_in(value: object) -> list[str]:
        if isinstance(value, list):
            return [text for one in value for text in texts_in(one)]
        if isinstance(value, int) and names:
            return [names[value]] if 0 <= value < len(names) else []
        known = isinstance(value, str | float | bool) or (isinstance(value, int) and value >= 0)
        return [str(value)] if known else []

    texts = list(map(texts_in, rows[label]))
    return rows.remove_columns([label]).add_column(label, texts)


def _of_folders(source: Source) -> Collection:
    """The images in folders of classes, below folders of splits where there are any."""
    root = source.place
    files, hidden, pictures = files_of(source)
    named = split_folders(root, pictures)
    ledger = Ledger("files")
    names, paths, splits, keys = [], [], [], []
    for path in pictures:
        parts = path.relative_to(root).parts
        if named and parts[0] not in named:
            ledger.leave("not in the folder of a split", "/".join(parts))
        elif len(parts) < 2 + bool(named):
            ledger.leave("not in the folder of a class", "/".join(parts))
        else:
            split = named.get(parts[0], "train")
            alone = [*named.values()].count(split) == 1  # else names may come twice
            names.append("/".join(parts[alone:]))
            paths.append(path)
            splits.append(split)
            keys.append([parts[bool(named)]])
            ledger.use()
    for path in set(files) - set(pictures):
        ledger.leave("no image", str(path.relative_to(root)), loss=False)
    for path in hidden:
        ledger.leave(HIDDEN, str(path.relative_to(root)), loss=False)
    if not names:
        raise DataError(
            f"{source.path} has no folders of classes: its images lie side by side. Give one folder a class."
        )
    about = {"format": "folders of classes", "folders_of_splits": [*named]}
    images = FileImages(tuple(names), tuple(map(Place, paths)))
    accounts = (ledger.close(len(files) + len(hidden)),)
    found = Collection(source.text, images, keys, splits, about=about, accounts=accounts)
    known = in_label_order([*(key for own in keys for key in own), *_class_folders(root, named)])
    return _classified(found, source, known)


def _class_folders(root: Path, named: Mapping[str, str]) -> list[str]:
    """The names of all folders of classes, also of those without an image."""
    places = [root / name for name in named] or [root]
    folders = [sub for place in places for sub in sorted(place.iterdir()) if sub.is_dir()]
    return [sub.name for sub in folders if not is_hidden(sub.parts[-1:])]
