"""The reader of Karpathy-style json files, the form in which Flickr8k, Flickr30K and COCO splits are shared."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.data.account import Account, Ledger, files_account
from vldistill.data.collection import Collection
from vldistill.data.columns import texts_of
from vldistill.data.evidence import json_files, json_kind
from vldistill.data.jsonfile import describe, head_of, kind, load_json, text_in
from vldistill.data.places import find_images, images_folder, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.readers.blip import is_blip
from vldistill.data.source import Source
from vldistill.data.splits import split_named
from vldistill.errors import DataError


def is_karpathy(path: Path) -> bool:
    """Whether a path is a json file, or a folder with some that lists images, and not of BLIP's kind."""
    listing = path.is_dir() and any(b'"images"' in head_of(file) for file in json_files(path))
    return (path.suffix.lower() == ".json" or listing) and not is_blip(path)


@path_reader("karpathy", looks=is_karpathy, options=("images",), says_splits=True, fallback=True)
def read(source: Source) -> Collection:
    """A Karpathy-style .json, or the folder with it; images beside it, in images/, or in .tar files beside it.

    ``filepath`` of an image, where present, is the folder of its ``filename``; the split ``restval`` is train. The
    option ``images`` names another folder of images.
    """
    path, entries, weighed = _find(source.place)
    found = _Found(path)
    ledger = Ledger("list entries")
    for index, entry in enumerate(entries):
        name = entry.get("filename") if isinstance(entry, dict) else None
        with ledger.unit_of(f"image {index} ({name!r})" if name else f"image {index}"):
            found.add(index, entry)
    account = ledger.close(len(entries))
    folder = images_folder(source, path.parent)
    images, missing = find_images(folder, found.names, exactly_named="images" in source.options)
    about = {"format": "Karpathy-style json", "file": str(path), "images_in": str(folder)}
    return Collection(source.text, images, found.captions, found.splits, missing, about, accounts=(weighed, account))


@dataclass
class _Found:
    """The entries read so far."""

    path: Path
    names: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)  # name -> the entry that has it

    def add(self, index: int, entry: Any) -> None:
        """One more entry. Raises DataError, and then nothing of it is kept."""
        if not isinstance(entry, dict):
            raise DataError(
                f"{self.path}: image {index} is {kind(entry)}; expected an object with filename, split, sentences."
            )
        where = f"{self.path}: image {index} ({entry.get('filename')!r})"
        name, split = _name(entry, where), split_named(entry.get("split"), where)
        captions = _captions(entry, where)
        if name in self.first:
            raise DataError(
                f"{where}: filename {name!r} was used before, by image {self.first[name]}; expected it once. "
                f"Remove the duplicate from the json."
            )
        self.first[name] = index
        self.names.append(name)
        self.splits.append(split)
        self.captions.append(captions)


def _find(path: Path) -> tuple[Path, list[Any], Account]:
    """The json file meant by a source, its list of images, and the account of the files that were weighed."""
    if not path.is_dir() or not json_files(path):
        return path, _images(path, load_json(path)), files_account([path], {}, 1)
    files = json_files(path)
    named = [file for file in files if json_kind(file) == "karpathy"] or files
    fitting = [(file, value) for file in named if _is_karpathy(value := _try_json(file))]
    if len(fitting) == 1:
        others = [file for file in files if file != fitting[0][0]]
        account = files_account([fitting[0][0]], {"json of another kind": others}, len(files))
        return fitting[0][0], _images(*fitting[0]), account
    if len(files) == 1:
        return files[0], _images(files[0], load_json(files[0])), files_account(files, {}, 1)
    among = ", ".join(file.name for file, _ in fitting) if fitting else ", ".join(file.name for file in files)
    many = "several Karpathy-style json files" if fitting else "several json files, none of them Karpathy style"
    raise DataError(f"the folder {path} holds {many}: {among}. Give the path of the one to read.")


def _try_json(path: Path) -> Any:
    """The content, or None when unreadable: one broken neighbour does not hide the file that fits."""
    try:
        return load_json(path)
    except DataError:
        return None


def _is_karpathy(value: Any) -> bool:
    """An object whose ``images`` carry ``sentences``."""
    images = value.get("images") if isinstance(value, dict) else None
    return isinstance(images, list) and any(isinstance(image, dict) and "sentences" in image for image in images)


def _images(path: Path, value: Any) -> list[Any]:
    images = value.get("images") if isinstance(value, dict) else None
    if _is_karpathy(value):
        return value["images"]
    looks = f"{path} looks like {describe(value)}"
    if isinstance(images, list) and not images:
        looks = f"{path} has an empty list of images"
    elif isinstance(images, list) and "annotations" not in value:
        looks = f"{path} has a list of images, but none of them has 'sentences'"
    raise DataError(
        f"{looks}; expected a Karpathy-style json: an object with a list 'images', each with filename, split and "
        f"sentences. Give that file, or convert this one."
    )


def _name(entry: dict[str, Any], where: str) -> str:
    """``filepath/filename``, which must stay inside the source's folder."""
    filename = text_in(entry, "filename", where, "photo.jpg")
    folder = "" if entry.get("filepath", "") == "" else text_in(entry, "filepath", where, "train2014")
    return safe_name(where, folder, filename)


def _captions(entry: dict[str, Any], where: str) -> list[str]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list):
        raise DataError(f"{where}: sentences is {kind(sentences)}; expected a list of objects with 'raw'.")
    return texts_of(sentences, where, "Correct the json.")
