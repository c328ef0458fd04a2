"""Dirty sources of every kind: what can be read is read, the rest is counted and named, and no photo is mixed up."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import photo
from tests.layouts import caption, captioned, photos, put, tar_of
from tests.unit.test_sources_people_have import ALL, left_out, members, read

from vldistill.data.load import load_pairs, read_collection
from vldistill.errors import DataError


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def sidecars(folder: Path, numbers: range = range(3), text: Callable[[int], str] = "{}.txt".format) -> None:
    photos(folder, numbers)
    for n in numbers:
        put(folder / text(n), caption(n))


def cells(numbers: range) -> list[dict[str, Any]]:
    return [{"image": {"bytes": photo(n), "path": None}, "text": caption(n)} for n in numbers]


# What a message says of a source that is none


def test_options_are_no_part_of_the_path_that_is_missed(tmp_path: Path) -> None:
    photos(tmp_path / "only")
    with pytest.raises(
        DataError, match=r"only is not a data source.*holds images, but nothing that gives them captions"
    ):
        read_collection(f"{tmp_path / 'only'}{ALL}")
    put(tmp_path / "data.zip", b"PK\3\4")
    for source in (tmp_path / "data.zip", tmp_path):
        with pytest.raises(DataError, match=r"data\.zip is packed: unpack it first"):
            read_collection(f"{source}{ALL}")


def test_what_lies_deeper_or_is_packed_is_said(tmp_path: Path) -> None:
    photos(tmp_path / "a" / "data" / "train")
    put(tmp_path / "a" / "data" / "train" / "metadata.jsonl", json.dumps({"file_name": "0.jpg", "text": "x"}))
    with pytest.raises(DataError, match=r"Deeper there is data/train/metadata\.jsonl: give the folder with it"):
        read_collection(tmp_path / "a")
    put(tmp_path / "b" / "pairs.csv", "filepath,title\n0.jpg,x\n")
    put(tmp_path / "b" / "images.zip", b"PK\3\4")
    with pytest.raises(DataError, match=r"images\.zip is packed: unpack it first"):
        load_pairs(f"{tmp_path / 'b'}{ALL}", "train")


def test_captions_of_another_kind_in_the_same_folder_are_in_the_account(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", tar_of(range(3)))
    put(tmp_path / "pairs.csv", "filepath,title\n0.jpg,x\n")
    collection = read_collection(f"{tmp_path}{ALL}")
    assert collection.reader == "wds"
    assert collection.accounts[-1].left_out["of another kind than is read"].first == ["pairs.csv"]


def test_absolute_paths_through_a_link(tmp_path: Path) -> None:
    photos(tmp_path / "data")
    rows = "".join(f"{tmp_path / 'data'}/{n}.jpg,{caption(n)}\n" for n in range(12))
    put(tmp_path / "data" / "pairs.csv", f"filepath,title\n{rows}")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert read(f"{tmp_path / 'link'}{ALL}").keys() == set(range(12))


# Folders


def test_texts_are_found_by_the_names_that_people_give_them(tmp_path: Path) -> None:
    sidecars(tmp_path / "full", text="{}.jpg.txt".format)
    photos(tmp_path / "case", name="A{}.JPG")
    photos(tmp_path / "accents", name=unicodedata.normalize("NFD", "é{}.jpg"))
    for n in range(12):
        put(tmp_path / "case" / f"a{n}.txt", caption(n))
        put(tmp_path / "accents" / unicodedata.normalize("NFC", f"é{n}.txt"), caption(n))
    for name, count in (("full", 3), ("case", 12), ("accents", 12)):
        assert read(f"{tmp_path / name}{ALL}").keys() == set(range(count)), name


def test_a_text_is_never_that_of_another_image(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", photo(0))
    put(tmp_path / "a.txt", caption(0))
    put(tmp_path / "A.jpg", photo(1))  # its caption is not there
    put(tmp_path / "a.png", photo(2, kind="PNG"))  # such as a mask
    put(tmp_path / "a.caption", caption(0, "b"))
    collection = read_collection(f"{tmp_path}{ALL}")
    assert read(f"{tmp_path}{ALL}").keys() == {0}
    assert "another text of an image (a.caption)" in left_out(collection)
    assert collection.accounts[0].left_out["another image of the same text"].first == ["a.png"]


def test_hidden_copies_are_no_photos_and_linked_folders_are_followed_once(tmp_path: Path) -> None:
    sidecars(tmp_path / "data")
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        sidecars(tmp_path / "data" / name, range(1))
    sidecars(tmp_path / "elsewhere", range(3, 5))
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    collection = read_collection(f"{tmp_path / 'data'}{ALL}")
    assert read(f"{tmp_path / 'data'}{ALL}").keys() == set(range(5))
    assert collection.accounts[0].left_out["hidden, or metadata of a system"].count == 6


def test_two_folders_of_one_split_and_a_caption_of_zeros(tmp_path: Path) -> None:
    for split, numbers in (("train", range(3)), ("val", range(3, 4)), ("valid", range(4, 6)), ("TEST", range(6, 7))):
        for index, n in enumerate(numbers):
            put(tmp_path / split / f"{index}.jpg", photo(n))
            put(tmp_path / split / f"{index}.txt", caption(n))
    assert read(tmp_path).keys() == set(range(7))
    put(tmp_path / "train" / "0.txt", b"\0\0\0\0")
    assert "1 image without a caption left out (0.jpg)" in load_pairs(tmp_path, "train").notes


# Tars


def test_tars_packed_under_any_name_with_endings_in_any_case(tmp_path: Path) -> None:
    put(tmp_path / "a" / "x.tar", gzip.compress(tar_of(range(3))))
    put(tmp_path / "b" / "x.tar.gz", tar_of(range(3)))
    members(tmp_path / "c" / "X.TAR", *((f"{n}.{end}", raw) for n in range(3) for end, raw in (
        ("JPG", photo(n)), ("Txt", caption(n).encode())
    )))  # fmt: skip
    for name in "abc":
        assert read(f"{tmp_path / name}{ALL}").keys() == set(range(3)), name


def test_one_tar_that_is_cut_off_does_not_refuse_the_others(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", tar_of(range(3)))
    put(tmp_path / "b.tar", tar_of(range(3, 6))[:3000])
    assert read(f"{tmp_path}{ALL}").keys() == set(range(3))
    assert "cannot be read (b.tar); the first: tar" in left_out(read_collection(tmp_path))
    with pytest.raises(DataError, match=r"b\.tar cannot be read"):
        load_pairs(f"{tmp_path}{ALL}", "train", strict=True)
    members(tmp_path / "c" / "c.tar", ("0.jpg", photo(0)), ("0.txt", "é".encode("utf-16")))
    with pytest.raises(DataError, match="sample 0: its text is not UTF-8"):
        read_collection(tmp_path / "c")


# Tables


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_tables_in_the_encodings_of_windows(tmp_path: Path, encoding: str) -> None:
    photos(tmp_path)
    rows = "filepath,title\r\n" + "".join(f"{n}.jpg,{caption(n)}\r\n" for n in range(12))
    put(tmp_path / "a.csv", rows.encode(encoding))
    assert read(f"{tmp_path}{ALL}").keys() == set(range(12))


def test_json_lines_of_odd_objects(tmp_path: Path) -> None:
    photos(tmp_path)
    said = [{"from": "human", "value": "?"}, {"from": "gpt", "value": caption(0)}]
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": caption(1)}]
    rows = [
        '{"meta": 1}',
        "{broken",
        json.dumps({"images": ["0.jpg"], "messages": said}),
        json.dumps({"images": ["1.jpg"], "messages": turns}),
        json.dumps({"images": ["1.jpg"], "messages": None}),
        json.dumps({"images": ["1.jpg", "2.jpg"], "messages": turns}),
    ]
    put(tmp_path / "a.ndjson", "\n".join(rows))
    collection = read_collection(f"{tmp_path}{ALL}")
    assert read(f"{tmp_path}{ALL}").keys() == {0, 1}
    assert "3 lines left out: malformed (line 1, line 2, line 6)" in left_out(collection)
    assert "1 empty caption left out (1.jpg)" in collection.pairs("train").notes


# Json


@pytest.mark.parametrize(
    "value",
    [
        [{"file_name": f"{n}.jpg", "text": caption(n)} for n in range(12)],
        [{"image_path": f"{n}.jpg", "captions": [caption(n), None]} for n in range(12)],
        {f"{n}.jpg": [caption(n), caption(n, "b")] for n in range(12)},
        {f"{n}.jpg": caption(n) for n in range(12)},
    ],
    ids=["file_name and text", "several captions", "lists by name", "texts by name"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_lists_as_people_write_them(tmp_path: Path, value: Any, encoding: str) -> None:
    photos(tmp_path)
    put(tmp_path / "DATA.JSON", json.dumps(value).encode(encoding))
    assert read(f"{tmp_path}{ALL}").keys() == set(range(12))


def test_every_conversation_of_an_image_is_read(tmp_path: Path) -> None:
    photos(tmp_path, range(2))
    turns = [[{"from": "human", "value": "?"}, {"from": "gpt", "value": caption(n)}] for n in range(2)]
    rows = [{"image": f"{n}.jpg", "conversations": turns[n] * times} for n in range(2) for times in (1, 2)]
    put(tmp_path / "a.json", json.dumps([{"id": "no image", "conversations": turns[0]}, *rows]))
    assert load_pairs(f"{tmp_path}{ALL}", "train").count_captions == 6


def test_coco_ids_as_texts_captions_that_were_rejected_and_lists_in_any_order(tmp_path: Path) -> None:
    photos(tmp_path / "train", name="{:012d}.jpg")
    own = captioned(range(12))
    own["images"] = [{**image, "id": str(image["id"])} for image in own["images"]]
    own["annotations"] += [{"image_id": 3, "caption": "spam", "is_rejected": True, "text_detected": False}]
    own = {"annotations": own["annotations"], "info": "x" * 99_999, "images": own["images"]}
    put(tmp_path / "annotations" / "train.json", json.dumps(own))
    assert read(f"{tmp_path}{ALL}").keys() == set(range(12))
    assert read_collection(tmp_path).accounts[2].left_out["rejected by its own data set"].count == 1


# Parquet and saved data sets


def test_downloads_that_failed_are_counted_under_their_status(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"key": f"{n:09d}", "status": "failed_to_download" if n in (2, 5) else "success", "caption": caption(n)}
        for n in range(6)
    ]
    for n in (0, 1, 3):
        put(tmp_path / "files" / "00000" / f"{n:09d}.jpg", photo(n))
        put(tmp_path / "files" / "00000" / f"{n:09d}.txt", caption(n))
    write_parquet(tmp_path / "files" / "00000.parquet", rows)
    write_parquet(tmp_path / "wds" / "00000.parquet", rows)
    put(tmp_path / "wds" / "00000.tar", tar_of(range(2), 9))
    images = [{**row, "jpg": photo(n) if n in (0, 1, 3) else None} for n, row in enumerate(rows)]
    write_parquet(tmp_path / "parquet" / "00000.parquet", images)
    keys = "not downloaded: failed to download (key 000000002, key 000000005)"
    for name, message, there in (
        ("files", f"2 downloads left out: {keys} 1 download left out: downloaded, but not there", {0, 1, 3}),
        ("wds", f"2 downloads left out: {keys} 2 downloads left out: downloaded, but not there", {0, 1}),
        ("parquet", "2 rows left out: not downloaded: failed to download (row 2 of row group 0", {0, 1, 3}),
    ):
        collection = read_collection(f"{tmp_path / name}{ALL}")
        assert read(f"{tmp_path / name}{ALL}").keys() == there
        assert message in left_out(collection) and collection.accounts[-1].seen == 6
    assert load_pairs(f"{tmp_path / 'parquet'}{ALL}", "train").notes[1].startswith("1 missing image left out")


@pytest.mark.parametrize("kind", ["text", "list", "dictionary", "path alone"])
def test_cells_with_the_names_of_photos(tmp_path: Path, kind: str) -> None:
    import datasets
    import pyarrow
    from pyarrow.parquet import write_table

    names = [f"img/{n}.jpg" for n in range(12)]
    shapes: dict[str, Any] = {
        "text": names,
        "list": [[name] for name in names],
        "dictionary": pyarrow.array(names).dictionary_encode(),
        "path alone": [{"bytes": None, "path": name} for name in names],
    }
    texts = [caption(n) for n in range(12)]
    photos(tmp_path / "p" / "img", range(11))
    write_table(pyarrow.table({"image": shapes[kind], "text": texts}), tmp_path / "p" / "a.parquet")
    assert read(f"{tmp_path / 'p'}{ALL}").keys() == set(range(11))
    notes = load_pairs(f"{tmp_path / 'p'}{ALL}", "train").notes
    assert len(notes) == 1 and notes[0].startswith("1 missing image left out")
    if kind in ("text", "list"):
        datasets.Dataset.from_dict({"image": shapes[kind], "text": texts}).save_to_disk(str(tmp_path / "hf"))
        assert read(f"{tmp_path / 'hf'}{ALL}&images={tmp_path / 'p'}").keys() == set(range(11))
        with pytest.raises(DataError, match=r"Name the folder of the images: \?images=FOLDER"):
            load_pairs(f"{tmp_path / 'hf'}{ALL}", "train")


def test_one_parquet_file_that_cannot_be_read_does_not_refuse_the_others(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", cells(range(3)))
    put(tmp_path / "b.PARQUET", b"PAR1")
    assert read(f"{tmp_path}{ALL}").keys() == set(range(3))
    assert "cannot be read (b.PARQUET)" in left_out(read_collection(tmp_path))


def test_several_configurations_are_not_mixed(tmp_path: Path) -> None:
    for name, numbers in (("default/train", range(3)), ("default/test", range(3, 4)), ("other/train", range(4, 6))):
        write_parquet(tmp_path / name / "0000.parquet", cells(numbers))
    with pytest.raises(DataError, match=r"several data sets: default/ and other/ both have train/0000\.parquet"):
        read_collection(tmp_path)
    assert read(tmp_path / "default").keys() == set(range(4))


def test_empty_splits_and_splits_that_are_none(tmp_path: Path) -> None:
    import datasets

    own = datasets.Dataset.from_list(cells(range(6))).cast_column("image", datasets.Image())
    splits = {"train": own.select(range(4)), "zero_shot": own.select(range(4, 6)), "test": own.select([])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "d"))  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert read(f"{tmp_path / 'd'}{ALL}").keys() == set(range(4))
    assert "2 rows left out: of a split that is none of train, val and test" in left_out(
        read_collection(tmp_path / "d")
    )


def test_rows_of_one_id_after_a_row_that_is_left_out(tmp_path: Path) -> None:
    rows = [{**cell, "id": 1, "split": "train" if n else "weird"} for n, cell in enumerate(cells(range(3)))]
    write_parquet(tmp_path / "a.parquet", rows)
    assert read(f"{tmp_path}{ALL}").keys() == {1, 2}
