"""The reader of a folder of images, each with its captions in a text file of the same name."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vldistill.data.account import Ledger
from vldistill.data.collection import Collection
from vldistill.data.downloads import account_of_downloads
from vldistill.data.evidence import caption_jsons, caption_tables, picture_tables, sample_tars
from vldistill.data.jsonfile import load_json
from vldistill.data.patterns import listed, walk
from vldistill.data.reader import path_reader
from vldistill.data.samples import HIDDEN, IMAGE_SUFFIXES, captions_of_json, is_hidden
from vldistill.data.source import Source
from vldistill.data.splits import WORDS
from vldistill.data.stores import FileImages, Place
from vldistill.errors import DataError

ENOUGH = 10_000  # files listed to recognise a folder
ABOUT = {"readme", "license", "licence", "notes", "source", "classes", "labels", "requirements"}  # no captions
TEXTS = (".txt", ".caption", ".json")  # the first that is there holds the captions
UNREADABLE = "captions cannot be read"


def is_folder(path: Path) -> bool:
    """Whether a folder has an image with a text of its name, here or deeper, and no other file that holds captions."""
    if not path.is_dir() or caption_jsons(path) or sample_tars(path) or caption_tables(path):
        return False
    if picture_tables(listed(path, "*.parquet")) or (path / "dataset_dict.json").is_file():
        return False
    files = [file for file in islice(walk(path), ENOUGH) if not is_hidden(file.parts[len(path.parts) :])]
    return any(texts_of_images(images_in(files), files).values())


@path_reader("folder", looks=is_folder)
def read(source: Source) -> Collection:
    """A folder of photo.jpg with photo.txt beside it, a caption on each line; folders train/, val/, test/ are splits.

    ``photo.caption`` and ``photo.json`` with ``caption`` or ``captions`` do as well. An image without any counts as one
    without caption.
    """
    root = source.place
    if not root.is_dir():
        raise DataError(f"{source.path} is not a folder. Give a folder of images with a .txt beside each.")
    files, hidden, pictures = files_of(source)
    found = _Found(root, split_folders(root, pictures), texts_of_images(pictures, files))
    for path in pictures:
        found.add(path)
    found.leave_others(files)
    for path in hidden:
        found.ledger.leave(HIDDEN, str(path.relative_to(root)), loss=False)
    about = {"format": "folder of images and texts", "folders_of_splits": [*found.named]}
    images = FileImages(tuple(found.names), tuple(map(Place, found.paths)))
    downloads = account_of_downloads(listed(root, "*.parquet"), {path.stem for path in found.paths})
    accounts = (found.ledger.close(len(files) + len(hidden)), *downloads)
    return Collection(source.text, images, found.captions, found.splits, about=about, accounts=accounts)


def files_of(source: Source) -> tuple[list[Path], list[Path], list[Path]]:
    """The files below a folder that are not hidden, the hidden ones, and the images among the first.

    Raises:
        DataError: there are no images.
    """
    root = source.place
    parts: dict[bool, list[Path]] = {True: [], False: []}
    for file in walk(root):
        parts[is_hidden(file.parts[len(root.parts) :])].append(file)
    hidden, files = parts[True], parts[False]
    pictures = images_in(files)
    if not pictures:
        raise DataError(f"{source.path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return files, hidden, pictures


def images_in(files: Sequence[Path]) -> list[Path]:
    """The images among some files, by their suffix."""
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


def texts_of_images(pictures: Sequence[Path], files: Sequence[Path]) -> dict[Path, list[Path]]:
    """The texts of each image, the one that is read first: named as it without its suffix, or with it.

    Names fit in another case and with accents composed otherwise only where the text is nobody else's and the image is
    the only one that it fits.
    """
    texts: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted((path for path in files if path.suffix.lower() in TEXTS), key=_rank):
        texts[str(path.parent), path.stem].append(path)
    own = {
        path: [text for name in (path.stem, path.name) for text in texts.get((str(path.parent), name), [])]
        for path in pictures
    }
    taken = {text for found in own.values() for text in found}
    left: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for (folder, name), found in texts.items():
        left[folder, _folded(name)] += [text for text in found if text not in taken]
    bare = [path for path, found in own.items() if not found]
    claims = Counter((path.parent, _folded(path.stem)) for path in bare)
    for path in bare:
        if claims[path.parent, _folded(path.stem)] == 1:
            own[path] = left.get((str(path.parent), _folded(path.stem)), [])
    return own


def _rank(text: Path) -> int:
    return TEXTS.index(text.suffix.lower())


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@dataclass
class _Found:
    """The images read so far, and the account of all files."""

    root: Path
    named: Mapping[str, str]  # the folders of splits, and their splits
    texts: Mapping[Path, list[Path]]
    ledger: Ledger = field(default_factory=lambda: Ledger("files"))
    names: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """One more image with its captions, or why it is left out."""
        own, parts = self.texts[path], path.relative_to(self.root).parts
        label = str(path.relative_to(self.root))
        top = parts[0] if len(parts) > 1 else ""
        if self.named and top not in self.named:
            for file in (path, *own):
                self.ledger.leave("not in the folder of a split", str(file.relative_to(self.root)))
            self.used |= {*own}
        elif own and own[0] in self.used:
            self.ledger.leave("another image of the same text", label, loss=False)
        else:
            try:
                captions = _captions(own[0]) if own else []
            except DataError as error:
                self.ledger.leave(UNREADABLE, label, detail=str(error))
                self.ledger.leave(UNREADABLE, str(own[0].relative_to(self.root)))
            else:
                split = self.named.get(top, "train")
                alone = [*self.named.values()].count(split) == 1  # else names may come twice
                self.names.append("/".join(parts[alone:]))
                self.paths.append(path)
                self.splits.append(split)
                self.captions.append(captions)
                self.ledger.use(1 + bool(own))
            self.used |= {*own[:1]}

    def leave_others(self, files: Sequence[Path]) -> None:
        """The files that are neither images nor the texts that are read."""
        second = {text for own in self.texts.values() for text in own}
        for path in files:
            if path not in self.used and path not in self.texts:
                text = path.suffix.lower() in (".txt", ".caption")
                lost = text and (path in second or path.stem.lower() not in ABOUT)
                reason = "text without an image" if lost else "neither an image nor the text that is read"
                reason = "another text of an image" if path in second else reason
                self.ledger.leave(reason, str(path.relative_to(self.root)), loss=lost)


def split_folders(root: Path, pictures: list[Path]) -> dict[str, str]:
    """The folders that are splits: where all with images are called like one, or some are train and val or test."""
    tops = {path.relative_to(root).parts[0] if path.parent != root else "" for path in pictures}
    named = {name: WORDS[name.lower()] for name in sorted(tops) if name.lower() in WORDS}
    splits = set(named.values())
    return named if named and (len(named) == len(tops) or ("train" in splits and len(splits) > 1)) else {}


def _captions(text: Path) -> list[str]:
    if text.suffix.lower() == ".json":
        return captions_of_json(load_json(text), str(text))
    try:
        return [line for line in text.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{text} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{text} cannot be read ({error.strerror}).") from None
