"""The reader of COCO's caption annotations, as 2014 and 2017 are shared, with their folders of images."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from vldistill.data.collection import Collection
from vldistill.data.columns import Gathered
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
    if path.suffix == ".json" and path.is_file():
        return _looks_coco(path)
    return path.is_dir() and bool(_caption_files(path))


@path_reader("coco", looks=is_coco, options=("images",))
def read(source: Source) -> Collection:
    """COCO's captions_train2014.json, captions_val2017.json, ..., or the folder above annotations/ and the images.

    The images of ``captions_train2017.json`` are looked for in ``train2017/`` beside it or beside its folder; the
    option ``images`` names another folder for all.
    """
    files = _files(source)
    found, sought = Gathered(), []
    for split, path in files.items():
        named = NAMED.fullmatch(path.stem)
        folder = named["folder"] if named else split
        for name, captions in zip(*_read_file(path)):
            found.add(0, f"{folder}/{name}", split, captions, str(path))
            sought.append((f"{folder}/{name}", name))
    beside = next(iter(files.values())).parent
    root = images_folder(source, beside.parent if beside.name == "annotations" else beside)
    images, missing = find_images(root, found.names, sought)
    about = {"format": "COCO captions", "files": [str(path) for path in files.values()], "images_in": str(root)}
    return Collection(source.text, images, found.captions, found.splits, missing, about)


def _files(source: Source) -> dict[str, Path]:
    """By split the annotation files that belong together, train first. Raises DataError."""
    path = source.place
    found = _caption_files(path) if path.is_dir() else [path, *_siblings(path)]
    if not found or not found[0].exists():
        raise DataError(f"{source.path} holds no captions_*.json of COCO. Give the file, or the folder above it.")
    if path.is_dir():
        families = {_family(file) for file in found}
        if len(families) > 1:
            among = ", ".join(file.name for file in found)
            raise DataError(f"the folder {path} holds several COCO data sets: {among}. Give the path of one file.")
    files = {split_in(file.stem) or "train": file for file in reversed(found)}
    return {split: files[split] for split in in_order(files)}


def _caption_files(folder: Path) -> list[Path]:
    return [
        file
        for place in (folder, folder / "annotations")
        for file in listed(place, "*.json")
        if "instances" not in file.name and "keypoints" not in file.name and _looks_coco(file)
    ]


def _siblings(path: Path) -> list[Path]:
    """The files of other splits beside one, of the same data set and year."""
    if not NAMED.fullmatch(path.stem) or not path.is_file():
        return []
    others = (file for file in listed(path.parent, "*.json") if file != path and _family(file) == _family(path))
    return [file for file in others if _looks_coco(file)]


def _family(path: Path) -> tuple[str, str]:
    named = NAMED.fullmatch(path.stem)
    return (named["before"], named["after"]) if named else (path.stem, "")


def _read_file(path: Path) -> tuple[list[str], list[list[str]]]:
    """File names and captions of the images of one annotation file, in its order. Raises DataError."""
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
    names: list[str] = []
    index: dict[Any, int] = {}
    for number, image in enumerate(images):
        where = f"{path}: image {number}"
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise DataError(f"{where} is {kind(image)} without a file_name; expected an object with id and file_name.")
        key = identity(image.get("id"), "id", where)
        if key in index:
            raise DataError(f"{where}: id {key!r} was used before, by image {index[key]}; expected it once.")
        index[key] = len(names)
        names.append(safe_name(where, image["file_name"]))
    name, times = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise DataError(f"{path}: file_name {name!r} stands in {times} images; expected it in one.")
    captions: list[list[str]] = [[] for _ in names]
    for number, annotation in enumerate(annotations):
        where = f"{path}: annotation {number}"
        text = annotation.get("caption") if isinstance(annotation, dict) else None
        if not isinstance(text, str):
            raise DataError(f"{where} has no text 'caption'; expected an object with image_id and caption.")
        image = index.get(identity(annotation.get("image_id"), "image_id", where))
        if image is None:
            raise DataError(f"{where}: image_id {annotation['image_id']!r} is none of the images. Correct the json.")
        captions[image].append(text)
    return names, captions


def _looks_coco(path: Path) -> bool:
    """An object with images that have a file_name, or with annotations that have an image_id and a caption."""
    head = head_of(path)
    if not head.startswith(b"{") or b'"sentences"' in head:
        return False
    images = b'"images"' in head and b'"file_name"' in head
    return images or (b'"annotations"' in head and b'"image_id"' in head and b'"caption"' in head)
