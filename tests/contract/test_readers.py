"""What every registered reader promises. A new one is enrolled by one line of ``LAYOUTS``."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import KarpathyFolder, add_member, photo

from vldistill.data.load import find_reader, read_collection
from vldistill.data.reader import READERS
from vldistill.errors import DataError

NUMBERS = range(6)


def photos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in NUMBERS:
        (folder / f"{number}.jpg").write_bytes(photo(number))


def caption(number: int) -> str:
    return f"a caption of photo {number}, with a comma"


def blip(folder: Path) -> None:
    photos(folder)
    entries = [{"image": f"{n}.jpg", "caption": caption(n), "image_id": f"i{n}"} for n in NUMBERS]
    (folder / "tiny_train.json").write_text(json.dumps(entries))


def coco(folder: Path) -> None:
    photos(folder / "train2017")
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 30, "width": 40} for n in NUMBERS]
    annotations = [{"id": n, "image_id": n, "caption": caption(n)} for n in NUMBERS]
    (folder / "annotations").mkdir()
    text = json.dumps({"images": images, "annotations": annotations})
    (folder / "annotations" / "captions_train2017.json").write_text(text)


def table(folder: Path) -> None:
    photos(folder)
    with (folder / "train.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["filepath", "title"], *([f"{n}.jpg", caption(n)] for n in NUMBERS)])


def sidecars(folder: Path) -> None:
    photos(folder)
    for number in NUMBERS:
        (folder / f"{number}.txt").write_text(caption(number))


def columns() -> dict[str, list[object]]:
    return {"image": [{"bytes": photo(n), "path": f"{n}.jpg"} for n in NUMBERS], "caption": list(map(caption, NUMBERS))}


def saved(folder: Path) -> None:
    import datasets

    made = datasets.Dataset.from_dict(columns()).cast_column("image", datasets.Image())
    made.save_to_disk(str(folder))


def parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    folder.mkdir()
    write_table(pyarrow.table(columns()), folder / "train.parquet")


def karpathy(folder: Path) -> None:
    folder.mkdir()
    made = KarpathyFolder(folder)
    made.add_photos()
    made.save([{**made.entry(n), "sentences": [{"raw": caption(n), "sentid": n}]} for n in NUMBERS])


def shards(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "train-000000.tar", "w") as archive:
        for number in NUMBERS:
            add_member(archive, f"{number}.jpg", photo(number))
            add_member(archive, f"{number}.txt", caption(number).encode())


def class_folders(folder: Path) -> None:
    """A folder of its own for every photo: its prompt names it."""
    for number in NUMBERS:
        for split in ("train", "test")[: 1 + (number == 5)]:
            place = folder / split / f"photo {number}, and more"
            place.mkdir(parents=True)
            (place / f"{number}.jpg").write_bytes(photo(number))


def embedded(folder: Path) -> None:
    """Vectors as clip-retrieval writes them; a folder with photos would be read as photos."""
    import pyarrow
    from pyarrow.parquet import write_table

    for side in ("img", "text"):
        (folder / f"{side}_emb").mkdir(parents=True)
        vectors = np.random.default_rng(len(side)).standard_normal((len(NUMBERS), 4)).astype(np.float32)
        np.save(folder / f"{side}_emb" / f"{side}_emb_0.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (folder / "metadata").mkdir()
    facts = {"image_path": [f"{n}.jpg" for n in NUMBERS], "caption": list(map(caption, NUMBERS))}
    write_table(pyarrow.table(facts), folder / "metadata" / "metadata_0.parquet")


LAYOUTS: dict[str, Callable[[Path], None] | str] = {
    "blip": blip,
    "classes": class_folders,
    "coco": coco,
    "csv": table,
    "digits": "digits",
    "embeddings": embedded,
    "folder": sidecars,
    "hf": saved,
    "karpathy": karpathy,
    "parquet": parquet,
    "scenes": "scenes:train=6,val=2,test=2",
    "wds": shards,
}
"""By reader: what writes six captioned photos in its form, or a source that needs none."""


def source_of(name: str, folder: Path) -> str:
    layout = LAYOUTS[name]
    if isinstance(layout, str):
        return layout
    layout(folder)
    return str(folder)


def test_every_reader_is_enrolled() -> None:
    assert sorted(LAYOUTS) == list(READERS)


@pytest.mark.parametrize("name", READERS)
def test_it_alone_recognises_its_form_and_gives_every_photo_its_caption(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path / "data")
    assert find_reader(source).name == name
    collection = read_collection(source)
    assert collection.reader == name and collection.source == source
    found = {split: collection.pairs(split) for split in collection.splits_present()}
    captions = [text for pairs in found.values() for text in pairs.captions]
    if not isinstance(LAYOUTS[name], str):
        if name != "classes":
            assert sorted(captions) == sorted(map(caption, NUMBERS))
        for pairs in found.values():
            for index in range(pairs.count_images):
                (row,) = pairs.image_captions[index]
                number = int(pairs.captions[int(row)].split("photo ")[-1].split(",")[0])
                if name == "embeddings":
                    assert pairs.images.names[index] == f"{number}.jpg"
                else:
                    assert pairs.images.encoded(index) == photo(number), "no caption meets another photo"


@pytest.mark.parametrize("name", READERS)
def test_reading_twice_gives_the_same(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path / "data")
    first, second = (read_collection(source).pairs("train") for _ in range(2))
    assert first.fingerprint == second.fingerprint and list(first.images.names) == list(second.images.names)


@pytest.mark.parametrize("name", [name for name, entry in READERS.items() if entry.prefixed])
def test_an_unknown_option_is_refused_by_name(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path / "data")
    with pytest.raises(DataError, match="colour"):
        read_collection(f"{name}:{source}?colour=red")
