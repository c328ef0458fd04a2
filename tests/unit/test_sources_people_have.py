"""Sources rebuilt from public reports: what is there is read, and what is not is counted and named."""

from __future__ import annotations

import base64
import json
import tarfile
import unicodedata
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.conftest import add_member, photo
from tests.layouts import NUMBERS, caption, photos, put, tar_of

from vldistill.cli import main
from vldistill.data.collection import Collection
from vldistill.data.load import load_pairs, read_collection
from vldistill.errors import DataError

ALL = "?val=0&test=0"


def read(source: str | Path) -> dict[int, bytes]:
    """Caption number -> photo, over all splits; every photo must be that of its caption."""
    collection = read_collection(source)
    found: dict[int, bytes] = {}
    for split in collection.splits_present():
        pairs = collection.pairs(split)
        for image, text in zip(pairs.caption_image, pairs.captions):
            number = int(text.split("caption ")[1].split()[0])
            found[number] = pairs.images.encoded(int(image))
            assert found[number] == photo(number), text
    return found


def left_out(collection: Collection) -> str:
    return " ".join(loss for account in collection.accounts for loss in account.losses())


def members(path: Path, *named: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, raw in named:
            add_member(archive, name, raw)
    return path


# Lost or mixed in silence


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
@pytest.mark.parametrize("later", ['she said "{}"', '"{}" she said', '{} 5"'])
def test_a_quote_that_never_closes_swallows_no_rows(tmp_path: Path, suffix: str, later: str) -> None:
    photos(tmp_path, range(30))
    texts = {n: caption(n) for n in range(30)}
    texts[4], texts[11] = f'"open quote of {texts[4]}', later.format(texts[11])
    sep = "\t" if suffix == ".tsv" else ","
    rows = [f"filepath{sep}title", *(f"{n}.jpg{sep}{text}" for n, text in texts.items())]
    put(tmp_path / f"pairs{suffix}", "\n".join(rows) + "\n")
    assert read(f"{tmp_path}{ALL}").keys() == set(range(30))


def test_a_quoted_cell_of_several_lines_stays_one(tmp_path: Path) -> None:
    photos(tmp_path, range(3))
    put(
        tmp_path / "pairs.csv",
        'filepath,title\n0.jpg,"caption 0\nand ""more"", so"\n1.jpg,caption 1\n2.jpg,caption 2\n',
    )
    assert load_pairs(f"{tmp_path}{ALL}", "train").captions[0] == 'caption 0\nand "more", so'
    assert read_collection(f"{tmp_path}{ALL}").accounts[1].seen == 5


def test_an_id_that_restarts_merges_no_photos(tmp_path: Path) -> None:
    import datasets
    import pyarrow
    from pyarrow.parquet import write_table

    parts = {"train": range(4), "validation": range(4, 8), "test": range(8, 12)}
    rows = {
        split: {
            "id": list(range(4)),
            "image": [{"bytes": photo(n), "path": None} for n in numbers],
            "caption": [caption(n) for n in numbers],
        }
        for split, numbers in parts.items()
    }
    for folder, names in (("one", ["train-0", "train-1", "train-2"]), ("splits", list(parts))):
        (tmp_path / folder).mkdir()
        for name, own in zip(names, rows.values()):
            write_table(pyarrow.table(own), tmp_path / folder / f"{name}.parquet")
    both = {
        split: datasets.Dataset.from_dict(own).cast_column("image", datasets.Image()) for split, own in rows.items()
    }
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "saved"))  # pyright: ignore[reportArgumentType, reportCallIssue]
    for source in ("one", "splits", "saved", "splits?name=", "saved?name="):
        assert read(f"{tmp_path / source}").keys() == set(NUMBERS), source
    assert [load_pairs(tmp_path / "saved", split).count_images for split in ("train", "val", "test")] == [4, 4, 4]


def test_topic_folders_of_which_one_is_called_like_a_split(tmp_path: Path) -> None:
    for n, topic in enumerate(("beach", "family", "training", "zoo")):
        put(tmp_path / topic / f"{n}.jpg", photo(n))
        put(tmp_path / topic / f"{n}.txt", caption(n))
    assert read(f"{tmp_path}{ALL}").keys() == set(range(4))


def test_names_with_dots_tars_of_macos_and_members_that_are_not_side_by_side(tmp_path: Path) -> None:
    own = [(f"{n:05d} v1.{n}.jpg", photo(n)) for n in range(4)]
    texts = [(f"{n:05d} v1.{n}.txt", caption(n).encode()) for n in range(4)]
    hidden = [("._00000 v1.0.jpg", b"x"), ("__MACOSX/a.jpg", b"x")]
    source = members(tmp_path / "a.tar", *own, *hidden, *texts)
    assert read(f"{source}{ALL}").keys() == set(range(4))
    account = read_collection(source).accounts[1]
    assert (account.seen, account.used) == (10, 8)


def test_tars_that_were_appended_to_each_other(tmp_path: Path) -> None:
    restarted = members(tmp_path / "b.tar", ("00000.jpg", photo(20)), ("00000.txt", caption(20).encode())).read_bytes()
    put(tmp_path / "both.tar", tar_of(range(3)) + restarted)
    (tmp_path / "b.tar").unlink()
    assert read(f"{tmp_path}{ALL}").keys() == {0, 1, 2, 20}


def test_endings_of_members_are_named_by_the_error_and_by_options(tmp_path: Path) -> None:
    inputs = [
        (f"{n}.{end}", raw) for n in range(3) for end, raw in (("input.jpg", photo(n)), ("outputs.txt", caption(n)))
    ]
    source = members(
        tmp_path / "a.tar", *((name, raw if isinstance(raw, bytes) else raw.encode()) for name, raw in inputs)
    )
    with pytest.raises(DataError, match=r"its members end in \.input\.jpg, \.outputs\.txt"):
        read_collection(source)
    assert read(f"{source}{ALL}&image=input.jpg&caption=outputs.txt").keys() == set(range(3))
    dalle = [(f"{n}.{end}", raw) for n in range(3) for end, raw in (("img", photo(n)), ("cap", caption(n).encode()))]
    assert read(f"{members(tmp_path / 'd.tar', *dalle)}{ALL}&image=img&caption=cap").keys() == set(range(3))


def test_photos_of_every_suffix_that_can_be_read(tmp_path: Path) -> None:
    kinds = {
        "a.jfif": "JPEG",
        "b.jpe": "JPEG",
        "c.avif": "AVIF",
        "d.jp2": "JPEG2000",
        "e.JPG": "JPEG",
        "f.tiff": "TIFF",
    }
    for number, (name, kind) in enumerate(kinds.items()):
        put(tmp_path / name, photo(number, kind=kind))
        put((tmp_path / name).with_suffix(".txt"), caption(number))
    put(tmp_path / "phone.heic", b"\0\0\0\x18ftypheic" + b"\0" * 400)
    put(tmp_path / "phone.txt", "a phone")
    pairs = load_pairs(f"{tmp_path}{ALL}", "train")
    assert set(pairs.images.names) == {*kinds, "phone.heic"}
    broken = []
    for index in range(pairs.count_images):
        try:
            pairs.images.read(index)
        except DataError as error:
            broken.append(str(error))
    assert len(broken) == 1 and "phone.heic" in broken[0]


def test_heic_of_phones_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="HEIC is read with the extra heic: pip install pillow-heif")
    for n in range(2):
        picture = Image.open(BytesIO(photo(n, (64, 48))))
        heif.from_pillow(picture).save(tmp_path / f"{n}.heic", quality=90)
        put(tmp_path / f"{n}.txt", caption(n))
    images = load_pairs(f"{tmp_path}{ALL}", "train").images
    assert [images.read(index).size for index in range(2)] == [(64, 48)] * 2


# One bad row or file


def test_rows_that_cannot_be_read_are_counted_and_strict_refuses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLDISTILL_CACHE", str(tmp_path / "cache"))
    photos(tmp_path / "data", range(3))
    lines = ["image| number| comment", *(f"{n}.jpg| 0| {caption(n)}" for n in range(3)), "2.jpg| 4   a dog runs"]
    put(tmp_path / "data" / "results.csv", "\n".join(lines).encode() + b"\n1.jpg| 1| caf\xe9\n")
    collection = read_collection(f"{tmp_path / 'data'}{ALL}")
    assert "2 lines left out: malformed (line 5, line 6)" in left_out(collection)
    with pytest.raises(DataError, match="line 5 has 2 cells, the header 3"):
        collection.pairs("train", strict=True)
    assert main(["inspect", f"{tmp_path / 'data'}{ALL}", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    lines_seen = found["account"][1]
    assert (lines_seen["unit"], lines_seen["seen"], lines_seen["used"]) == ("lines", 6, 3)
    assert found["broken"] and {one["reason"]: one["count"] for one in lines_seen["left_out"]} == {
        "header": 1,
        "malformed": 2,
    }


def test_a_text_in_another_encoding_and_empty_cells_of_images(tmp_path: Path) -> None:
    import datasets

    photos(tmp_path / "f", range(2))
    put(tmp_path / "f" / "0.txt", caption(0))
    put(tmp_path / "f" / "1.txt", "caf\xe9".encode("latin-1"))
    collection = read_collection(f"{tmp_path / 'f'}{ALL}")
    assert "captions cannot be read (1.jpg, 1.txt)" in left_out(collection)
    assert read(f"{tmp_path / 'f'}{ALL}").keys() == {0}
    cells = [{"bytes": photo(n), "path": None} if n % 5 else None for n in range(10)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": cells, "text": [caption(n) for n in range(10)]}
    datasets.Dataset.from_dict(rows, features=features).shuffle(seed=1).save_to_disk(str(tmp_path / "d"))
    pairs = load_pairs(f"{tmp_path / 'd'}{ALL}", "train")
    assert pairs.count_images == 8 and pairs.notes[0].startswith("2 missing images left out")


@pytest.mark.parametrize("format", ["numpy", "torch", "pandas", "arrow"])
def test_the_format_of_a_saved_data_set_changes_nothing(tmp_path: Path, format: str) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))})
    rows = {
        "image": [{"bytes": photo(n), "path": None} for n in range(4)],
        "caption": [[caption(n), caption(n, "b")] for n in range(4)],
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(tmp_path / "plain"))
    made.with_format(format).save_to_disk(str(tmp_path / "shown"))
    plain, shown = (load_pairs(f"{tmp_path / name}{ALL}", "train") for name in ("plain", "shown"))
    assert shown.fingerprint == plain.fingerprint and shown.count_captions == 8


# Json files that say nothing, and what cannot be read


def test_a_json_that_holds_no_captions_decides_nothing(tmp_path: Path) -> None:
    for name, raw in (("_info.json", '{"splits": {}}'), ("00000_stats.json", '{"count": 3}'), ("sizes.json", "{}")):
        put(tmp_path / "shards" / "a.tar", tar_of(range(3)))
        put(tmp_path / "shards" / name, raw)
        photos(tmp_path / "folder", range(3))
        put(tmp_path / "folder" / name, raw)
    for n in range(3):
        put(tmp_path / "folder" / f"{n}.txt", caption(n))
    assert read_collection(tmp_path / "shards").reader == "wds"
    assert read_collection(tmp_path / "folder").reader == "folder"
    put(tmp_path / "nothing" / "a.parquet", b"x")
    put(tmp_path / "nothing" / "words.tsv", "a\tb\n")
    with pytest.raises(DataError, match=r"cannot be read|weighed"):
        read_collection(tmp_path / "nothing")


def test_addresses_embeddings_and_base64_are_named_as_such(tmp_path: Path) -> None:
    import numpy as np
    import pyarrow
    from pyarrow.parquet import write_table

    put(tmp_path / "cc3m.tsv", "".join(f"{caption(n)}\thttps://example.org/{n}.jpg\n" for n in range(3)))
    addresses = {"URL": [f"https://example.org/{n}.jpg" for n in range(3)], "TEXT": ["x"] * 3}
    write_table(pyarrow.table(addresses), tmp_path / "laion.parquet")
    put(tmp_path / "clip" / "img_emb" / "a.npy", b"")
    np.save(tmp_path / "clip" / "img_emb" / "img_emb_0.npy", np.zeros((2, 4)))
    for source in ("cc3m.tsv", "laion.parquet", "laion.parquet?image=URL", "clip"):
        with pytest.raises(DataError, match="Download the images first, for example with img2dataset"):
            read_collection(f"{tmp_path / source}")
    big = base64.b64encode(photo(1, (400, 400), "PNG")).decode()
    put(tmp_path / "base64.tsv", f"index\timage\tcaption\n0\t{big}\tx\n")
    with pytest.raises(DataError, match="base64") as error:
        read_collection(tmp_path / "base64.tsv")
    assert len(str(error.value)) < 600


# Photos that are there


def named_table(
    folder: Path, names: list[str], file: str = "pairs.csv", encoding: str = "utf-8", sep: str = ","
) -> str:
    rows = "".join(f"{name}{sep}{caption(n)}\r\n" for n, name in enumerate(names))
    put(folder / file, f"filepath{sep}title\r\n{rows}".encode(encoding))
    return f"{folder / file}{ALL}"


@pytest.mark.parametrize(
    ("there", "wanted", "options"),
    [
        ("img/{}.jpg", "img\\{}.jpg", ""),
        ("img/{}.jpg", "E:\\AI\\data\\img\\{}.jpg", "&images=FOLDER"),
        ("img/{}.jpg", "/home/me/data/img/{}.jpg", "&images=FOLDER/img"),
        ("IMG_{}.jpg", "IMG_{}.JPG", ""),
        ("img_{}.jpg", "IMG_{}.JPG", ""),
        ("images/{}.jpg", "{}", ""),
        ("merged/{}.jpg", "train2014/{}.jpg", "&images=FOLDER/merged"),
        ("images/{}.jpg", "train2014/{}.jpg", ""),
        (unicodedata.normalize("NFD", "é{}.jpg"), unicodedata.normalize("NFC", "é{}.jpg"), ""),
    ],
)
def test_photos_under_names_that_differ_a_little(tmp_path: Path, there: str, wanted: str, options: str) -> None:
    photos(tmp_path, range(5), there)
    source = named_table(tmp_path, [wanted.format(n) for n in range(5)])
    assert read(source + options.replace("FOLDER", str(tmp_path))).keys() == set(range(5))


def test_no_photo_is_taken_by_chance(tmp_path: Path) -> None:
    put(tmp_path / "val2014" / "0.jpg", photo(7))
    put(tmp_path / "other" / "1.jpg", photo(8))
    put(tmp_path / "A.jpg", photo(9))
    with pytest.raises(DataError, match=r"Looked for train2014/0\.jpg in .*the closest file there is") as error:
        load_pairs(named_table(tmp_path, ["train2014/0.jpg", "1.jpg", "a.jpg"]), "train")
    assert "?images=FOLDER" in str(error.value)
    with pytest.raises(DataError, match=r"A\.jpg, which differs by case only"):
        load_pairs(named_table(tmp_path, ["a.jpg"]), "train")


def test_tables_as_windows_and_excel_write_them(tmp_path: Path) -> None:
    photos(tmp_path, range(3))
    names = [f"{n}.jpg" for n in range(3)]
    assert read(named_table(tmp_path, names, "a.csv", "utf-16", "\t")).keys() == set(range(3))
    plain = Path(named_table(tmp_path, names).partition("?")[0]).read_text()
    put(tmp_path / "b.csv", "sep=;\n" + plain.replace(",", ";"))
    put(tmp_path / "c.csv", plain.replace("\n", "\r").replace("\r\r", "\r"))
    put(tmp_path / "d.csv", plain.replace("filepath,title", "filepath,title,"))
    for name in ("b", "c", "d"):
        assert read(f"{tmp_path / name}.csv{ALL}").keys() == set(range(3)), name


def test_photos_named_by_karpathys_json_elsewhere(tmp_path: Path) -> None:
    entries = [{"filename": f"{n}.jpg", "split": "train", "sentences": [{"raw": caption(n)}]} for n in range(3)]
    put(tmp_path / "a" / "dataset.json", json.dumps({"images": entries}))
    photos(tmp_path / "photos", range(3))
    assert read(f"{tmp_path}/a?images={tmp_path}/photos").keys() == set(range(3))
    with pytest.raises(DataError, match=r"Looked for 0\.jpg in .*Name the folder of the images: \?images=FOLDER"):
        load_pairs(tmp_path / "a", "train")


# Splits


@pytest.mark.parametrize("name", ["test", "dev"])
def test_what_a_folder_above_is_called_decides_no_split(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    photos(folder)
    named_table(folder, [f"{n}.jpg" for n in NUMBERS])
    for source in (folder, folder / "pairs.csv"):
        assert read_collection(source).splits_present() == ["train", "val", "test"]
    put(folder / "shards" / "a.tar", tar_of(range(6)))
    assert "train" in read_collection(folder / "shards" / "a.tar").splits_present()


def test_lists_of_one_image_and_of_turns(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    rows: dict[str, Any] = {
        "images": [[{"bytes": photo(n), "path": None}] for n in range(4)],
        "texts": [[{"user": "describe", "assistant": caption(n)}] for n in range(4)],
    }
    write_table(pyarrow.table(rows), tmp_path / "train-00000-of-00001.parquet")
    for options in ("", "&image=images&caption=texts"):
        assert read(f"{tmp_path}{ALL}{options}").keys() == set(range(4))


def test_a_photo_in_another_format_than_its_name_says(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "GIF")
    put(tmp_path / "1.jpg", buffer.getvalue())
    put(tmp_path / "1.txt", caption(1))
    assert load_pairs(f"{tmp_path}{ALL}", "train").images.read(0).size == (5, 4)
