"""The reader of BLIP-style json lists, the other form in which Flickr30K and COCO splits are shared."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.data.collection import Collection
from vldistill.data.columns import Gathered
from vldistill.data.jsonfile import describe, head_of, kind, load_json, text_in
from vldistill.data.pairs import in_order
from vldistill.data.patterns import listed
from vldistill.data.places import find_images, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.errors import DataError

NAMED = re.compile(r"(?P<family>.*?)(?:^|(?<=[_.-]))(?P<split>train|val|test)")
PLACE = re.compile(r"(.*[-_])?images")  # a folder that says where images are, not which one it is


def is_blip(path: Path) -> bool:
    """Whether a path is a BLIP-style list, or a folder with some and without a Karpathy-style file."""
    if path.suffix == ".json" and path.is_file():
        return _looks_blip(head_of(path))
    heads = [head_of(file) for file in listed(path, "*.json")] if path.is_dir() else []
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
            found.add_record(record, split, f"{path}: record {index}")
    folder = next(iter(files.values())).parent
    images, missing = find_images(folder, found.names, [(path, name) for name, path in found.paths.items()])
    return Collection(source.text, images, found.captions, found.splits, missing)


def _files(path: Path) -> dict[str, Path]:
    """By split the files that belong together, in the order train, val, test."""
    folder = path if path.is_dir() else path.parent
    families: dict[str, dict[str, Path]] = {}
    for file in listed(folder, "*.json"):
        named = NAMED.fullmatch(file.stem)
        if named and (file == path or _looks_blip(head_of(file))):
            families.setdefault(named["family"], {})[named["split"]] = file
    chosen = [files for files in families.values() if path == folder or path in files.values()]
    if not chosen:
        raise DataError(
            f"{path} holds image-caption records (BLIP style), but its name does not say of which split: expected "
            f"NAME_train.json, NAME_val.json or NAME_test.json. Rename it."
        )
    if len(chosen) > 1:
        among = ", ".join(file.name for files in chosen for file in files.values())
        raise DataError(f"the folder {path} holds several BLIP-style data sets: {among}. Give the path of one file.")
    return {split: chosen[0][split] for split in in_order(chosen[0])}


@dataclass
class _Found(Gathered):
    """The images met so far."""

    paths: dict[str, str] = field(default_factory=dict)
    listed: dict[str, str] = field(default_factory=dict)  # name -> the record that gave all its captions at once
    image_of: dict[int | str, str] = field(default_factory=dict)
    identity: dict[str, int | str] = field(default_factory=dict)

    def add_record(self, record: Any, split: str, where: str) -> None:
        """One more record. Raises DataError when it is malformed or contradicts those before."""
        if not isinstance(record, dict):
            raise DataError(f"{where} is {kind(record)}; expected an object with image and caption.")
        path = safe_name(where, text_in(record, "image", where, "flickr30k-images/1.jpg"))
        name = _without_place(path)
        captions = _captions(record.get("caption"), where)
        if "image_id" in record:
            self._check_identity(record["image_id"], name, where)
        if name in self.listed or (name in self.paths and not isinstance(record["caption"], str)):
            before = self.listed.get(name, "a record before")
            raise DataError(
                f"{where}: image {name!r} was used before, by {before}; expected all its captions in one list, or "
                f"one record for each. Remove the duplicate from the json."
            )
        self.add(0, name, split, captions, where)
        known = self.paths.setdefault(name, path)
        if known != path:
            raise DataError(f"{where}: image {name!r} is named as {known!r} too; expected one path.")
        if not isinstance(record["caption"], str):
            self.listed[name] = where

    def _check_identity(self, value: object, name: str, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise DataError(f"{where}: image_id is {kind(value)}; expected a number or a text.")
        other = self.image_of.setdefault(value, name)
        if other != name:
            raise DataError(f"{where}: image_id {value!r} was used before, by {other!r}; expected one for each image.")
        first = self.identity.setdefault(name, value)
        if first != value:
            raise DataError(f"{where}: image {name!r} has the image_id {first!r} too; expected one for each image.")


def _captions(value: object, where: str) -> list[str]:
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


def _looks_blip(head: bytes) -> bool:
    """A list whose first record has an image and a caption."""
    first = head.removeprefix(b"[").lstrip()
    return head.startswith(b"[") and first.startswith(b"{") and b'"image"' in head and b'"caption"' in head


def _looks_karpathy(head: bytes) -> bool:
    return head.startswith(b"{") and b'"sentences"' in head
