"""The reader of json lists of records, each with an image and its captions: BLIP's, LAVIS', LLaVA's, TextCaps'."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.data.account import Account, Ledger, files_account, merged
from vldistill.data.collection import Collection
from vldistill.data.columns import CAPTIONS, IMAGES, Gathered, texts_of
from vldistill.data.evidence import BY_NAME, caption_jsons, json_files, json_kind
from vldistill.data.jsonfile import describe, head_of, kind, load_json, text_in
from vldistill.data.pairs import in_order
from vldistill.data.patterns import listed
from vldistill.data.places import find_images, images_folder, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.errors import DataError

NAMED = re.compile(r"(?P<family>.*?)(?:^|(?<=[_.-]))(?P<split>train|val|test)")
PLACE = re.compile(r"(.*[-_])?images")  # a folder that gives where images are, not which one it is


def is_blip(path: Path) -> bool:
    """Whether a path is a list of records, or a folder with some, or annotations/ in it, and no Karpathy-style file."""
    if path.suffix.lower() == ".json" and path.is_file():
        return json_kind(path) == "blip"
    kinds = set(caption_jsons(path).values()) if path.is_dir() else set()
    return "blip" in kinds and "karpathy" not in kinds


@path_reader("blip", looks=is_blip, options=("images",), says_splits=True)
def read(source: Source) -> Collection:
    """BLIP-style lists NAME_train.json, NAME_val.json, NAME_test.json, or the folder with them; images as above.

    A record holds ``image`` and ``caption`` (a text, or a list of texts), or such columns as tables have; records with
    the same image belong together. A leading folder such as ``flickr30k-images`` gives where an image is and is no part
    of its name, so that the pairs are those of the Karpathy-style file. Lists of LLaVA (``conversations``) and TextCaps
    are read too, an object of captions by image, and a list whose name names no split.
    """
    found = _Found()
    files, weighed = _files(source.place)
    accounts = []
    for split, path in files.items():
        records = _records(path)
        ledger = Ledger("list entries")
        for index, record in enumerate(records):
            with ledger.unit_of(f"record {index} of {path.name}"):
                found.add_record(record, split, f"{path}: record {index}")
        accounts.append(ledger.close(len(records), needed=len(files) == 1))
    account = merged(accounts)
    if not found.names and (detail := next((one.detail for one in account.left_out.values() if one.detail), "")):
        raise DataError(detail)
    folder = images_folder(source, next(iter(files.values())).parent)
    sought = [(path, name) for name, path in found.paths.items()]
    images, missing = find_images(folder, found.names, sought, exactly_named="images" in source.options)
    about = {"format": "json records", "files": [str(path) for path in files.values()], "images_in": str(folder)}
    whole = len(files) == 1 and NAMED.fullmatch(next(iter(files.values())).stem) is None
    shares = {} if whole else None  # a list without a split in its name is split as a table would be
    return Collection(
        source.text, images, found.captions, found.splits, missing, about, accounts=(weighed, account), shares=shares
    )


def _records(path: Path) -> list[Any]:
    """The list of records in a file. Raises DataError."""
    records = load_json(path)
    if isinstance(records, dict) and isinstance(records.get("data"), list):
        records = records["data"]  # of TextCaps
    elif isinstance(records, dict) and BY_NAME.match(head_of(path)):
        records = [{"image": image, "caption": captions} for image, captions in records.items()]
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is {describe(records)}; expected a BLIP-style list of records. Correct it.")
    return records


def _files(path: Path) -> tuple[dict[str, Path], Account]:
    """By split the files that belong together, in the order train, val, test, and the account of those weighed."""
    folder = path if path.is_dir() else path.parent
    weighed = json_files(path) if path.is_dir() else [file for file in listed(folder, "*.json") if file != path]
    weighed = weighed if path.is_dir() else [path, *(file for file in weighed if _related(file, path))]
    families: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in weighed:
        named = NAMED.fullmatch(file.stem)
        if file == path or json_kind(file) == "blip":
            family, split = (named["family"], named["split"]) if named else (file.stem, "train")
            families[family][split] = file
    if not families:
        raise DataError(f"{path} holds no list of image-caption records (BLIP style). Give the path of the file.")
    if len(families) > 1:
        among = ", ".join(file.name for files in families.values() for file in files.values())
        raise DataError(f"the folder {path} holds several BLIP-style data sets: {among}. Give the path of one file.")
    (chosen,) = families.values()
    files = {split: chosen[split] for split in in_order(chosen)}
    others = [file for file in weighed if file not in files.values()]
    return files, files_account(list(files.values()), {"json of another kind": others}, len(weighed))


def _related(file: Path, path: Path) -> bool:
    """Whether a file holds another split of the data set of ``path``."""
    named, own = NAMED.fullmatch(file.stem), NAMED.fullmatch(path.stem)
    return bool(named and own and named["family"] == own["family"] and json_kind(file) == "blip")


@dataclass
class _Found(Gathered):
    """The images met so far."""

    paths: dict[str, str] = field(default_factory=dict)

    def add_record(self, record: Any, split: str, where: str) -> None:
        """One more record. Raises DataError when it is malformed or contradicts those before; it is not kept then."""
        if not isinstance(record, dict):
            raise DataError(f"{where} is {kind(record)}; expected an object with image and caption.")
        key = next((key for key in IMAGES if key in record), "image")
        path = safe_name(where, text_in(record, key, where, "flickr30k-images/1.jpg"))
        captions = texts_of(record.get(_captions_key(record)), where, "Correct the json.")
        short = _without_place(path)
        name = short if self.paths.get(short, path) == path else path
        self.add(0, name, split, captions, where)
        self.paths[name] = path


def _captions_key(record: dict[str, Any]) -> str:
    """The key of the captions of a record: ``caption``, TextCaps' ``caption_str``, LLaVA's ``conversations``."""
    return next((key for key in ("caption", "caption_str", *CAPTIONS) if key in record), "caption")


def _without_place(path: str) -> str:
    """``path`` without a leading folder such as ``flickr30k-images`` or ``images``."""
    top, _, rest = path.partition("/")
    return rest if rest and PLACE.fullmatch(top) else path
