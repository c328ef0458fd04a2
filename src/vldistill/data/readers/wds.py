"""The reader of WebDataset tars: members with one key are a sample, an image and its caption."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vldistill.data.account import Ledger
from vldistill.data.archives import Member, tar_members, unpacked
from vldistill.data.collection import Collection
from vldistill.data.columns import Gathered, split_of_cell
from vldistill.data.downloads import account_of_downloads
from vldistill.data.evidence import caption_jsons, is_tar, sample_tars, tars_of
from vldistill.data.patterns import files_of
from vldistill.data.reader import path_reader
from vldistill.data.samples import HIDDEN, IMAGE_SUFFIXES, TEXT_SUFFIXES, captions_of_json, is_hidden
from vldistill.data.source import Source
from vldistill.data.splits import split_of_file
from vldistill.data.stores import TAIL_BYTES, FileImages, TarPlaces
from vldistill.errors import DataError

LARGEST_TEXT = 16_000_000  # bytes of a caption's member
NAME_KEY = "image_name"  # in the json of a sample: the image's name in the source it was converted from

Members = dict[str, Member]  # what follows the key of a sample -> the member


def is_shards(path: Path) -> bool:
    """Whether a path is WebDataset tars: one, a pattern, or a folder with some and no json that holds the captions."""
    if path.is_dir():
        return bool(sample_tars(path)) and not caption_jsons(path)
    return is_tar(path)


@path_reader("wds", looks=is_shards, options=("image", "caption"))
def read(source: Source) -> Collection:
    """WebDataset .tar shards (.jpg/.png/.webp with .txt/.json): one, shard-{000..012}.tar, shard-*.tar, or the folder.

    A ``.txt`` is one caption; a ``.json`` has ``caption`` or ``captions`` and wins; the option ``caption`` names
    ``txt``, for another ending of members, or for another key of the json; ``image`` names the ending of images. Names
    of shards such as ``train-0000.tar`` name the split. Images stay in the tars, and are read there.
    """
    files = _files(source)
    found = _Found(source)
    weighed = Ledger("files")
    for path in files:
        with weighed.unit_of(path.name, reason="cannot be read"):
            found.add_tar(path)
    account = found.ledger.close(found.seen)
    weighed_account = weighed.close(len(files))
    if not any(found.gathered.captions):
        what = "captions" if found.gathered.names else f"images ({', '.join(sorted(IMAGE_SUFFIXES))})"
        endings = ", ".join("." + ending for ending, _ in found.endings.most_common(5)) or "nothing"
        raise DataError(
            f"{source.text} holds no {what} that belong to each other; its members end in {endings}. Name the "
            f"endings of images and captions: ?image=ENDING&caption=ENDING."
        )
    about: dict[str, Any] = {"format": "WebDataset", "shards": len(files), "samples": len(found.number)}
    places = TarPlaces(found.tars, found.number, found.offset, found.size)
    images = FileImages(tuple(found.gathered.names), places)
    keys = {PurePosixPath(name).stem for name in images.names}
    downloads = account_of_downloads([path.with_suffix(".parquet") for path in files], keys)
    return Collection(
        source.text, images, found.gathered.captions, found.gathered.splits, about=about,
        accounts=(weighed_account, account, *downloads),
    )  # fmt: skip


def _files(source: Source) -> list[Path]:
    path = source.place
    if not path.is_dir():
        return files_of(source, ".tar")
    return tars_of(path) or files_of(source, ".tar")


@dataclass
class _Found:
    """The samples read so far: their images by place in the tars."""

    source: Source
    tars: list[Path] = field(default_factory=list)
    gathered: Gathered = field(default_factory=Gathered)
    ledger: Ledger = field(default_factory=lambda: Ledger("tar members"))
    seen: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    number: array[int] = field(default_factory=lambda: array("i"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("q"))

    def add_tar(self, path: Path) -> None:
        """All samples of a tar. Raises DataError where the tar cannot be read, and then nothing of it is used."""
        plain = unpacked(path)
        members = list(tar_members(plain))
        tar = len(self.tars)
        self.tars.append(plain)
        self.seen += len(members)
        usual = split_of_file(path, self.source.place)
        with plain.open("rb") as handle:
            samples = list(_samples(members, self.ledger, self.source.options))
            pictured = {key for key, own in samples if _image(own, self.source.options.get("image", "")) is not None}
            for key, own in samples:
                self.endings.update(PurePosixPath(one.name).name.partition(".")[2] for one in own.values())
                self._add_sample(handle, tar, path, key, own, usual, pictured)

    def _add_sample(
        self, handle: IO[bytes], tar: int, path: Path, key: str, own: Members, usual: str | None,
        pictured: set[str],
    ) -> None:  # fmt: skip
        where = f"{path}: sample {key}"
        image = _image(own, self.source.options.get("image", ""))
        if image is None:
            beside = key.rpartition(".")[0] in pictured  # such as a.cls.txt beside a.jpg
            reason = "beside a sample" if beside else "of a sample without an image"
            texts = any(f".{ending}" in TEXT_SUFFIXES for ending in own)
            self.ledger.leave(reason, next(iter(own.values())).name, len(own), loss=texts and not beside)
            return
        read = {ending: one for ending, one in own.items() if ending == image or not _is_image(ending)}
        with self.ledger.unit_of(own[image].name, len(read)):
            record = _json(handle, own, where)
            captions = _captions(handle, own, record, self.source.options.get("caption", ""), where)
            name = record.get(NAME_KEY)
            name = name if isinstance(name, str) and name else own[image].name
            split = split_of_cell(record.get("split") if usual is None else None, usual, where)
            self._add(handle, tar, path, name, split, captions, own[image], where)
        for ending, one in own.items():
            if ending not in read:
                self.ledger.leave("another image of a sample", one.name, loss=False)

    def _add(
        self, handle: IO[bytes], tar: int, path: Path, name: str, split: str, captions: list[str], image: Member,
        where: str,
    ) -> None:  # fmt: skip
        known = self.gathered.row_of(name)
        if known is not None and self._same(handle, known, image):
            raise DataError(f"{where}: image {name!r} is in an earlier sample; expected it once. Remove one.")
        for copy in range(2, 1_000_000):
            if known is None:
                break
            shorter = f"{path.name.partition('.')[0]}/{image.name}"
            name = shorter if copy == 2 else f"{shorter}#{copy - 1}"
            known = self.gathered.row_of(name)
        self.gathered.add(len(self.gathered.names), name, split, captions, where)
        self.number.append(tar)
        self.offset.append(image.offset)
        self.size.append(image.size)

    def _same(self, handle: IO[bytes], known: int, image: Member) -> bool:
        """Whether an image has the bytes of an earlier one of its name."""
        if self.size[known] != image.size:
            return False
        with self.tars[self.number[known]].open("rb") as earlier:
            return _bytes(earlier, self.offset[known], image.size) == _bytes(handle, image.offset, image.size)


def _bytes(handle: IO[bytes], offset: int, size: int) -> bytes:
    length = min(size, 16 * TAIL_BYTES)
    handle.seek(offset + size - length)
    return handle.read(length)


def _samples(members: list[Member], ledger: Ledger, options: Mapping[str, str]) -> Iterator[tuple[str, Members]]:
    """The samples of a tar in order: their key and what they hold, wherever in the tar it is.

    A key ends at the last dot, so that ``v1.2.jpg`` and ``v1.3.txt`` stay separate; at the first one where an option
    names an ending with a dot, such as ``input.jpg``.
    """
    first_dot = any("." in options.get(option, "") for option in ("image", "caption"))
    groups: dict[tuple[int, str], list[tuple[int, str, Member]]] = defaultdict(list)
    for number, member in enumerate(members):
        pure = PurePosixPath(member.name)
        if is_hidden(pure.parts):
            ledger.leave(HIDDEN, member.name, loss=False)
            continue
        base, _, ending = pure.name.partition(".") if first_dot else pure.name.rpartition(".")
        base, ending = (base, ending) if base else (ending, "")
        groups[member.part, str(pure.parent / base)].append((number, ending.lower(), member))
    for (_, key), own in groups.items():
        endings = [ending for _, ending, _ in own]
        again = len(set(endings)) < len(endings)  # a name comes twice: only neighbours belong together then
        sample, before = Members(), own[0][0] - 1
        for number, ending, member in own:
            if sample and again and (ending in sample or number != before + 1):
                yield key, sample
                sample = {}
            sample[ending] = member
            before = number
        yield key, sample


def _is_image(ending: str) -> bool:
    return f".{ending}" in IMAGE_SUFFIXES


def _image(own: Mapping[str, Member], asked: str) -> str | None:
    """The ending of a sample's image: the one named by the option, else one of an image."""
    return next((ending for ending in own if (ending == asked.lower() if asked else _is_image(ending))), None)


def _json(handle: IO[bytes], own: Mapping[str, Member], where: str) -> dict[str, Any]:
    """The json of a sample, empty where there is none."""
    member = own.get("json")
    if member is None:
        return {}
    try:
        value = json.loads(_text(handle, member, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its json cannot be read ({error}). Make the shard again.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: its json is not an object; expected 'caption' or 'captions' in one.")
    return value


def _captions(
    handle: IO[bytes], own: Mapping[str, Member], record: dict[str, Any], asked: str, where: str
) -> list[str]:
    if asked and asked != "json" and not record.get(asked) and asked.lower() in own:
        return [_text(handle, own[asked.lower()], where)]
    found = [] if asked == "txt" else captions_of_json(record, where, asked)
    member = own.get("txt") or own.get("caption")
    if found or member is None or asked not in ("", "txt"):
        return found
    return [_text(handle, member, where)]


def _text(handle: IO[bytes], member: Member, where: str) -> str:
    if member.size > LARGEST_TEXT:
        raise DataError(f"{where}: its text has {member.size:,} bytes; expected a caption.")
    handle.seek(member.offset)
    try:
        return handle.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its text is not UTF-8 (byte {error.start}). Make the shard again.") from None
