"""The reader of COCO's caption annotations, as 2014 and 2017 are shared, and of VizWiz and NoCaps, which look alike."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from vldistill.data.account import Account, Ledger, files_account
from vldistill.data.collection import Collection
from vldistill.data.columns import Gathered
from vldistill.data.evidence import caption_jsons, json_files, json_kind
from vldistill.data.jsonfile import describe, head_of, identity, kind, load_json
from vldistill.data.pairs import in_order
from vldistill.data.patterns import listed
from vldistill.data.places import find_images, images_folder, safe_name
from vldistill.data.reader import path_reader
from vldistill.data.source import Source
from vldistill.data.splits import split_in
from vldistill.errors import DataError

NAMED = re.compile(r"(?P<before>.*?)(?P<folder>(?P<split>train|val|test)(?P<after>.*))")


def is_coco(path: Path) -> bool:
    """Whether a path is a caption annotation file of COCO, or a folder with some in it or in its annotations/."""
    if path.suffix.lower() == ".json" and path.is_file():
        return _looks_coco(path)
    if not path.is_dir():
        return False
    kinds = set(caption_jsons(path).values())
    return "coco" in kinds and not kinds & {"karpathy", "blip"}


@path_reader("coco", looks=is_coco, options=("images",))
def read(source: Source) -> Collection:
    """COCO's captions_train2014.json, captions_val2017.json, ..., or the folder above annotations/ and the images.

    The images of ``captions_train2017.json`` are looked for in ``train2017/`` beside it or beside its folder; the
    option ``images`` names another folder for all. VizWiz and NoCaps are read the same way.
    """
    files, weighed = _files(source)
    found, sought = Gathered(), []
    images_of, texts_of = Ledger("list entries"), Ledger("captions in the files")
    seen: Counter[str] = Counter()
    for split, path in files.items():
        named = NAMED.fullmatch(path.stem)
        folder = named["folder"] if named else split
        value = _lists(path)
        seen.update({"images": len(value["images"]), "annotations": len(value["annotations"])})
        for name, captions in _read_file(path, value, images_of, texts_of):
            found.add(0, f"{folder}/{name}", split, captions, str(path))
            sought.append((f"{folder}/{name}", name))
    accounts = (weighed, images_of.close(seen["images"]), texts_of.close(seen["annotations"]))
    beside = next(iter(files.values())).parent
    root = images_folder(source, beside.parent if beside.name == "annotations" else beside)
    images, missing = find_images(root, found.names, sought, exactly_named="images" in source.options)
    about = {"format": "COCO captions", "files": [str(path) for path in files.values()], "images_in": str(root)}
    return Collection(source.text, images, found.captions, found.splits, missing, about, accounts=accounts)


def _files(source: Source) -> tuple[dict[str, Path], Account]:
    """By split the annotation files that belong together, train first, and the account of those weighed."""
    path = source.place
    weighed = json_files(path) if path.is_dir() else [path, *_siblings(path)]
    found = [file for file in weighed if json_kind(file) == "coco"] if path.is_dir() else weighed
    if not found or not found[0].exists():
        raise DataError(f"{source.path} holds no captions_*.json of COCO. Give the file, or the folder above it.")
    if path.is_dir():
        families = {_family(file) for file in found}
        if len(families) > 1:
            among = ", ".join(file.name for file in found)
            raise DataError(f"the folder {path} holds several COCO data sets: {among}. Give the path of one file.")
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in found:
        by_split[split_in(file.stem) or "train"].append(file)
    if twice := next((files for files in by_split.values() if len(files) > 1), None):
        among = ", ".join(str(file) for file in twice)
        raise DataError(f"{path} holds several files of one split: {among}. Give the path of one file.")
    files = {split: by_split[split][0] for split in in_order(by_split)}
    others = {"json without captions": [file for file in weighed if file not in found]}
    return files, files_account(list(files.values()), others, len(weighed))


def _siblings(path: Path) -> list[Path]:
    """The files of other splits beside one, of the same data set and year."""
    if not NAMED.fullmatch(path.stem) or not path.is_file():
        return []
    others = (file for file in listed(path.parent, "*.json") if file != path and _family(file) == _family(path))
    return [file for file in others if json_kind(file) == "coco"]


def _family(path: Path) -> tuple[str, str]:
    named = NAMED.fullmatch(path.stem)
    return (named["before"], named["after"]) if named else (path.stem, "")


def _lists(path: Path) -> dict[str, list[Any]]:
    """The lists images and annotations of a file. Raises DataError."""
    value = load_json(path)
    images = value.get("images") if isinstance(value, dict) else None
    annotations = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path} looks like {describe(value)}; expected COCO's captions: lists images and annotations.")
    if not annotations or not any(isinstance(one, dict) and "caption" in one for one in annotations):
        raise DataError(
            f"{path} looks like {describe(value)} without captions. Give captions_*.json, not instances or keypoints; "
            f"a Karpathy-style json has 'sentences'."
        )
    return {"images": images, "annotations": annotations}


def _read_file(path: Path, value: dict[str, list[Any]], images: Ledger, texts: Ledger) -> list[tuple[str, list[str]]]:
    """File names and captions of the images of one annotation file, in its order. Raises DataError."""
    names: dict[str, list[str]] = {}
    name_of: dict[Any, str] = {}
    doubtful = _shared_ids(value["images"])
    for number, image in enumerate(value["images"]):
        where = f"{path}: image {number}"
        with images.unit_of(f"image {number}"):
            if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or not image["file_name"]:
                raise DataError(
                    f"{where} is {kind(image)} without a file_name; expected an object with id and file_name."
                )
            key = str(identity(image.get("id"), "id", where))
            name = safe_name(where, image["file_name"])
            if key in doubtful:
                raise DataError(f"{where}: id {key!r} is that of several images; expected it once. Correct the json.")
            if key in name_of:
                raise DataError(f"{where}: id {key!r} was used before, by {name_of[key]}; expected it once.")
            if name in names:
                raise DataError(f"{where}: file_name {name!r} is that of 2 images; expected it in one.")
            name_of[key] = name
            names[name] = []
    for number, annotation in enumerate(value["annotations"]):
        where = f"{path}: annotation {number}"
        if isinstance(annotation, dict) and annotation.get("is_rejected") is True:
            texts.leave("rejected by its own data set", f"annotation {number}", loss=False)  # spam, of VizWiz
            continue
        with texts.unit_of(f"annotation {number}"):
            text = annotation.get("caption") if isinstance(annotation, dict) else None
            if not isinstance(text, str):
                raise DataError(f"{where} has no text 'caption'; expected an object with image_id and caption.")
            name = name_of.get(str(identity(annotation.get("image_id"), "image_id", where)), "")
            if not name:
                raise DataError(
                    f"{where}: image_id {annotation['image_id']!r} is none of the images. Correct the json."
                )
            names[name].append(text)
    return list(names.items())


def _shared_ids(images: list[Any]) -> set[str]:
    """The ids that images of different names have: their captions may be of either."""
    names: dict[str, set[str]] = defaultdict(set)
    for image in images:
        if isinstance(image, dict):
            names[str(image.get("id"))].add(repr(image.get("file_name")))
    return {key for key, own in names.items() if len(own) > 1}


def _looks_coco(path: Path) -> bool:
    """An object with images that have a file_name, or with annotations that have an image_id and a caption."""
    head = head_of(path)
    if not head.startswith(b"{") or b'"sentences"' in head or b'"caption_str"' in head:
        return False
    images = b'"images"' in head and b'"file_name"' in head
    return images or (b'"annotations"' in head and b'"image_id"' in head and b'"caption"' in head)
