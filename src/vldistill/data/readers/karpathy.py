"""The reader of Karpathy-style json files, the form in which Flickr8k, Flickr30K and COCO splits are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vldistill.data.collection import Collection
from vldistill.data.jsonfile import describe, identity, kind, load_json, text_in
from vldistill.data.places import find_images, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.readers.blip import is_blip
from vldistill.data.source import Source
from vldistill.errors import DataError

SPLIT_OF = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def is_karpathy(path: Path) -> bool:
    """Whether a path is a json file, or a folder with some, and not of BLIP's kind."""
    some = path.suffix == ".json" or (path.is_dir() and next(path.glob("*.json"), None) is not None)
    return some and not is_blip(path)


@path_reader("karpathy", looks=is_karpathy, says_splits=True, fallback=True)
def read(source: Source) -> Collection:
    """A Karpathy-style .json, or the folder with it; images beside it, in images/, or in .tar files beside it.

    ``filepath`` of an image, where present, is the folder of its ``filename``; the split ``restval`` is train.
    """
    path, entries = _find(source.place)
    names: list[str] = []
    splits: list[str] = []
    captions: list[list[str]] = []
    seen: dict[str, dict[Any, int]] = {"filename": {}, "imgid": {}, "sentid": {}}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(
                f"{path}: image {index} is {kind(entry)}; expected an object with filename, split, sentences."
            )
        where = f"{path}: image {index} ({entry.get('filename')!r})"
        names.append(_name(entry, where))
        splits.append(_split(entry, where))
        captions.append(_captions(entry, where, seen["sentid"], index))
        _unique("filename", names[-1], seen["filename"], index, where)
        if "imgid" in entry:
            _unique("imgid", identity(entry["imgid"], "imgid", where), seen["imgid"], index, where)
    images, missing = find_images(path.parent, names)
    return Collection(source.text, images, captions, splits, missing)


def _find(path: Path) -> tuple[Path, list[Any]]:
    """The json file meant by a source, and its list of images."""
    if not path.is_dir():
        return path, _images(path, load_json(path))
    files = sorted(path.glob("*.json"))
    if len(files) == 1:
        return files[0], _images(files[0], load_json(files[0]))
    fitting = [(file, value) for file in files if _is_karpathy(value := _try_json(file))]
    if len(fitting) == 1:
        return fitting[0][0], _images(*fitting[0])
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


def _split(entry: dict[str, Any], where: str) -> str:
    split = entry.get("split")
    if not isinstance(split, str) or split not in SPLIT_OF:
        raise DataError(f"{where}: split is {split!r}; expected one of {', '.join(SPLIT_OF)}. Correct the json.")
    return SPLIT_OF[split]


def _captions(entry: dict[str, Any], where: str, seen: dict[Any, int], index: int) -> list[str]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list):
        raise DataError(f"{where}: sentences is {kind(sentences)}; expected a list of objects with 'raw'.")
    captions = []
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
            found = kind(sentence)
            if isinstance(sentence, dict):
                found = f"an object whose raw is {kind(sentence.get('raw'))}"
            raise DataError(f"{where}: sentence {number} is {found}; expected an object with a text 'raw'.")
        if "sentid" in sentence:
            _unique("sentid", identity(sentence["sentid"], "sentid", where), seen, index, where)
        captions.append(sentence["raw"])
    return captions


def _unique(key: str, value: object, seen: dict[Any, int], index: int, where: str) -> None:
    if value in seen:
        raise DataError(
            f"{where}: {key} {value!r} was used before, by image {seen[value]}; expected it once. "
            f"Remove the duplicate from the json."
        )
    seen[value] = index
