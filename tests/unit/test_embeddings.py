"""Pairs that are given by their vectors: every form, what is paired and how, and what is refused or counted."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow.parquet import write_table
from safetensors.numpy import save_file

from vldistill.data.embedded import collection as collections
from vldistill.data.embedded.collection import EmbeddedCollection, EmbeddedImages, with_made_splits
from vldistill.data.embedded.shards import numbered
from vldistill.data.embedded.sides import choose_sides
from vldistill.data.load import find_reader, load_pairs, read_collection
from vldistill.data.pairs import Pairs
from vldistill.data.splits import with_splits
from vldistill.data.texts import Texts
from vldistill.data.vectors import PairVectors, Shard, Vectors
from vldistill.errors import DataError

WIDTHS = 6, 4


def unit(rows: int, width: int, seed: int) -> np.ndarray:
    """Random vectors of length 1."""
    found = np.random.default_rng(seed).normal(size=(rows, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def sides(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of both sides."""
    return unit(rows, WIDTHS[0], seed), unit(rows, WIDTHS[1], seed + 1000)


def clip_folder(place: Path, rows: dict[int, int], dtype: type = np.float16) -> Path:
    """What clip-retrieval writes: number -> rows."""
    for folder in ("img_emb", "text_emb", "metadata"):
        (place / folder).mkdir(parents=True)
    for number, count in rows.items():
        image, text = sides(count, number)
        np.save(place / f"img_emb/img_emb_{number}.npy", image.astype(dtype))
        np.save(place / f"text_emb/text_emb_{number}.npy", text.astype(dtype))
        columns = {
            "image_path": [f"{number:05d}{row:04d}" for row in range(count)],
            "caption": [f"caption {row} of {number}" for row in range(count)],
            "url": [f"https://example.org/{number}/{row}" for row in range(count)],
        }
        write_table(pyarrow.table(columns), place / f"metadata/metadata_{number}.parquet")
    return place


def vectors_of(source: str, split: str = "train") -> tuple[Pairs, PairVectors]:
    """The pairs of a split, and their vectors."""
    pairs = load_pairs(source, split)
    assert pairs.vectors is not None
    return pairs, pairs.vectors


def by_caption(source: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Caption -> the vectors of its image and of itself, over all splits."""
    collection = read_collection(source)
    found = {}
    for split in collection.splits_present():
        pairs = collection.pairs(split)
        assert pairs.vectors is not None
        images = pairs.vectors.image.read(pairs.caption_image)
        texts = pairs.vectors.text.read(np.arange(pairs.count_captions))
        found |= {caption: (image, text) for caption, image, text in zip(pairs.captions, images, texts)}
    return found


def test_files_are_paired_by_the_number_in_their_names(tmp_path: Path) -> None:
    clip_folder(tmp_path, dict.fromkeys(range(11), 3))
    for number in (2, 7):  # another width of the number, which changes the order of the alphabet
        (tmp_path / f"text_emb/text_emb_{number}.npy").rename(tmp_path / f"text_emb/text_emb_{number:03d}.npy")
    assert find_reader(str(tmp_path)).name == "embeddings"
    found = by_caption(f"{tmp_path}")
    assert len(found) == 33
    for number in range(11):
        image, text = sides(3, number)
        for row in range(3):
            own = found[f"caption {row} of {number}"]
            assert np.allclose(own[0], image[row], atol=1e-3)
            assert np.allclose(own[1], text[row], atol=1e-3)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [("img_emb_07", ("img_emb", 7)), ("img_emb", ("img_emb", None)), ("12", ("", 12)), ("a-00001-of-00010", ("a", 1))],
)
def test_numbers_of_names(stem: str, expected: tuple[str, int | None]) -> None:
    assert numbered(stem) == expected


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (["text_emb", "img_emb"], {}, ("img_emb", "text_emb")),
        (["audio", "captions"], {}, ("audio", "captions")),
        (["b", "a"], {}, ("a", "b")),
        (["b", "a"], {"text": "a"}, ("b", "a")),
        (["b32_img", "b32_txt", "l14_img", "l14_txt"], {}, ("l14_img", "l14_txt")),
        (["b32_img", "b32_txt", "l14_img", "l14_txt"], {"image": "b32_img", "text": "b32_txt"}, ("b32_img", "b32_txt")),
    ],
)
def test_sides_by_their_names(names: list[str], options: dict[str, str], expected: tuple[str, str]) -> None:
    assert choose_sides(names, options, "x", "arrays") == expected


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a"], {}, r"1 arrays with vectors \(a\); expected two"),
        (["a", "b", "c"], {}, r"several arrays hold vectors: a, b, c. Name the two sides: \?image=NAME&text=NAME"),
        (["a", "b"], {"image": "d"}, r"unknown arrays \(image=\) 'd'"),
        (["a", "b"], {"image": "a", "text": "a"}, "image and text are both a"),
    ],
)
def test_sides_that_are_not_clear(names: list[str], options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_sides(names, options, "x", "arrays")


def whole(source: str) -> str:
    """A source without splits."""
    return f"{source}{'&' if '?' in source else '?'}val=0&test=0"


def npz(place: Path, compressed: bool) -> str:
    for name, seed in (("00aa", 1), ("ff01", 2)):
        image, text = sides(5, seed)
        arrays = {"l14_img": image, "l14_txt": text, "b32_img": image[:, :3], "b32_txt": text[:, :3]}
        (np.savez_compressed if compressed else np.savez)(place / f"{name}.npz", allow_pickle=False, **arrays)
        table = {"uid": [f"{name}{row}" for row in range(5)], "text": [f"{name} {row}" for row in range(5)]}
        write_table(pyarrow.table(table), place / f"{name}.parquet")
    return f"{place}"


def tensors(place: Path) -> str:
    for number, seed in ((0, 1), (1, 2)):
        image, text = sides(5, seed)
        save_file({"image": image, "text": text.astype(np.float16)}, place / f"x-{number}.safetensors")
    return f"embeddings:{place}"


def parquet(place: Path) -> str:
    image, text = (np.concatenate(parts) for parts in zip(sides(5, 1), sides(5, 2)))
    lists = {"vision": list(image), "text_vector": pyarrow.FixedSizeListArray.from_arrays(text.ravel(), WIDTHS[1])}
    table = pyarrow.table({**lists, "caption": [f"c {row}" for row in range(10)], "id": list(range(10))})
    write_table(table, place / "both.parquet", row_group_size=4)
    return f"embeddings:{place / 'both.parquet'}"


def saved(place: Path) -> str:
    import datasets

    image, text = (np.concatenate(parts) for parts in zip(sides(5, 1), sides(5, 2)))
    rows = {"image": image.tolist(), "text_emb": text.tolist(), "caption": [f"c {row}" for row in range(10)]}
    features = datasets.Features(
        image=datasets.Sequence(datasets.Value("float32"), WIDTHS[0]),
        text_emb=datasets.Sequence(datasets.Value("float16")),
        caption=datasets.Value("string"),
    )
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(place / "saved"))
    return f"embeddings:{place / 'saved'}"


def plain(place: Path) -> str:
    image, text = (np.concatenate(parts) for parts in zip(sides(5, 1), sides(5, 2)))
    np.save(place / "a.npy", image.astype(np.float64))
    np.save(place / "b.npy", np.asfortranarray(text))
    (place / "about.csv").write_text("key,caption\n" + "".join(f"{row},c {row}\n" for row in range(10)))
    return f"embeddings:{place}"


def one_file(place: Path) -> str:
    plain(place)
    (place / "c.npy").write_bytes((place / "b.npy").read_bytes())
    return f"embeddings:{place / 'a.npy'}?text=b.npy"


def flat(place: Path) -> str:
    for number, seed in ((9, 1), (10, 2)):
        for name, array in zip(("audio", "text"), sides(5, seed)):
            np.save(place / f"{name}-{number}.npy", array)
    return f"{place}"


def pattern(place: Path) -> str:
    tensors(place)
    (place / "other.safetensors").write_bytes(b"x")
    return f"embeddings:{place}/x-*.safetensors"


FORMS: dict[str, Callable[[Path], str]] = {
    "npz": lambda place: npz(place, False),
    "compressed": lambda place: npz(place, True),
    **{form.__name__: form for form in (tensors, parquet, saved, plain, one_file, flat, pattern)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(form: str, tmp_path: Path) -> None:
    pairs, vectors = vectors_of(whole(FORMS[form](tmp_path)))
    image, text = (np.concatenate(parts) for parts in zip(sides(5, 1), sides(5, 2)))
    assert np.allclose(vectors.image.read(np.arange(10)), image, atol=1e-3)
    assert np.allclose(vectors.text.read(np.arange(10)), text, atol=1e-3)
    assert pairs.count_images == pairs.count_captions == 10
    mapped = form not in ("compressed", "parquet")
    for side in (vectors.image, vectors.text):
        base = side.shards[0].array
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap) and base.base is not None:
            base = base.base
        assert isinstance(base, np.memmap) == mapped or form == "saved"
    again = load_pairs(pairs.source, "train")
    assert again.fingerprint == pairs.fingerprint


def test_equal_ids_are_one_image_with_several_captions(tmp_path: Path) -> None:
    image, text = sides(6)
    image[1], image[4] = image[0], image[0]
    np.save(tmp_path / "a.npy", image)
    np.save(tmp_path / "b.npy", text)
    table = tmp_path / "about.csv"
    table.write_text("sha256,title\n" + "".join(f"{key},t {row}\n" for row, key in enumerate("xxyzxw")))
    pairs, vectors = vectors_of(whole(f"embeddings:{tmp_path}"))
    assert list(pairs.images.names) == list("xyzw")
    assert [[pairs.captions[row] for row in own] for own in pairs.image_captions] == [
        ["t 0", "t 1", "t 4"], ["t 2"], ["t 3"], ["t 5"],
    ]  # fmt: skip
    assert np.allclose(vectors.image.read(np.arange(4)), image[[0, 2, 3, 5]])
    assert np.allclose(vectors.text.read(np.arange(6)), text[[0, 1, 4, 2, 3, 5]])
    alone = load_pairs(whole(f"embeddings:{tmp_path}?id="), "train")
    assert alone.count_images == 6
    some = pairs.select_images([2, 0])
    assert some.vectors is not None
    assert np.allclose(some.vectors.text.read(np.arange(4)), text[[3, 0, 1, 4]])
    table.write_text("sha256,title\n" + "".join(f"x,t {row}\n" for row in range(6)))
    lost = read_collection(whole(f"embeddings:{tmp_path}")).accounts[-1]
    assert (lost.used, lost.seen) == (3, 6)
    assert any("id of another image" in loss and "row 2 of a.npy" in loss for loss in lost.losses())


def test_rows_that_cannot_be_used_are_counted_with_file_and_row(tmp_path: Path) -> None:
    clip_folder(tmp_path, {0: 8, 1: 8}, np.float32)
    path = tmp_path / "img_emb/img_emb_1.npy"
    image = np.load(path)
    image[2, 1], image[3, 0], image[4], image[5] = np.nan, np.inf, 0, 1.5 * image[5]
    np.save(path, image)
    collection = read_collection(whole(str(tmp_path)))
    left = {reason: one.first for reason, one in collection.accounts[-1].left_out.items()}
    assert left == {
        "NaN or infinite (image side)": [f"row {row} of img_emb/img_emb_1.npy" for row in (2, 3)],
        "zeros (image side)": ["row 4 of img_emb/img_emb_1.npy"],
        "of a length other than 1 (image side)": ["row 5 of img_emb/img_emb_1.npy"],
    }
    assert collection.pairs("train").count_captions == 12
    with pytest.raises(DataError, match=r"1 row left out: zeros \(image side\) \(row 4 of img_emb/img_emb_1.npy\)"):
        collection.pairs("train", strict=True)
    assert load_pairs(whole(f"{tmp_path}?norms=any"), "train").count_captions == 13
    with pytest.raises(DataError, match="norms is 'l2'; expected unit or any"):
        load_pairs(whole(f"{tmp_path}?norms=l2"), "train")


def test_lengths_matter_only_where_most_are_one(tmp_path: Path) -> None:
    image, text = sides(6)
    np.save(tmp_path / "a.npy", 3 * image)
    np.save(tmp_path / "b.npy", text)
    _, vectors = vectors_of(whole(f"embeddings:{tmp_path}"))
    assert (vectors.image.unit, vectors.text.unit) == (False, True)
    with pytest.raises(DataError, match="none of its 6 pairs can be used"):
        load_pairs(whole(f"embeddings:{tmp_path}?norms=unit"), "train")


def test_files_without_their_other_side_are_counted(tmp_path: Path) -> None:
    clip_folder(tmp_path, {0: 2, 1: 2, 2: 2, 4: 2})
    (tmp_path / "text_emb/text_emb_1.npy").unlink()
    files, *_ = read_collection(whole(str(tmp_path))).accounts
    left = {reason: (one.count, one.first, one.loss) for reason, one in files.left_out.items()}
    assert left == {
        "without the file of text_emb with its number": (1, ["img_emb_1.npy"], True),
        "a table without vectors of its number": (1, ["metadata_1.parquet"], True),
        "missing between others": (1, ["img_emb and text_emb 3"], True),
    }


def test_counts_that_differ_are_refused(tmp_path: Path) -> None:
    clip_folder(tmp_path, {0: 3, 1: 3})
    np.save(tmp_path / "text_emb/text_emb_1.npy", sides(2)[1])
    with pytest.raises(DataError, match=r"img_emb/img_emb_1.npy has 3 rows and text_emb/text_emb_1.npy 2"):
        read_collection(str(tmp_path))
    np.save(tmp_path / "text_emb/text_emb_1.npy", unit(3, 9, 0))
    with pytest.raises(DataError, match=r"text_emb_1.npy has vectors of 9 numbers and text_emb/text_emb_0.npy of 4"):
        read_collection(str(tmp_path))
    np.save(tmp_path / "text_emb/text_emb_1.npy", sides(3)[1])
    write_table(pyarrow.table({"caption": ["x"]}), tmp_path / "metadata/metadata_1.parquet")
    with pytest.raises(DataError, match=r"img_emb_1.npy has 3 rows and metadata_1.parquet 1; expected a row"):
        read_collection(str(tmp_path))
    np.save(tmp_path / "text_emb/text_emb_01.npy", sides(3)[1])
    with pytest.raises(DataError, match="have the same number, 1"):
        read_collection(str(tmp_path))


def broken(place: Path, name: str, raw: bytes) -> str:
    plain(place)
    (place / name).write_bytes(raw)
    return f"embeddings:{place}?image=a.npy&text=b.npy" if name.endswith(".npy") else f"embeddings:{place / name}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: broken(place, "b.npy", b""), r"b.npy cannot be read"),
        (lambda place: broken(place, "b.npy", (b"\x93NUMPY\x01\0" + b"(" * 3000)), r"b.npy cannot be read"),
        (lambda place: broken(place, "x.npz", b"PK"), r"x.npz cannot be read"),
        (lambda place: broken(place, "x.safetensors", b"\xff" * 20), r"x.safetensors cannot be read"),
        (lambda place: broken(place, "x.parquet", b"PAR1"), r"x.parquet cannot be read"),
        (lambda place: f"embeddings:{place}", "holds no vectors of pairs"),
        (lambda place: f"embeddings:{place / 'none'}", "does not exist"),
        (lambda place: f"embeddings:{place}?audio=x", "unknown option 'audio'"),
        (lambda place: plain(place).replace("embeddings:", "embeddings:") + "/a.npy", r"Name the other side: \?text="),
        (lambda place: plain(place) + "?caption=nothing", r"unknown column \(caption=\) 'nothing'"),
        (lambda place: plain(place) + "?table=none.csv", "table is 'none.csv'; expected a table"),
        (lambda place: "embeddings:nosuch://bucket/x", "nosuch"),
        (lambda place: "embeddings:memory://nothing/there", "memory://nothing/there"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Callable[[Path], str], message: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, ImportError), match=message):
        read_collection(make(tmp_path))


def test_arrays_of_other_things_are_refused(tmp_path: Path) -> None:
    plain(tmp_path)
    for array in (np.zeros((10, 4), np.int64), np.zeros(10, np.float32), np.array([["x"] * 4] * 10)):
        np.save(tmp_path / "b.npy", array)
        with pytest.raises(DataError, match=r"b.npy holds .*; expected vectors"):
            read_collection(f"embeddings:{tmp_path}")
    lists = [[1.0, 2.0]] * 9 + [[1.0]]
    write_table(pyarrow.table({"a": lists, "b": lists}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"lists of several lengths: row 9 has 1 numbers, row 0 2"):
        read_collection(f"embeddings:{tmp_path / 'x.parquet'}")
    missing = [*lists[:3], None, *lists[:6]]
    write_table(pyarrow.table({"a": missing, "b": lists[:1] * 10}), tmp_path / "x.parquet")
    rows = read_collection(whole(f"embeddings:{tmp_path / 'x.parquet'}")).accounts[-1]
    assert [one.first for one in rows.left_out.values()] == [["row 3 of x.parquet, a"]]
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY")
    with pytest.raises(DataError, match=r"x.npz cannot be read"):
        read_collection(f"embeddings:{tmp_path / 'x.npz'}")


def test_rows_whose_download_failed_are_left_out_of_the_table(tmp_path: Path) -> None:
    image, text = sides(3)
    np.save(tmp_path / "a.npy", image)
    np.save(tmp_path / "b.npy", text)
    table = {
        "key": [f"{row:09d}" for row in range(5)],
        "status": ["success", "failed_to_download", "success", "failed_to_resize", "success"],
        "caption": [f"c {row}" for row in range(5)],
    }
    write_table(pyarrow.table(table), tmp_path / "00000.parquet")
    found = by_caption(whole(f"embeddings:{tmp_path}"))
    assert np.allclose(found["c 2"][0], image[1])
    assert list(found) == ["c 0", "c 2", "c 4"]
    accounts = read_collection(f"embeddings:{tmp_path}").accounts
    [told] = [account for account in accounts if account.unit == "table rows"]
    assert (told.seen, told.used) == (5, 3)
    assert told.left_out["not downloaded: failed to download"].first == ["row 1 of 00000.parquet"]
    (tmp_path / "other").mkdir()
    (tmp_path / "00000.parquet").rename(tmp_path / "other/00000.parquet")
    assert list(by_caption(whole(f"embeddings:{tmp_path}?table=other"))) == ["c 0", "c 2", "c 4"]


def test_another_table_is_joined_by_key(tmp_path: Path) -> None:
    place = clip_folder(tmp_path / "clip", {0: 3, 1: 2})
    keys = [f"0000{number}{row:04d}" for number, count in ((0, 3), (1, 2)) for row in range(count)]
    lines = [json.dumps({"image_path": key, "caption": f"better {key}"}) for key in [*keys[::-1], "nowhere"]]
    (tmp_path / "better.jsonl").write_text("\n".join(lines))
    found = by_caption(whole(f"{place}?table={tmp_path / 'better.jsonl'}"))
    shutil.rmtree(place / "metadata")
    with pytest.raises(DataError, match=r"have 5 rows and better.jsonl 6, and they share no column"):
        read_collection(f"{place}?table={tmp_path / 'better.jsonl'}")
    assert set(found) == {f"better {key}" for key in keys}
    assert np.allclose(found[f"better {keys[3]}"][0], sides(2, 1)[0][0], atol=1e-3)


def test_pictures_are_shown_where_their_path_is_there(tmp_path: Path) -> None:
    plain(tmp_path)
    Image.new("RGB", (5, 4), "red").save(tmp_path / "one.png")
    names = ["one.png", *(f"{row}.png" for row in range(9))]
    (tmp_path / "about.csv").write_text("path,caption\n" + "".join(f"{name},c\n" for name in names))
    pairs = load_pairs(whole(f"embeddings:{tmp_path}"), "train")
    assert pairs.images.read(0).size == (5, 4)
    with pytest.raises(DataError, match=r"0.png is given by its vector and has no picture here"):
        pairs.images.read(1)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "one.png").rename(tmp_path / "pictures/one.png")
    moved = load_pairs(whole(f"embeddings:{tmp_path}?images={tmp_path / 'pictures'}"), "train")
    assert moved.images.encoded(0)[:4] == b"\x89PNG"


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_addresses_of_fsspec(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLDISTILL_CACHE", str(tmp_path / "cache"))
    place = clip_folder(tmp_path / "clip", {0: 3, 10: 3, 2: 3})
    (place / "notes.bin").write_bytes(b"not needed")
    source = f"embeddings:file://{place}"
    if protocol == "memory":
        fsspec.filesystem("memory").put(f"{place}/", f"/{tmp_path.name}/", recursive=True)
        source = f"embeddings:memory://{tmp_path.name}"
    there, here = load_pairs(whole(source), "train"), load_pairs(whole(f"{place}"), "train")
    assert there.fingerprint == here.fingerprint
    copies = sorted(path.name for path in tmp_path.glob("cache/remote/*/*/*") if path.name[0] != ".")
    assert copies == ([] if protocol == "file" else sorted(path.name for path in place.glob("*/*")))
    if protocol == "memory":
        written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/remote/*/*/*")}
        load_pairs(whole(source), "train")
        assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/remote/*/*/*")}
        with fsspec.filesystem("memory").open(f"/{tmp_path.name}/img_emb/img_emb_0.npy", "wb") as handle:
            np.save(handle, sides(3, 77)[0])
        assert load_pairs(whole(source), "train").fingerprint != here.fingerprint


def test_splits_of_columns_and_folders(tmp_path: Path) -> None:
    plain(tmp_path)
    words = ["train"] * 4 + ["validation"] * 3 + ["test"] * 3
    (tmp_path / "about.csv").write_text("key,split\n" + "".join(f"{row},{word}\n" for row, word in enumerate(words)))
    collection = read_collection(f"embeddings:{tmp_path}")
    assert [collection.splits.count(split) for split in ("train", "val", "test")] == [4, 3, 3]
    assert list(collection.splits[:5]) == ["train"] * 4 + ["val"]
    for split, number in (("train", 0), ("valid", 1)):
        clip_folder(tmp_path / "both" / split, {number: 4})
    collection = read_collection(f"embeddings:{tmp_path / 'both'}?test=0")
    assert collection.splits_present() == ["train", "val"]
    with pytest.raises(DataError, match="val is given a share, but the source has that split"):
        read_collection(f"embeddings:{tmp_path / 'both'}?val=0.5")


def made(count: int, shares: dict[str, float]) -> EmbeddedCollection:
    """A collection of ``count`` pairs, whose splits are not made."""
    from vldistill.data.embedded.rows import hashes_of

    names = [f"name-{row}" for row in range(count)]
    array = np.ones((count, 2), np.float16)
    texts = Texts.of(names, distinct=True)
    side = Vectors([Shard(array, "a")], np.arange(count), "a")
    return EmbeddedCollection(
        source="x", images=EmbeddedImages(texts), shares=shares, vectors=PairVectors(side, side), texts=texts,
        caption_image=np.arange(count), codes=np.zeros(count, np.int8), hashes=hashes_of(names),
    )  # fmt: skip


@pytest.mark.parametrize("shares", [{}, {"val": 0.3}, {"val": 0.2, "test": 0.0}, {"val": 0.4, "test": 0.4}])
@pytest.mark.parametrize("count", [3, 700])
def test_splits_are_made_as_for_all_sources(count: int, shares: dict[str, float]) -> None:
    from vldistill.data.collection import Collection

    own = made(count, shares)
    names = tuple(own.images.names)
    other = with_splits(Collection("x", own.images, [[name] for name in names], ["train"] * count, shares=shares))
    found = with_made_splits(own)
    assert list(found.splits) == list(other.splits)
    assert found.made == other.made


def test_made_splits_are_capped_where_no_share_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collections.MOST == 10_000
    monkeypatch.setattr(collections, "MOST", 110)
    count = 3_000  # of which a share of 0.05 is more
    found = with_made_splits(made(count, {}))
    assert [found.splits.count(split) for split in ("val", "test")] == [110, 110]
    assert "and at most 110" in found.made["test"]
    asked = with_made_splits(made(count, {"test": 0.06}))
    assert 130 < asked.splits.count("test") < 230


def test_texts_are_the_texts() -> None:
    words = ["", "a dog", "ein Hündchen", "\ud800", "日本"]
    texts = Texts.of(words)
    assert list(texts) == words
    assert texts[1:3] == words[1:3]
    assert list(texts.chosen(np.array([4, 0]))) == ["日本", ""]
    assert list(Texts.joined([texts, Texts.of(["x"])])) == [*words, "x"]
