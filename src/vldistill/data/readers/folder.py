"""The reader of a folder of images, each with its captions in a text file of the same name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from vldistill.data.account import Account, Ledger
from vldistill.data.collection import Collection
from vldistill.data.evidence import caption_jsons, caption_tables, picture_tables, sample_tars
from vldistill.data.jsonfile import load_json
from vldistill.data.patterns import listed
from vldistill.data.reader import path_reader
from vldistill.data.samples import IMAGE_SUFFIXES, captions_of_json
from vldistill.data.source import Source
from vldistill.data.splits import WORDS
from vldistill.data.stores import FileImages, Place
from vldistill.errors import DataError

ENOUGH = 10_000  # files listed to recognise a folder
ABOUT = {"readme", "license", "licence", "notes", "source", "classes", "labels", "requirements"}  # no captions
TEXTS = (".txt", ".caption", ".json")  # the first that is there holds the captions


def is_folder(path: Path) -> bool:
    """Whether a folder has an image with a text of its name, here or deeper, and no other file that holds captions."""
    if not path.is_dir() or caption_jsons(path) or sample_tars(path) or caption_tables(path):
        return False
    if picture_tables(listed(path, "*.parquet")) or (path / "dataset_dict.json").is_file():
        return False
    files = islice(_walk(path), ENOUGH)
    return any(file.suffix.lower() in IMAGE_SUFFIXES and _text_of(file) is not None for file in files)


@path_reader("folder", looks=is_folder)
def read(source: Source) -> Collection:
    """A folder of photo.jpg with photo.txt beside it, a caption on each line; folders train/, val/, test/ are splits.

    ``photo.caption`` and ``photo.json`` with ``caption`` or ``captions`` do as well. An image without any counts as one
    without caption.
    """
    root = source.place
    if not root.is_dir():
        raise DataError(f"{source.path} is not a folder. Give a folder of images with a .txt beside each.")
    files = list(_walk(root))
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")]
    named = _split_folders(root, pictures)
    ledger = Ledger("files")
    found = _Found()
    _read(found, ledger, root, pictures, named)
    if not found.names:
        raise DataError(f"{source.path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    _leave_others(ledger, root, files, found.used | set(pictures))
    about = {"format": "folder of images and texts", "folders_of_splits": [*named]}
    images = FileImages(tuple(found.names), tuple(map(Place, found.paths)))
    return Collection(source.text, images, found.captions, found.splits, about=about, accounts=(_closed(ledger, root),))


class _Found:
    """The images read so far."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.paths: list[Path] = []
        self.splits: list[str] = []
        self.captions: list[list[str]] = []
        self.used: set[Path | None] = set()


def _read(found: _Found, ledger: Ledger, root: Path, pictures: list[Path], named: Mapping[str, Path]) -> None:
    """Add every image with its captions; what lies beside the folders of splits is left out."""
    places = [(WORDS[name], folder) for name, folder in named.items()] or [("train", root)]
    inside: set[Path] = set()
    for split, folder in places:
        for path in (path for path in pictures if path.is_relative_to(folder)):
            inside.add(path)
            text = _text_of(path)
            try:
                captions = _captions(text)
            except DataError as error:
                ledger.leave("captions cannot be read", str(path.relative_to(root)), detail=str(error))
                if text is not None and text not in found.used:
                    found.used.add(text)
                    ledger.leave("captions cannot be read", str(text.relative_to(root)))
                continue
            found.names.append(path.relative_to(folder).as_posix())
            found.paths.append(path)
            found.splits.append(split)
            found.captions.append(captions)
            ledger.use()
            if text is not None and text not in found.used:
                found.used.add(text)
                ledger.use()
    for path in pictures:
        if path not in inside:
            ledger.leave("not in the folder of a split", str(path.relative_to(root)))


def _leave_others(ledger: Ledger, root: Path, files: list[Path], used: set[Path | None]) -> None:
    """The files that are neither images nor their texts."""
    for path in files:
        if path not in used:
            text = path.suffix.lower() in (".txt", ".caption") and not path.name.startswith(".")
            image = any(path.with_suffix(suffix) in used for suffix in IMAGE_SUFFIXES)
            lost = text and not image and path.stem.lower() not in ABOUT
            reason = "text without an image" if lost else "neither an image nor the text that is read"
            ledger.leave(reason, str(path.relative_to(root)), loss=lost)


def _closed(ledger: Ledger, root: Path) -> Account:
    return ledger.close(sum(len(files) for _, _, files in os.walk(root)))


def _split_folders(root: Path, pictures: list[Path]) -> dict[str, Path]:
    """The folders that are splits: where all with images are called like one, or some are train and val or test."""
    tops: dict[str, list[Path]] = defaultdict(list)
    for path in pictures:
        tops[path.relative_to(root).parts[0] if path.parent != root else ""].append(path)
    named = {name.lower(): root / name for name in sorted(tops) if name.lower() in WORDS}
    splits = {WORDS[name] for name in named}
    return named if named and (len(named) == len(tops) or ("train" in splits and len(splits) > 1)) else {}


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder in a fixed order; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            yield Path(place) / file


def _text_of(image: Path) -> Path | None:
    """The file with an image's captions: of its name, with the case of the suffix as it comes."""
    for suffix in TEXTS:
        for text in (image.with_suffix(suffix), image.with_suffix(suffix.upper())):
            if text.is_file():
                return text
    return None


def _captions(text: Path | None) -> list[str]:
    if text is None:
        return []
    if text.suffix.lower() == ".json":
        return captions_of_json(load_json(text), str(text))
    try:
        return [line for line in text.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{text} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{text} cannot be read ({error.strerror}).") from None
