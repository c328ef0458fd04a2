"""The reader of a folder of images, each with its captions in a text file of the same name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vldistill.data.collection import Collection
from vldistill.data.jsonfile import load_json
from vldistill.data.reader import path_reader
from vldistill.data.samples import IMAGE_SUFFIXES, captions_of_json
from vldistill.data.source import Source
from vldistill.data.splits import WORDS
from vldistill.data.stores import FileImages, Place
from vldistill.errors import DataError

OTHERS = (".json", ".tar", ".csv", ".tsv", ".parquet", ".arrow")  # a folder that begins with one is of another kind
ENOUGH = 10_000  # files looked at to recognise a folder


def is_folder(path: Path) -> bool:
    """Whether a folder has an image with a .txt of its name, here or deeper, and nothing that is of another kind."""
    if not path.is_dir() or any(file.suffix in OTHERS and not _beside_image(file) for file in path.iterdir()):
        return False
    for number, file in enumerate(_walk(path)):
        if file.suffix.lower() in IMAGE_SUFFIXES and any(file.with_suffix(s).is_file() for s in (".txt", ".json")):
            return True
        if number > ENOUGH:
            break
    return False


@path_reader("folder", looks=is_folder)
def read(source: Source) -> Collection:
    """A folder of photo.jpg with photo.txt beside it, a caption on each line; folders train/, val/, test/ are splits.

    ``photo.json`` with ``caption`` or ``captions`` does as well. An image without either counts as one without caption.
    """
    root = source.place
    if not root.is_dir():
        raise DataError(f"{source.path} is not a folder. Give a folder of images with a .txt beside each.")
    named = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in WORDS}
    names: list[str] = []
    places: list[Place] = []
    splits: list[str] = []
    captions: list[list[str]] = []
    for split, folder in ((WORDS[name], folder) for name, folder in named.items()) if named else (("train", root),):
        for path in _walk(folder):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                names.append(path.relative_to(folder).as_posix())
                places.append(Place(path))
                splits.append(split)
                captions.append(_captions(path))
    if not names:
        raise DataError(f"{source.path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    stray = [path.name for path in root.iterdir() if named and path.suffix.lower() in IMAGE_SUFFIXES]
    if stray:
        raise DataError(
            f"{source.path} has folders of splits ({', '.join(named)}) and images beside them ({stray[0]}, ...). "
            f"Put every image into the folder of its split."
        )
    about = {"format": "folder of images and texts", "folders_of_splits": list(named)}
    return Collection(source.text, FileImages(tuple(names), tuple(places)), captions, splits, about=about)


def _beside_image(file: Path) -> bool:
    return any(file.with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder in a fixed order; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            yield Path(place) / file


def _captions(image: Path) -> list[str]:
    text, record = image.with_suffix(".txt"), image.with_suffix(".json")
    if text.is_file():
        try:
            return [line for line in text.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{text} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
        except OSError as error:
            raise DataError(f"{text} cannot be read ({error.strerror}).") from None
    return captions_of_json(load_json(record), str(record)) if record.is_file() else []
