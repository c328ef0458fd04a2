"""The reader of BLIP-style json lists, the other form in which Flickr30K and COCO splits are shared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.data.collection import Collection
from vldistill.data.jsonfile import describe, kind, load_json
from vldistill.data.pairs import SPLITS
from vldistill.data.places import find_images, looked_in, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.stores import FileImages
from vldistill.errors import DataError

HEAD_BYTES = 65_536  # enough to see what a json file is without reading it
NAMED = re.compile(r"(?P<family>.*?)(?:^|(?<=[_.-]))(?P<split>train|val|test)")
PLACE = re.compile(r"(.*[-_])?images")  # a folder that says where images are, not which one it is


def is_blip(path: Path) -> bool:
    """Whether a path is a BLIP-style list, or a folder with some and without a Karpathy-style file."""
    if path.suffix == ".json" and path.is_file():
        return _looks_blip(_head(path))
    heads = [_head(file) for file in sorted(path.glob("*.json")) if file.is_file()] if path.is_dir() else []
    return any(map(_looks_blip, heads)) and not any(map(_looks_karpathy, heads))


@path_reader("blip", looks=is_blip, says_splits=True)
def read(source: Source) -> Collection:
    """BLIP-style lists NAME_train.json, NAME_val.json, NAME_test.json, or the folder with them; images as above.

    A record holds ``image``, ``caption`` (a text, or a list of texts) and perhaps ``image_id``; records with the
    same image belong together. A leading folder such as ``flickr30k-images`` says where an image is and is no part
    of its name, so that the pairs are those of the Karpathy-style file.
    """
    found = _Found()
    files = _files(source.place)
    for split, path in files.items():
        records = load_json(path)
        if not isinstance(records, list) or not records:
            raise DataError(f"{path} is {describe(records)}; expected a BLIP-style list of records. Correct it.")
        for index, record in enumerate(records):
            found.add(record, split, f"{path}: record {index}")
    folder = next(iter(files.values())).parent
    places = find_images(folder, [(raw, name) for name, raw in zip(found.names, found.paths, strict=True)])
    looked = looked_in(folder)
    missing = {index: looked for index, place in enumerate(places) if place is None}
    return Collection(source.text, FileImages(tuple(found.names), tuple(places)), found.captions, found.splits, missing)


def _files(path: Path) -> dict[str, Path]:
    """By split the files that belong together, in the order train, val, test."""
    folder = path if path.is_dir() else path.parent
    families: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.glob("*.json")):
        named = NAMED.fullmatch(file.stem)
        if named and file.is_file() and (file == path or _looks_blip(_head(file))):
            families.setdefault(named["family"], {})[named["split"]] = file
    if path.is_dir():
        chosen = families
    else:
        chosen = {name: files for name, files in families.items() if path in files.values()}
    if not chosen:
        raise DataError(
            f"{path} holds image-caption records (BLIP style), but its name does not say of which split: expected "
            f"NAME_train.json, NAME_val.json or NAME_test.json. Rename it."
        )
    if len(chosen) > 1:
        among = ", ".join(file.name for files in chosen.values() for file in files.values())
        raise DataError(f"the folder {path} holds several BLIP-style data sets: {among}. Give the path of one file.")
    files = next(iter(chosen.values()))
    return {split: files[split] for split in SPLITS if split in files}


@dataclass
class _Found:
    """The images met so far."""

    names: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)  # name -> the record that gave all its captions at once
    index: dict[str, int] = field(default_factory=dict)
    image_of: dict[int | str, str] = field(default_factory=dict)
    identity: dict[str, int | str] = field(default_factory=dict)

    def add(self, record: Any, split: str, where: str) -> None:
        """One more record. Raises DataError when it is malformed or contradicts those before."""
        if not isinstance(record, dict):
            raise DataError(f"{where} is {kind(record)}; expected an object with image and caption.")
        image = record.get("image")
        if not isinstance(image, str) or not image:
            found = "empty" if image == "" else kind(image)
            raise DataError(f"{where}: image is {found}; expected a text such as 'flickr30k-images/1.jpg'.")
        path = safe_name(where, image)
        name = _without_place(path)
        captions = _captions(record.get("caption"), where)
        if "image_id" in record:
            self._check_identity(record["image_id"], name, where)
        if name in self.listed or (name in self.index and not isinstance(record["caption"], str)):
            before = self.listed.get(name, "a record before")
            raise DataError(
                f"{where}: image {name!r} was used before, by {before}; expected all its captions in one list, or "
                f"one record for each. Remove the duplicate from the json."
            )
        if name not in self.index:
            self.index[name] = len(self.names)
            self.names.append(name)
            self.paths.append(path)
            self.splits.append(split)
            self.captions.append([])
        known = self.index[name]
        if self.splits[known] != split:
            raise DataError(f"{where}: image {name!r} is in split {self.splits[known]} as well; expected it in one.")
        if self.paths[known] != path:
            raise DataError(f"{where}: image {name!r} is named as {self.paths[known]!r} too; expected one path.")
        if not isinstance(record["caption"], str):
            self.listed[name] = where
        self.captions[known] += captions

    def _check_identity(self, value: object, name: str, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise DataError(f"{where}: image_id is {kind(value)}; expected a number or a text.")
        other = self.image_of.setdefault(value, name)
        if other != name:
            raise DataError(f"{where}: image_id {value!r} was used before, by {other!r}; expected one for each image.")
        first = self.identity.setdefault(name, value)
        if first != value:
            raise DataError(f"{where}: image {name!r} has the image_id {first!r} too; expected one for each image.")


def _captions(value: object, where: str) -> Sequence[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise DataError(f"{where}: caption is {kind(value)}; expected a text or a list of texts.")
    for number, text in enumerate(value):
        if not isinstance(text, str):
            raise DataError(f"{where}: caption {number} is {kind(text)}; expected a text.")
    return value


def _without_place(path: str) -> str:
    """``path`` without a leading folder such as ``flickr30k-images`` or ``images``."""
    top, _, rest = path.partition("/")
    return rest if rest and PLACE.fullmatch(top) else path


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return b""


def _looks_blip(head: bytes) -> bool:
    """A list whose first record has an image and a caption."""
    first = head.removeprefix(b"[").lstrip()
    return head.startswith(b"[") and first.startswith(b"{") and b'"image"' in head and b'"caption"' in head


def _looks_karpathy(head: bytes) -> bool:
    return head.startswith(b"{") and b'"sentences"' in head
