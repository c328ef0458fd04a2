"""The reader of WebDataset tars: consecutive members with one key are a sample, an image and its caption."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vldistill.data.archives import tar_members
from vldistill.data.collection import Collection
from vldistill.data.columns import Gathered, split_of_cell
from vldistill.data.patterns import files_of
from vldistill.data.reader import path_reader
from vldistill.data.samples import IMAGE_SUFFIXES, captions_of_json
from vldistill.data.source import Source
from vldistill.data.splits import split_of_file
from vldistill.data.stores import FileImages, TarPlaces
from vldistill.errors import DataError

SUFFIX = ".tar"
LARGEST_TEXT = 16_000_000  # bytes of a caption's member
NAME_KEY = "image_name"  # in the json of a sample: the image's name in the source it was converted from

Members = dict[str, tuple[int, int]]  # extension -> offset and size


def is_shards(path: Path) -> bool:
    """Whether a path is WebDataset tars: one, a pattern, or a folder with tars and no json but img2dataset's."""
    if path.is_dir():
        files = list(path.iterdir())
        other = any(file.suffix == ".json" and not file.name.endswith("_stats.json") for file in files)
        return any(file.suffix == SUFFIX for file in files) and not other
    return path.suffix == SUFFIX


@path_reader("wds", looks=is_shards, options=("caption",))
def read(source: Source) -> Collection:
    """WebDataset .tar shards (.jpg/.png/.webp with .txt/.json): one, shard-{000..012}.tar, shard-*.tar, or the folder.

    A ``.txt`` is one caption; a ``.json`` has ``caption`` or ``captions`` and wins; the option ``caption`` asks for
    ``txt`` or for another key of the json. Names of shards such as ``train-0000.tar`` say the split. Images stay in the
    tars, and are read there.
    """
    files = files_of(source, SUFFIX, inside=("", "*"))
    found = Gathered()
    number, offset, size = array("i"), array("q"), array("q")
    for tar, path in enumerate(files):
        usual = split_of_file(path)
        with path.open("rb") as handle:
            for key, members in _samples(path):
                where = f"{path}: sample {key}"
                image = next((ext for ext in members if "." + ext.lower() in IMAGE_SUFFIXES), None)
                if image is None:
                    continue  # a sample of something else, or whose download failed
                record = _json(handle, members, where)
                captions = _captions(handle, members, record, source.options.get("caption", ""), where)
                before = len(found.names)
                name = record.get(NAME_KEY)
                name = name if isinstance(name, str) and name else f"{key}.{image}"
                split = split_of_cell(record.get("split") if usual is None else None, usual, where)
                found.add(before, name, split, captions, where)
                if len(found.names) == before:
                    raise DataError(f"{where}: an image {name!r} stands in an earlier sample; expected distinct keys.")
                number.append(tar)
                offset.append(members[image][0])
                size.append(members[image][1])
    if not found.names:
        raise DataError(f"{source.text} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    about: dict[str, Any] = {"format": "WebDataset", "shards": len(files), "samples": len(number)}
    images = FileImages(tuple(found.names), TarPlaces(files, number, offset, size))
    return Collection(source.text, images, found.captions, found.splits, about=about)


def _samples(path: Path) -> Iterator[tuple[str, Members]]:
    """The samples of a tar in order: their key and what they hold."""
    key, members = "", Members()
    for member in tar_members(path):
        pure = PurePosixPath(member.name)
        base, _, extension = pure.name.partition(".")
        own = str(pure.parent / base)
        if own != key and members:
            yield key, members
            members = {}
        key = own
        if base:  # .DS_Store and the like have no key
            members[extension] = (member.offset, member.size)
    if members:
        yield key, members


def _json(handle: Any, members: Members, where: str) -> dict[str, Any]:
    """The json of a sample, empty where there is none."""
    if "json" not in members:
        return {}
    try:
        value = json.loads(_text(handle, members["json"], where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its json cannot be read ({error}). Make the shard again.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: its json is no object; expected 'caption' or 'captions' in one.")
    return value


def _captions(handle: Any, members: Members, record: dict[str, Any], asked: str, where: str) -> list[str]:
    found = [] if asked == "txt" else captions_of_json(record, where, asked)
    if found or "txt" not in members or asked not in ("", "txt"):
        return found
    return [_text(handle, members["txt"], where)]


def _text(handle: Any, place: tuple[int, int], where: str) -> str:
    offset, size = place
    if size > LARGEST_TEXT:
        raise DataError(f"{where}: its text has {size:,} bytes; expected a caption.")
    handle.seek(offset)
    try:
        return handle.read(size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its text is not UTF-8 (byte {error.start}). Make the shard again.") from None
