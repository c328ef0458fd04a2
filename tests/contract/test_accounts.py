"""All readers, on random layouts: what is seen is used or left out by name, and no caption ever meets another image.

Every photo is a picture of its own, and every caption names the photo that it belongs to. What goes wrong at random:
extra files, dots, spaces, case and folders in names, quotes, names that come twice, and missing parts.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import add_member, photo

from vldistill.data.load import read_collection
from vldistill.data.reader import READERS
from vldistill.errors import DataError

Item = tuple[
    str, bool, bool, str
]  # name without suffix, whether the photo is there, whether its caption is, a flourish

picture = lru_cache(photo)
STEMS = st.sampled_from(
    ["a", "b", "A", "a.b", "a.c", "1", "2", "v1.2", "v1.3", "x y", "deep/a", "deep/b", "test/a", "ä"]
)
FLOURISH = st.sampled_from(["", '"', '" said', 'an "open', "x\ty", "a, b", "a; b", "'", "#1"])
ITEMS = st.lists(
    st.tuples(STEMS, st.booleans() | st.just(True), st.booleans() | st.just(True), FLOURISH), min_size=1, max_size=8
)
EXTRAS = st.lists(
    st.sampled_from(
        [
            "notes.txt",
            "README.md",
            "sizes.json",
            "_info.json",
            "a.jpg.bak",
            ".hidden",
            "._a.jpg",
            ".ipynb_checkpoints/a.jpg",
            "@eaDir/a.txt",
            "other/z.jpg",
            "Thumbs.db",
        ]
    ),
    unique=True,
    max_size=3,
)


def caption(number: int, flourish: str) -> str:
    return f"{flourish} photo={number} and more".strip()


def put(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def add_extras(folder: Path, extras: list[str]) -> None:
    for name in extras:
        raw = picture(999) if name.endswith(".jpg") else b'{"shard.tar": 3}' if name.endswith(".json") else b"nothing"
        if not (folder / name).exists():
            put(folder / name, raw)


def distinct(items: list[Item]) -> dict[str, tuple[int, Item]]:
    """By name, the last item with it and its number; names are compared as file systems may."""
    return {item[0]: (number, item) for number, item in enumerate(items)}


def photos(folder: Path, items: list[Item]) -> None:
    for name, (number, item) in distinct(items).items():
        if item[1]:
            put(folder / f"{name}.jpg", picture(number))


def named(items: list[Item]) -> list[tuple[str, str]]:
    """Image and caption of every item that has a caption; of names that come twice the last."""
    own = distinct(items).items()
    return [(f"{name}.jpg", caption(number, item[3])) for name, (number, item) in own if item[2]]


def sidecars(folder: Path, items: list[Item]) -> str:
    """Texts beside photos; ``A.txt`` without ``A.jpg`` is that of ``a.jpg``, so that no such text is another's."""
    photos(folder, items)
    folded = Counter(name.casefold() for name in distinct(items))
    for name, (number, item) in distinct(items).items():
        if item[2] and (item[1] or folded[name.casefold()] == 1):
            put(folder / f"{name}.txt", caption(number, item[3]).encode())
    return f"folder:{folder}"


def shards(folder: Path, items: list[Item]) -> str:
    """Tars in halves, appended to each other; photos first, then texts, at random by the length of the name."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "both.tar").open("wb") as whole:
        for half, own in enumerate((items[::2], items[1::2])):
            path = folder / f"{half}.part"
            with tarfile.open(path, "w") as archive:
                members = [
                    (f"{name}.jpg", picture(2 * number + half)) for name, (number, i) in distinct(own).items() if i[1]
                ]
                texts = [
                    (f"{name}.txt", caption(2 * number + half, i[3]).encode())
                    for name, (number, i) in distinct(own).items()
                    if i[2]
                ]
                joined = members + texts if len(items) % 2 else sorted(members + texts)
                for name, raw in joined:
                    add_member(archive, name, raw)
            whole.write(path.read_bytes())
            path.unlink()
    return f"wds:{folder}"


SEPARATED: dict[object, str] = {}  # what writes a table -> what separates its cells: no caption has it there


def table(suffix: str, separator: str) -> Callable[[Path, list[Item]], str]:
    def write(folder: Path, items: list[Item]) -> str:
        photos(folder, items)
        rows = [(name, text) for name, text in named(items) if separator not in text]
        put(folder / f"pairs{suffix}", "\n".join(map(separator.join, [("filepath", "title"), *rows])).encode())
        return f"csv:{folder}"

    SEPARATED[write] = separator
    return write


def lines(folder: Path, items: list[Item]) -> str:
    photos(folder, items)
    rows = [json.dumps({"file_name": name, "text": text}) for name, text in named(items)]
    put(folder / "metadata.jsonl", "\n".join(rows).encode())
    return f"csv:{folder}"


def blip(folder: Path, items: list[Item]) -> str:
    photos(folder, items)
    put(folder / "x_train.json", json.dumps([{"image": n, "caption": t} for n, t in named(items)]).encode())
    return f"blip:{folder}"


def karpathy(folder: Path, items: list[Item]) -> str:
    photos(folder / "images", items)
    entries = [{"filename": n, "split": "train", "sentences": [{"raw": t}]} for n, t in named(items)]
    put(folder / "dataset.json", json.dumps({"images": entries}).encode())
    return f"karpathy:{folder}"


def coco(folder: Path, items: list[Item]) -> str:
    """Ids restart after four images: those that come twice say nothing certain."""
    photos(folder / "train2017", items)
    pairs = named(items)
    images = [{"id": i % 4 if len(pairs) > 6 else i, "file_name": n} for i, (n, _) in enumerate(pairs)]
    texts = [{"id": i, "image_id": image["id"], "caption": t} for i, (image, (_, t)) in enumerate(zip(images, pairs))]
    text = json.dumps({"images": images, "annotations": texts})
    put(folder / "annotations" / "captions_train2017.json", text.encode())
    return f"coco:{folder}"


def columns(items: list[Item]) -> dict[str, list[object]]:
    """Rows with every item, the names that come twice too; a photo that is missing is an empty cell."""
    return {
        "image": [{"bytes": picture(n), "path": None} if item[1] else None for n, item in enumerate(items)],
        "caption": [caption(n, item[3]) if item[2] else None for n, item in enumerate(items)],
        "id": [item[0] for item in items],
    }


def parquet(folder: Path, items: list[Item]) -> str:
    import pyarrow
    from pyarrow.parquet import write_table

    folder.mkdir(parents=True, exist_ok=True)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    own = columns(items)
    cells = {"image": pyarrow.array(own.pop("image"), kind), "caption": pyarrow.array(own["caption"], pyarrow.string())}
    write_table(pyarrow.table({**cells, "id": own["id"]}), folder / "data.parquet", row_group_size=3)
    return f"parquet:{folder}"


def saved(folder: Path, items: list[Item]) -> str:
    import datasets

    datasets.utils.logging.disable_progress_bar()
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "id": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(columns(items), features=features).save_to_disk(str(folder))
    return f"hf:{folder}"


def scenes(folder: Path, items: list[Item]) -> str:
    return f"scenes:train={len(items)},val=1,test=1"


def digits(folder: Path, items: list[Item]) -> str:
    return "digits"


ALWAYS = 777  # a photo of each split of class folders: folders of splits are some that have one


def class_folders(folder: Path, items: list[Item]) -> str:
    """A folder of its own for every photo is its class; photos without one lie in none."""
    for split, shift in (("train", 0), ("test", 1)):
        put(folder / split / caption(ALWAYS + shift, "") / "z.jpg", picture(ALWAYS + shift))
    for name, (number, item) in distinct(items).items():
        if item[1]:
            inside = Path("train", caption(number, item[3])) if item[2] else Path()
            put(folder / inside / f"{name}.jpg", picture(number))
    return f"classes:{folder}"


def class_table(folder: Path, items: list[Item]) -> str:
    return table(".csv", ",")(folder, items).replace("csv:", "classes:") + "?label=title"


SEPARATED[class_table] = ","


def class_dataset(folder: Path, items: list[Item]) -> str:
    """Labels are numbers, which the dataset names; -1 is none, and what has one name comes twice."""
    import datasets

    own = columns(items)
    names = [caption(number, item[3]) for number, item in enumerate(items)]
    own["caption"] = [number if item[2] else -1 for number, item in enumerate(items)]
    kinds = {"image": datasets.Image(), "caption": datasets.ClassLabel(names=names), "id": datasets.Value("string")}
    datasets.Dataset.from_dict(own, features=datasets.Features(kinds)).save_to_disk(str(folder))
    return f"classes:{folder}"


def embedded(folder: Path, items: list[Item]) -> str:
    """Vectors as clip-retrieval writes them, beside photos; a row lacks a side where an item lacks its part."""
    import pyarrow
    from pyarrow.parquet import write_table

    photos(folder, items)
    rows = [(name, number, item) for name, (number, item) in distinct(items).items()]
    for side, part in (("img", 1), ("text", 2)):
        (folder / f"{side}_emb").mkdir(parents=True)
        vectors = np.random.default_rng(part).standard_normal((len(rows), 4)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[[not item[part] for _, _, item in rows]] = np.nan
        np.save(folder / f"{side}_emb" / f"{side}_emb_0.npy", vectors)
    (folder / "metadata").mkdir()
    facts = {"image_path": [f"{name}.jpg" for name, _, _ in rows]}
    facts["caption"] = [caption(number, item[3]) for _, number, item in rows]
    write_table(pyarrow.table(facts), folder / "metadata" / "metadata_0.parquet")
    return f"embeddings:{folder}"


WITHOUT_FILES = (scenes, digits)
WRITERS: dict[str, list[Callable[[Path, list[Item]], str]]] = {
    "blip": [blip],
    "classes": [class_folders, class_table, class_dataset],
    "coco": [coco],
    "csv": [table(".csv", ","), table(".tsv", "\t"), lines],
    "digits": [digits],
    "embeddings": [embedded],
    "folder": [sidecars],
    "hf": [saved],
    "karpathy": [karpathy],
    "parquet": [parquet],
    "scenes": [scenes],
    "wds": [shards],
}


def test_every_reader_is_enrolled() -> None:
    assert sorted(WRITERS) == list(READERS)


@pytest.mark.parametrize(
    "write", [one for own in WRITERS.values() for one in own], ids=lambda write: getattr(write, "__qualname__", "")
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=ITEMS, extras=EXTRAS)
def test_accounts_balance_and_no_caption_meets_another_image(
    tmp_path: Path, write: Callable[[Path, list[Item]], str], items: list[Item], extras: list[str]
) -> None:
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    source = write(folder, items)
    if folder.exists() and write not in (saved, class_dataset):
        add_extras(folder, extras)
    try:
        collection = read_collection(source)
    except DataError:
        return  # it says why; nothing was read
    assert collection.accounts
    found = 0
    for split in collection.splits_present():
        for account in (*collection.accounts, *collection.split_accounts(split)):
            left = sum(one.count for one in account.left_out.values())
            assert account.seen == account.used + left
            assert all(one.first and one.count for one in account.left_out.values())
        try:
            pairs = collection.pairs(split)
        except DataError:
            continue
        found += pairs.count_captions
        if write not in WITHOUT_FILES:
            for image, text in zip(pairs.caption_image, pairs.captions):
                number = int(text.split("photo=")[1].split()[0])
                assert pairs.images.encoded(int(image)) == picture(number), text
    if write not in WITHOUT_FILES and not any(account.losses() for account in collection.accounts):
        lost = sum(len(collection.split_losses(split)) for split in collection.splits_present())
        assert found == _whole(write, items) or lost


def _whole(write: Callable[[Path, list[Item]], str], items: list[Item]) -> int:
    """How many captions there are to read, of items that are whole."""
    always = 2 if write is class_folders else 0
    if write in (parquet, saved, class_dataset):
        return sum(item[1] and item[2] for item in items)
    if write is shards:
        return sum(i[1] and i[2] for own in (items[::2], items[1::2]) for _, i in distinct(own).values())
    unfit = SEPARATED.get(write, "\0")
    return always + sum(item[1] and item[2] and unfit not in item[3] for _, item in distinct(items).values())
