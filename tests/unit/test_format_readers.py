"""Readers of other people's formats, on samples of the library that owns each, and checked by it where it reads."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import photo

from vldistill.data.cache import open_images
from vldistill.data.load import find_reader, load_pairs, read_collection
from vldistill.data.pairs import Pairs
from vldistill.data.patterns import expanded
from vldistill.data.source import parse_source
from vldistill.data.splits import split_in
from vldistill.errors import DataError, MissingExtraError

ALL = "?val=0&test=0"  # no splits are made


def told(pairs: Pairs) -> dict[str, tuple[bytes, list[str]]]:
    """Name -> bytes and captions of every image."""
    return {
        name: (pairs.images.encoded(index), [pairs.captions[int(row)] for row in pairs.image_captions[index]])
        for index, name in enumerate(pairs.images.names)
    }


def caption(number: int, letter: str = "a") -> str:
    return f"caption {number} {letter}, with a comma"


# COCO


def coco_folder(folder: Path, year: int, images: str) -> Path:
    """The layout of the official downloads: annotations/captions_trainYEAR.json and folders of images."""
    for split, numbers in (("train", range(3)), ("val", range(3, 5))):
        prefix = f"COCO_{split}{year}_" if year == 2014 else ""
        value = {
            "info": {"year": year},
            "images": [
                {"license": 1, "file_name": f"{prefix}{n:012d}.jpg", "height": 30, "width": 40, "id": n}
                for n in numbers
            ],
            "licenses": [],
            "annotations": [
                {"image_id": n, "id": 10 * n + i, "caption": caption(n, letter)}
                for i, letter in enumerate("ba")
                for n in numbers
            ],
        }
        path = folder / "annotations" / f"captions_{split}{year}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        for n in numbers:
            place = folder / images / f"{split}{year}" / f"{prefix}{n:012d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(photo(n))
    return folder


@pytest.mark.parametrize(("year", "images"), [(2014, "."), (2017, "images")])
def test_coco_is_what_pycocotools_reads(tmp_path: Path, year: int, images: str, capsys: Any):
    from pycocotools.coco import COCO

    folder = coco_folder(tmp_path, year, images)
    for split in ("train", "val"):
        file = folder / "annotations" / f"captions_{split}{year}.json"
        theirs: Any = COCO(str(file))
        expected = {
            f"{split}{year}/{image['file_name']}": [a["caption"] for a in theirs.imgToAnns[n]]
            for n, image in theirs.imgs.items()
        }
        for source in (folder, file):
            pairs = load_pairs(f"{source}?test=0", split)
            assert {name: captions for name, (_, captions) in told(pairs).items()} == expected
            assert [told(pairs)[name][0] for name in expected] == [photo(n) for n in theirs.imgs]
    assert find_reader(folder).name == find_reader(file).name == "coco"
    collection = read_collection(folder)
    assert set(collection.made) == {"test"}, "val is COCO's own, test has to be made"


def test_coco_images_elsewhere_and_mistakes(tmp_path: Path):
    folder = coco_folder(tmp_path / "a", 2017, ".")
    other = tmp_path / "b.json"
    other.write_bytes((folder / "annotations" / "captions_train2017.json").read_bytes())
    pairs = load_pairs(f"coco:{other}?images={folder / 'train2017'}&val=0&test=0", "train")
    assert pairs.count_images == 3
    with pytest.raises(DataError, match=r"none of its 3 images can be used.*Looked for"):
        load_pairs(f"{other}{ALL}", "train")
    with pytest.raises(DataError, match="is not a folder"):
        load_pairs(f"{other}?images=/nowhere", "train")
    value = json.loads(other.read_text())
    for change, message in (
        ({"annotations": [{"image_id": 9, "caption": "x"}]}, "image_id 9 is none of the images"),
        ({"annotations": [{"image_id": 0, "bbox": []}]}, "not instances or keypoints"),
        ({"images": [value["images"][0]] * 2}, "id '0' was used before"),
        ({"images": [value["images"][0], {**value["images"][0], "id": 7}]}, r"is that of 2 images; expected it in one"),
        ({"images": [{**value["images"][0], "file_name": "../x.jpg"}]}, "expected a relative path"),
    ):
        other.write_text(json.dumps(value | change))
        with pytest.raises(DataError, match=message):
            load_pairs(other, "train", strict=True)
    coco_folder(folder, 2014, ".")
    with pytest.raises(DataError, match="several COCO data sets"):
        load_pairs(folder, "train")


# csv and tsv


def table(
    folder: Path, columns: tuple[str, str], sep: str, name: str = "pairs.csv", extra: dict[str, Any] | None = None
):
    """A table of four images, the first with two captions, as pandas writes it."""
    import pandas

    folder.mkdir(exist_ok=True)
    for n in range(4):
        (folder / f"{n}.jpg").write_bytes(photo(n))
    rows = [(f"{n}.jpg", caption(n)) for n in (0, 0, 1, 2, 3)]
    rows[1] = ("0.jpg", 'another "quoted" caption')
    frame = pandas.DataFrame(rows, columns=list(columns)).assign(**(extra or {}))
    frame.to_csv(folder / name, sep=sep, index=False)
    return folder / name


@pytest.mark.parametrize(
    ("columns", "sep", "name", "options"),
    [
        (("filepath", "title"), "\t", "pairs.csv", {}),
        (("filepath", "title"), ",", "pairs.csv", {}),
        (("image", "caption"), ";", "pairs.csv", {}),
        (("image_name", "comment"), "|", "pairs.csv", {}),
        (("image_path", "text"), "\t", "pairs.tsv", {}),
        (("Where", "What"), "\t", "pairs.tsv", {"image": "Where", "caption": "What"}),
        (("Where", "What"), "#", "pairs.csv", {"image": "Where", "caption": "What", "sep": "%23"}),
        (("Where", "What"), "\t", "pairs.csv", {"image": "Where", "caption": "What", "sep": "tab"}),
    ],
)
def test_tables_of_pandas(tmp_path: Path, columns: tuple[str, str], sep: str, name: str, options: dict[str, str]):
    path = table(tmp_path / "t", columns, sep, name)
    given = "".join(f"&{key}={value}" for key, value in options.items())
    for source in (f"{path}{ALL}{given}", f"csv:{path}{ALL}{given}", f"{path.parent}{ALL}{given}"):
        pairs = load_pairs(source, "train", strict=True)
        expected = {f"{n}.jpg": (photo(n), [caption(n)]) for n in range(4)}
        expected["0.jpg"][1].append('another "quoted" caption')
        assert told(pairs) == expected


def test_the_index_of_pandas_and_a_column_that_stands_twice(tmp_path: Path):
    (tmp_path / "0.jpg").write_bytes(photo(0))
    (tmp_path / "pairs.csv").write_text(",filepath,title,title\n7,0.jpg,first,second\n")
    assert told(load_pairs(f"{tmp_path / 'pairs.csv'}{ALL}", "train")) == {"0.jpg": (photo(0), ["first"])}


def test_a_table_is_what_open_clip_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = pytest.importorskip("open_clip_train.data")
    path = table(tmp_path / "t", ("filepath", "title"), "\t")
    monkeypatch.chdir(path.parent)  # open_clip takes paths from there
    theirs = data.CsvDataset(str(path), np.asarray, "filepath", "title", sep="\t", tokenizer=lambda texts: texts)
    pairs = load_pairs(f"{path}{ALL}", "train")
    ours = [(np.asarray(pairs.images.read(int(i))), text) for i, text in zip(pairs.caption_image, pairs.captions)]
    assert len(ours) == len(theirs) == 5
    for (image, text), (their_image, their_text) in zip(ours, theirs):
        assert np.array_equal(image, their_image) and text == their_text


def test_splits_of_tables(tmp_path: Path):
    path = table(
        tmp_path / "t", ("filepath", "title"), ",", extra={"split": ["train", "train", "validation", "test", "test"]}
    )
    assert [load_pairs(path, split).count_images for split in ("train", "val", "test")] == [1, 1, 2]
    with pytest.raises(DataError, match="test is given a share, but the source has that split"):
        load_pairs(f"{tmp_path / 't'}?test=0.1", "train")
    table(tmp_path / "u", ("filepath", "title"), ",", "my-train.csv")
    (tmp_path / "u" / "my-val.csv").write_text("filepath,title\nimages/9.jpg,nine\n")
    (tmp_path / "u" / "images").mkdir()
    (tmp_path / "u" / "images" / "9.jpg").write_bytes(photo(9))
    pairs = load_pairs(f"{tmp_path / 'u'}?test=0", "val")
    assert told(pairs) == {"images/9.jpg": (photo(9), ["nine"])}
    (tmp_path / "u" / "other.csv").write_text("filepath,title\n")
    with pytest.raises(DataError, match="holds several tables"):
        load_pairs(tmp_path / "u", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a header"),
        (b"a,b\n1,2\n", r"no column looks like an image; it has: a, b. Name it: \?image=COLUMN"),
        (b"image,b\n1,2\n", "no column looks like a caption"),
        (b"image,caption\n1.jpg,a,b\n", "line 2 has 3 cells, the header 2. Quote"),
        (b"image,caption\n,x\n", "the column 'image' is empty"),
        (b"image,caption\n../1.jpg,x\n", "expected a relative path"),
        (b"image,caption\n/etc/1.jpg,x\n", r"outside .* Name the folder above them, e.g. \?images=/etc"),
        (b"image,caption,split\n1.jpg,x,dogs\n", "split is 'dogs'; expected one of train"),
        (b"image,caption,split\n1.jpg,x,val\n1.jpg,y,test\n", "is in split val as well"),
        (b"image,caption\n1.jpg,\xff\n", "is not UTF-8 text"),
        (b'image,caption\n1.jpg,"' + b"x" * 200_000 + b'"\n', "1 caption over 10,000 characters left out"),
    ],
)
def test_tables_with_mistakes(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_pairs(tmp_path / "t.csv", "train")


def test_options_are_checked(tmp_path: Path):
    path = table(tmp_path / "t", ("filepath", "title"), ",")
    for tail, message in (
        ("?colour=red", "unknown option 'colour'"),
        ("?image=pic", r"unknown column \(image=\) 'pic'"),
        ("?sep=three", "expected one character"),
        ("?val=0.1&val=0.2", "val is given twice"),
        ("?val=2", "expected a share"),
        ("?val=0.5&test=0.6", "1.1 of the images together"),
    ):
        with pytest.raises(DataError, match=message):
            load_pairs(f"{path}{tail}", "train")
    with pytest.raises(DataError, match=r"does not exist\. Give the path of a \.csv"):
        load_pairs(tmp_path / "none.csv", "train")
    assert load_pairs(f"csv:{path}?images={tmp_path}/t&val=0&test=0", "train").count_images == 4


# Folder


def test_folder_of_images_and_texts(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for n, name in enumerate(("b.jpg", "deep/a.PNG", "c.webp", "d.jpg")):
        (tmp_path / name).write_bytes(photo(n, kind={"b": "JPEG", "d": "PNG", "c": "WEBP"}.get(name[0], "JPEG")))
    (tmp_path / "b.txt").write_text("one\n\n two \n", encoding="utf-8-sig")
    (tmp_path / "deep" / "a.txt").write_text("ein Café")
    (tmp_path / "c.json").write_text('{"caption": "from\\njson", "width": 4}')
    assert find_reader(tmp_path).name == "folder"
    pairs = load_pairs(f"{tmp_path}{ALL}", "train")
    assert {name: captions for name, (_, captions) in told(pairs).items()} == {
        "b.jpg": ["one", "two"], "deep/a.PNG": ["ein Café"], "c.webp": ["from\njson"],
    }  # fmt: skip
    assert pairs.notes == ("1 image without a caption left out (d.jpg)",)
    assert pairs.images.read(2).mode == "RGB"


def test_folders_of_splits(tmp_path: Path):
    for n, split in enumerate(("train", "validation", "test")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.jpg").write_bytes(photo(n))
        (tmp_path / split / "1.txt").write_text(caption(n))
    for n, split in enumerate(("train", "val", "test")):
        assert told(load_pairs(tmp_path, split)) == {"1.jpg": (photo(n), [caption(n)])}
    (tmp_path / "stray.jpg").write_bytes(photo(1))
    assert load_pairs(tmp_path, "train").notes == ("1 file left out: not in the folder of a split (stray.jpg)",)
    with pytest.raises(DataError, match=r"not in the folder of a split \(stray.jpg"):
        load_pairs(tmp_path, "train", strict=True)


# WebDataset


def shards(folder: Path, pattern: str, numbers: range, record: Callable[[int], Any] | None = None) -> None:
    """Shards as the webdataset package writes them: jpg, png and webp in turn, with txt, and with json where asked."""
    from webdataset.writer import ShardWriter

    folder.mkdir(exist_ok=True)
    with ShardWriter(str(folder / pattern), maxcount=2, verbose=0) as sink:
        for n in numbers:
            kind = ("JPEG", "PNG", "WEBP")[n % 3]
            extension = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
            sample = {"__key__": f"sample{n:04d}", extension: photo(n, kind=kind), "txt": caption(n)}
            sink.write(sample | ({"json": record(n)} if record else {}))


def kind_of(n: int) -> str:
    return ("JPEG", "PNG", "WEBP")[n % 3]


def name_of(n: int) -> str:
    return f"sample{n:04d}." + ("jpg", "png", "webp")[n % 3]


@pytest.mark.filterwarnings("ignore")  # of webdataset itself
def test_webdataset_shards(tmp_path: Path):
    shards(tmp_path / "w", "data-%04d.tar", range(7))
    expected = {name_of(n): (photo(n, kind=kind_of(n)), [caption(n)]) for n in range(7)}
    for source in ("w", "w/data-{0000..0003}.tar", "w/data-*.tar", "w/data-000{0,1,2,3}.tar"):
        pairs = load_pairs(f"{tmp_path / source}{ALL}", "train", strict=True)
        assert told(pairs) == expected and list(pairs.images.names) == list(expected)
    assert load_pairs(f"{tmp_path}/w/data-{{0001..0002}}.tar{ALL}", "train").count_images == 4
    with pytest.raises(DataError, match=r"data-0004\.tar does not exist"):
        load_pairs(f"{tmp_path}/w/data-{{0000..0004}}.tar", "train")
    store = pairs.images
    sums = [int(np.asarray(store.read(i)).sum()) for i in range(7)]
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(pool.map(lambda i: int(np.asarray(pickle.loads(pickle.dumps(store)).read(i)).sum()), range(7))) == sums
        )


@pytest.mark.filterwarnings("ignore")
def test_webdataset_json_wins_and_shards_name_splits(tmp_path: Path):
    def record(n: int) -> dict[str, Any]:
        return {"caption": [f"json {n}", "second"], "alt": "other", "url": "x"}

    shards(tmp_path / "w", "cc-train-%03d.tar", range(3), record)
    shards(tmp_path / "w", "cc-val-%03d.tar", range(3, 5), record)
    (tmp_path / "w" / "00000_stats.json").write_text("{}")  # as img2dataset leaves beside its shards
    (tmp_path / "w" / "00000.parquet").write_bytes(b"")
    assert find_reader(tmp_path / "w").name == "wds"
    assert load_pairs(f"{tmp_path / 'w'}?test=0", "val").captions == ["json 3", "second", "json 4", "second"]
    assert load_pairs(f"{tmp_path / 'w'}?test=0&caption=txt", "val").captions == [caption(3), caption(4)]
    assert load_pairs(f"{tmp_path / 'w'}?test=0&caption=alt", "val").captions == ["other", "other"]
    with pytest.raises(DataError, match=r"holds no captions that belong to each other; its members end in .*jpg"):
        load_pairs(f"{tmp_path / 'w'}?test=0&caption=nothing", "train")


@pytest.mark.filterwarnings("ignore")
def test_webdataset_with_mistakes(tmp_path: Path):
    from webdataset.writer import TarWriter

    with TarWriter(str(tmp_path / "one.tar"), encoder=False) as sink:
        sink.write({"__key__": "a", "jpg": photo(0), "txt": b"first"})
        sink.write({"__key__": "b", "txt": b"its photo could not be downloaded"})
        sink.write({"__key__": "c", "jpg": b"broken", "json": b"{"})
    with pytest.raises(DataError, match="sample c: its json cannot be read"):
        load_pairs(tmp_path / "one.tar", "train", strict=True)
    assert load_pairs(f"{tmp_path / 'one.tar'}{ALL}", "train").captions == ["first"]
    with TarWriter(str(tmp_path / "one.tar"), encoder=False) as sink:
        sink.write({"__key__": "a", "jpg": photo(0), "txt": b"first"})
        sink.write({"__key__": "b", "txt": b"its photo could not be downloaded"})
        sink.write({"__key__": "c", "jpg": b"broken", "txt": b"third"})
    decoded = open_images(load_pairs(f"{tmp_path / 'one.tar'}{ALL}", "train"), 8, tmp_path / "cache")
    assert decoded.pairs.captions == ["first"] and decoded.broken == ("c.jpg",)
    os.link(tmp_path / "one.tar", tmp_path / "two.tar")
    notes = load_pairs(f"{tmp_path}{ALL}", "train").notes
    assert any("image 'a.jpg' is in an earlier sample" in note for note in notes)
    with TarWriter(str(tmp_path / "none.tar"), encoder=False) as sink:
        sink.write({"__key__": "a", "txt": b"first"})
    with pytest.raises(DataError, match="holds no images"):
        load_pairs(tmp_path / "none.tar", "train")


# Hugging Face datasets and parquet


def dataset(numbers: range, **columns: Any) -> Any:
    """A dataset of encoded photos, as ``datasets`` keeps them."""
    import datasets

    rows = {"image": [{"bytes": photo(n), "path": f"{n}.jpg"} for n in numbers], **columns}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.fixture
def quiet_datasets():
    import datasets

    datasets.utils.logging.disable_progress_bar()
    yield datasets
    datasets.utils.logging.enable_progress_bar()


def test_saved_datasets(tmp_path: Path, quiet_datasets: Any):
    texts = [[caption(n), caption(n, "b")] for n in range(5)]
    both = quiet_datasets.DatasetDict(
        train=dataset(range(3), caption=texts[:3], filename=[f"x/{n}.jpg" for n in range(3)]),
        validation=dataset(range(3, 5), caption=texts[3:], filename=["x/3.jpg", "x/4.jpg"]),
    )
    both.save_to_disk(tmp_path / "d")
    for source in (f"{tmp_path / 'd'}?test=0", f"hf:{tmp_path / 'd'}?test=0"):
        assert told(load_pairs(source, "train")) == {f"x/{n}.jpg": (photo(n), texts[n]) for n in range(3)}
        assert told(load_pairs(source, "val")) == {f"x/{n}.jpg": (photo(n), texts[n]) for n in range(3, 5)}
    pairs = load_pairs(f"{tmp_path / 'd'}?test=0", "train")
    assert pickle.loads(pickle.dumps(pairs.images)).read(2).tobytes() == pairs.images.read(2).tobytes()
    array = open_images(pairs, 8, tmp_path / "cache").array
    assert array.shape == (3, 3, 8, 8)


def test_datasets_rows_of_one_image_numbered_captions_and_shuffled_rows(tmp_path: Path, quiet_datasets: Any):
    rows = [0, 1, 0, 2]
    one = quiet_datasets.concatenate_datasets([dataset(range(n, n + 1)) for n in rows])
    one = one.add_column("image_id", rows).add_column("text", [caption(i) for i in range(4)])
    one.save_to_disk(tmp_path / "d")
    found = told(load_pairs(f"{tmp_path / 'd'}{ALL}", "train"))
    assert found["0"] == (photo(0), [caption(0), caption(2)]) and list(found) == ["0", "1", "2"]
    many = {f"caption_{i}": [f"{n} {i}" for n in range(4)] for i in range(3)}
    dataset(range(4), **many).select([2, 0]).save_to_disk(tmp_path / "m")
    pairs = load_pairs(f"{tmp_path / 'm'}{ALL}", "train")
    assert told(pairs) == {
        "train-00000000": (photo(2), ["2 0", "2 1", "2 2"]), "train-00000001": (photo(0), ["0 0", "0 1", "0 2"]),
    }  # fmt: skip
    assert load_pairs(f"{tmp_path / 'm'}{ALL}&caption=caption_1", "train").captions == ["2 1", "0 1"]


def test_datasets_with_mistakes(tmp_path: Path, quiet_datasets: Any, monkeypatch: pytest.MonkeyPatch):
    dataset(range(2), note=["a", "b"]).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="no column looks like a caption; it has: image, note"):
        load_pairs(tmp_path / "d", "train")
    with pytest.raises(DataError, match=r"Looked for a in .*Name the folder of the images: \?images=FOLDER"):
        load_pairs(f"{tmp_path / 'd'}?image=note&caption=note&val=0&test=0", "train")
    (tmp_path / "e").mkdir()
    with pytest.raises(DataError, match="was not written by save_to_disk"):
        load_pairs(f"hf:{tmp_path / 'e'}", "train")
    import datasets

    uneven = {
        "train": dataset(range(2), caption=["a", "b"], image_id=[1, 2]),
        "test": dataset(range(2), caption=["a", "b"]),
    }
    datasets.DatasetDict(uneven).save_to_disk(tmp_path / "u")  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert list(load_pairs(tmp_path / "u", "train").images.names) == ["1", "2"]
    assert list(load_pairs(tmp_path / "u", "test").images.names) == ["test-00000000", "test-00000001"]
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vldistill\[hf\]'"):
        load_pairs(tmp_path / "d", "train")


def test_parquet_of_datasets_and_of_pyarrow(tmp_path: Path, quiet_datasets: Any):
    import pyarrow
    import pyarrow.parquet as parquet

    folder = tmp_path / "p" / "data"
    folder.mkdir(parents=True)
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        own = dataset(numbers, caption=[caption(n) for n in numbers])
        own.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"), batch_size=2)
    assert parquet.ParquetFile(folder / "train-00000-of-00001.parquet").num_row_groups > 1
    train, test = (load_pairs(f"{tmp_path / 'p'}?val=0", split) for split in ("train", "test"))
    assert list(told(train).values()) == [(photo(n), [caption(n)]) for n in range(5)]
    assert list(told(test).values()) == [(photo(n), [caption(n)]) for n in range(5, 7)]
    order = [4, 0, 3, 1, 2, 0, 4]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train.images.encoded, order)) == [photo(n) for n in order]
    assert pickle.loads(pickle.dumps(train.images)).read(3).tobytes() == train.images.read(3).tobytes()
    flat = pyarrow.table(
        {"jpg": [photo(n) for n in range(3)], "TEXT": [caption(n) for n in range(3)], "key": list("abc")}
    )
    parquet.write_table(flat, tmp_path / "flat.parquet", row_group_size=2)
    assert told(load_pairs(f"{tmp_path / 'flat.parquet'}{ALL}", "train")) == {
        key: (photo(n), [caption(n)]) for n, key in enumerate("abc")
    }
    whole = (tmp_path / "flat.parquet").read_bytes()
    refused = 0
    for place in range(4, len(whole), 11):
        (tmp_path / "flipped.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            pairs = load_pairs(f"{tmp_path / 'flipped.parquet'}{ALL}", "train")
            for number in range(pairs.count_images):
                pairs.images.encoded(number)
        except DataError:
            refused += 1
    assert refused
    (tmp_path / "uneven").mkdir()
    rows = {"jpg": [photo(0)], "text": ["x"]}
    parquet.write_table(pyarrow.table({**rows, "image_id": [1]}), tmp_path / "uneven" / "train-0.parquet")
    parquet.write_table(pyarrow.table(rows), tmp_path / "uneven" / "train-1.parquet")
    assert list(load_pairs(f"{tmp_path / 'uneven'}{ALL}", "train").images.names) == ["1", "train-00000001"]
    parquet.write_table(pyarrow.table({"jpg": [photo(0)]}), tmp_path / "uneven" / "train-2.parquet")
    with pytest.raises(DataError, match="has no column image_id, text, as the files before it have"):
        load_pairs(f"{tmp_path / 'uneven'}{ALL}", "train", strict=True)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read"):
        load_pairs(tmp_path / "bad.parquet", "train")
    parquet.write_table(pyarrow.table({"jpg": ["a.jpg"], "text": ["x"]}), tmp_path / "paths.parquet")
    (tmp_path / "a.jpg").write_bytes(photo(7))
    assert told(load_pairs(f"{tmp_path / 'paths.parquet'}{ALL}", "train")) == {"a.jpg": (photo(7), ["x"])}


# Splits that have to be made, sources, patterns


def many(folder: Path, numbers: range) -> Path:
    """A table of images that are not there: enough to see how it is split."""
    folder.mkdir(exist_ok=True)
    (folder / "pairs.csv").write_text("filepath,title\n" + "".join(f"{n}.jpg,caption {n}\n" for n in numbers))
    return folder


def members(source: str | Path, *, former: bool = False) -> dict[str, set[str]]:
    collection = read_collection(source, former_splits=former)
    found: dict[str, set[str]] = {}
    for name, split in zip(collection.images.names, collection.splits):
        found.setdefault(split, set()).add(name)
    return found


def test_made_splits_are_stable_under_adding_pairs_and_said(tmp_path: Path):
    before = members(many(tmp_path / "a", range(4000)))
    after = members(many(tmp_path / "a", range(-50, 4400)))
    assert set(before) == {"train", "val", "test"} and sum(map(len, before.values())) == 4000
    assert all(before[split] <= after[split] for split in before)
    made = read_collection(tmp_path / "a").made["val"]
    assert made.startswith(f"made by a hash of image names: 0.05 of the images of train ({len(after['val'])})")
    larger = members(f"{tmp_path / 'a'}?val=0.2&test=0.3")
    assert after["val"] < larger["val"] and after["test"] < larger["test"] and 1100 <= len(larger["test"]) <= 1500


@pytest.mark.parametrize(("count", "least"), [(2, 0), (3, 1), (40, 8), (300, 60), (1000, 100)])
def test_made_splits_are_large_enough_to_measure_with(tmp_path: Path, count: int, least: int):
    found = members(many(tmp_path / "a", range(count)))
    assert min(len(found.get(split, ())) for split in ("val", "test")) >= least and found["train"]
    former = members(tmp_path / "a", former=True)
    assert len(former.get("val", ())) < max(least, 1) * 2 and former["train"] >= found["train"]


def test_a_source_of_one_split_can_be_split_again(tmp_path: Path):
    folder = many(tmp_path / "a", range(100))
    (folder / "pairs.csv").rename(folder / "my-test-run.csv")
    assert set(members(folder)) == {"test"}
    with pytest.raises(DataError, match=r"no split 'train'.*split it again, give shares: \?val=0.1&test=0.1"):
        load_pairs(folder, "train")
    assert set(members(f"{folder}?val=0.2&test=0.2")) == {"train", "val", "test"}


def test_split_in():
    assert split_in("captions_train2017") == "train" and split_in("cc3m-validation-0001") == "val"
    assert (
        split_in("eval") == "val"
        and split_in("testing") == "test"
        and split_in("contest") is None
        and split_in("train_vs_test") is None
    )


def test_sources_are_taken_apart(tmp_path: Path):
    source = parse_source("csv:a b.csv?sep=%3B&image=x%26y", {"csv"})
    assert (source.kind, source.path, dict(source.options)) == ("csv", "a b.csv", {"sep": ";", "image": "x&y"})
    assert parse_source("what:is?this", {"csv"}).path == "what:is?this"
    odd = tmp_path / "odd?a=b"
    odd.mkdir()
    assert parse_source(str(odd), {"csv"}).path == str(odd), "a path that exists is a path"


def test_patterns_agree_with_braceexpand():
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    for pattern in ("a-{000..012}.tar", "{a,b}/{08..11}", "x{3..1}", "plain", "{0..11}"):
        assert list(expanded(pattern)) == list(braceexpand(pattern))


def test_a_png_that_lies_about_its_name_is_read(tmp_path: Path):
    buffer = BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "PNG")
    (tmp_path / "1.jpg").write_bytes(buffer.getvalue())
    (tmp_path / "1.txt").write_text("black")
    assert load_pairs(f"{tmp_path}{ALL}", "train").images.read(0).size == (5, 4)


def test_a_list_of_train_alone_names_the_way_to_the_other_splits(tmp_path: Path):
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    entries = [{"image": f"{n}.png", "caption": f"number {n}", "image_id": f"{n}"} for n in range(40)]
    (tmp_path / "photos_train.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=r"no split 'val'.*To make it of train, give a share: \?val=0.1"):
        load_pairs(tmp_path, "val")
    assert load_pairs(f"{tmp_path}?val=0.2", "val").count_images
