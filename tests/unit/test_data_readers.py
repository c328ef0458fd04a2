from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from vldistill.data.collection import Collection, clean_caption
from vldistill.data.load import find_reader, load_pairs, read_collection, source_summary
from vldistill.data.reader import READERS, Reader, reader
from vldistill.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tests.conftest import KarpathyFolder


def test_every_reader_is_listed_with_a_line():
    assert {"karpathy", "scenes"} <= set(READERS)
    assert all(entry.summary and "\n" not in entry.summary for entry in READERS.values())


def test_adding_a_reader_is_one_function(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(READERS, "_entries", dict(READERS))

    @reader("drawn", matches=lambda source: source == "drawn")
    def read(source: str) -> Collection:
        """Two drawn scenes.

        More words.
        """
        one = read_collection("scenes:train=2")
        return Collection(source, one.images, one.captions, one.splits, accounts=one.accounts)

    assert READERS["drawn"].summary == "Two drawn scenes."
    assert load_pairs("drawn", "train").count_images == 2


def test_registration_refuses_what_would_confuse():
    def read(source: str) -> Collection:
        """Nothing."""
        raise AssertionError("a reader that is refused is never called")

    with pytest.raises(ConfigError, match="'karpathy' is registered twice"):
        reader("karpathy", matches=bool)(read)
    with pytest.raises(ConfigError, match="lower-case"):
        reader("My Reader", matches=bool)(read)
    with pytest.raises(ConfigError, match="docstring"):
        reader("mine", matches=bool)(lambda source: read(source))


def test_ambiguous_source(monkeypatch: pytest.MonkeyPatch):
    twin = Reader("twin", "Twin.", lambda source: source == "scenes", lambda source: pytest.fail("not read"))
    monkeypatch.setattr(READERS, "_entries", {**READERS, "twin": twin})
    with pytest.raises(DataError, match="several readers: scenes, twin"):
        find_reader("scenes")


def test_unknown_sources(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"'scnes' is not a kind of source \(did you mean scenes\?\).*ls readers"):
        find_reader("scnes:seed=1")
    with pytest.raises(DataError, match=r"does not exist \(did you mean .*/notes\.txt\?\)\. Expected the path"):
        find_reader(tmp_path / "note.txt")
    with pytest.raises(DataError, match=r"the folder .* holds notes\.txt(?s:.*)\n  \[karpathy\] "):
        find_reader(tmp_path)
    with pytest.raises(DataError, match="is not a data source"):
        find_reader(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="the data source is empty"):
        find_reader("")
    with pytest.raises(DataError, match="cannot be read"):
        find_reader("x" * 5000)


def test_clean_caption():
    assert clean_caption('A "Dog" (brown) runs; fast!! #1 *now* ~ .') == "a dog brown runs fast 1 now"
    assert len(clean_caption("word " * 50).split()) == 30
    assert clean_caption("...") == ""


def test_json_file_and_folder_read_alike(karpathy: KarpathyFolder):
    karpathy.add_photos()
    assert load_pairs(karpathy.folder, "val").fingerprint == load_pairs(karpathy.json, "val").fingerprint


def test_a_source_may_name_its_reader(karpathy: KarpathyFolder):
    karpathy.add_photos()
    for source in (karpathy.json, karpathy.folder):
        assert load_pairs(f"karpathy:{source}", "train").fingerprint == load_pairs(source, "train").fingerprint
    with pytest.raises(DataError, match="val is given a share, but the source has that split"):
        load_pairs(f"{karpathy.folder}?val=0.1", "train")
    with pytest.raises(DataError, match="unknown option 'image'"):
        load_pairs(f"{karpathy.folder}?image=photo", "train")


def test_images_subfolder_filepath_and_tar_read_alike(karpathy: KarpathyFolder, tmp_path: Path):
    karpathy.add_photos("images")
    expected = load_pairs(karpathy.folder, "train")
    for place, prefix in (("flat", ""), ("nested", "some/where/"), ("dotted", "./")):
        other = type(karpathy)(_folder(tmp_path / place))
        other.add_tar(prefix=prefix)
        found = load_pairs(other.folder, "train")
        assert found.fingerprint == expected.fingerprint
        assert found.images.read(2).tobytes() == expected.images.read(2).tobytes()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_filepath_is_honoured(karpathy: KarpathyFolder):
    karpathy.save(
        [karpathy.entry(0, filepath="a", filename="x.jpg"), karpathy.entry(1, filepath="b", filename="x.jpg")]
    )
    karpathy.add_photos("images")
    pairs = load_pairs(karpathy.folder, "train")
    assert list(pairs.images.names) == ["a/x.jpg", "b/x.jpg"]
    assert pairs.images.read(0).tobytes() != pairs.images.read(1).tobytes()


def test_shards_of_tars(karpathy: KarpathyFolder):
    karpathy.add_tar("images-00.tar", numbers=range(0, 2))
    karpathy.add_tar("images-01.tar", numbers=range(2, 6))
    assert load_pairs(karpathy.folder, "train").notes == ()


def test_restval_is_train_and_png_is_read(karpathy: KarpathyFolder):
    karpathy.save([karpathy.entry(0), karpathy.entry(1, "restval", filename="1.png")])
    karpathy.add_photos()
    (karpathy.folder / "1.png").write_bytes(karpathy.photo(1, kind="PNG"))
    pairs = load_pairs(karpathy.folder, "train")
    assert pairs.count_images == 2 and pairs.images.read(1).mode == "RGB"
    assert list(source_summary(karpathy.folder)["splits"]) == ["train"]


def test_captions_are_stripped_but_not_cleaned(karpathy: KarpathyFolder):
    karpathy.save([karpathy.entry(0, sentences=[{"raw": "  A Dog!  "}, {"raw": " "}, {"raw": "é\n"}])])
    karpathy.add_photos()
    pairs = load_pairs(karpathy.folder, "train")
    assert pairs.captions == ["A Dog!", "é"]
    assert pairs.notes == ("1 empty caption left out (0.jpg)",)
    with pytest.raises(DataError, match=r"1 empty caption left out.*leave out --strict"):
        load_pairs(karpathy.folder, "train", strict=True)


def test_images_without_captions_and_missing_images_are_counted(karpathy: KarpathyFolder):
    karpathy.save(
        [karpathy.entry(0), karpathy.entry(1, sentences=[]), karpathy.entry(2), karpathy.entry(3, sentences=[])]
    )
    karpathy.add_photos()
    (karpathy.folder / "2.jpg").unlink()
    pairs = load_pairs(karpathy.folder, "train")
    assert list(pairs.images.names) == ["0.jpg"]
    assert pairs.notes == ("2 images without a caption left out (1.jpg, 3.jpg)", "1 missing image left out (2.jpg)")
    with pytest.raises(DataError, match="2 images without a caption"):
        load_pairs(karpathy.folder, "train", strict=True)


def test_all_images_missing_says_where_was_looked(karpathy: KarpathyFolder):
    with pytest.raises(DataError, match=r"none of its 3 images .*Looked for 0\.jpg in .*tiny, its images/"):
        load_pairs(karpathy.folder, "train")


def test_strict_passes_a_faultless_source(karpathy: KarpathyFolder):
    karpathy.add_photos()
    assert load_pairs(karpathy.folder, "train", strict=True).count_images == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "a list of 0 items"),
        (b"[1, 2]", "a list of 2 items, the first a number"),
        (b'[{"image": "a.jpg", "caption": ["x"]}]', r"1 missing image left out"),
        (b'{"images": [{"id": 1, "file_name": "a"}], "annotations": []}', "COCO-style annotation file"),
        (b'{"a": 1, "b": 2}', "an object with the keys 'a', 'b'"),
        (b"{}", "an empty object"),
        (b"null", "looks like null"),
        (b'{"images": []}', "an empty list of images"),
        (b'{"images": [{"filename": "a.jpg"}]}', "none of them has 'sentences'"),
        (b'{"images": {"a": 1}}', "an object with the keys 'images'"),
    ],
)
def test_json_of_the_wrong_kind(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_pairs(path, "train")
    with pytest.raises(DataError, match=message):
        load_pairs(tmp_path, "train")


def test_missing_json_and_folder_named_json(tmp_path: Path):
    with pytest.raises(DataError, match=r"does not exist\. Give the path of a json file"):
        load_pairs(tmp_path / "no.json", "train")
    (tmp_path / "odd.json").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        load_pairs(tmp_path / "odd.json", "train")


def test_byte_order_mark_is_accepted(karpathy: KarpathyFolder):
    karpathy.add_photos()
    karpathy.json.write_bytes(b"\xef\xbb\xbf" + karpathy.json.read_bytes())
    assert load_pairs(karpathy.folder, "train").count_images == 3


def test_several_json_files(karpathy: KarpathyFolder):
    karpathy.add_photos()
    (karpathy.folder / "other.json").write_text("[]")
    (karpathy.folder / "broken.json").write_text("{")
    assert load_pairs(karpathy.folder, "train").count_images == 3
    (karpathy.folder / "twin.json").write_bytes(karpathy.json.read_bytes())
    with pytest.raises(DataError, match=r"several Karpathy-style json files: dataset_tiny.json, twin.json"):
        load_pairs(karpathy.folder, "train")
    karpathy.json.unlink()
    (karpathy.folder / "twin.json").unlink()
    with pytest.raises(DataError, match=r"broken\.json was weighed and does not look like captions of images: .*JSON"):
        load_pairs(karpathy.folder, "train")


RAW = [{"raw": "a"}]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (7, "image 1 is a number; expected an object"),
        ({"filename": None}, "filename is null"),
        ({"filename": 3}, "filename is a number; expected a text"),
        ({"filename": ""}, "filename is empty"),
        ({"filepath": ["a"]}, "filepath is a list"),
        ({"filename": "../1.jpg"}, "'../1.jpg' is refused; expected a relative path"),
        ({"filename": "/etc/passwd"}, "is refused"),
        ({"filepath": "/etc", "filename": "passwd"}, "is refused"),
        ({"filename": "a\0b.jpg"}, "is refused"),
        ({"filename": "\ud800.jpg"}, "is refused"),
        ({"split": None}, "split is None; expected one of train, training, restval, val"),
        ({"split": "some"}, "split is 'some'"),
        ({"split": ["train"]}, r"split is \['train'\]"),
        ({"sentences": None}, "sentences is null; expected a list"),
        ({"sentences": "a dog"}, "sentences is a text"),
        ({"sentences": [{"raw": "a"}, {"tokens": ["a"]}]}, "caption is an object; expected a text"),
        ({"sentences": [{"raw": 5}]}, "caption is a number"),
        ({"sentences": [{"raw": "half \ud800"}]}, "not valid Unicode"),
        ({"filename": "0.jpg"}, "filename '0.jpg' was used before, by image 0"),
        ({"filename": "./0.jpg"}, "filename '0.jpg' was used before"),
    ],
)
def test_wrong_entries(karpathy: KarpathyFolder, bad: Any, message: str):
    karpathy.add_photos()
    good = karpathy.entry(0)
    entry = {**karpathy.entry(1), **bad} if isinstance(bad, dict) else bad
    karpathy.save([good, entry])
    with pytest.raises(DataError, match=message):
        load_pairs(karpathy.folder, "train", strict=True)
    pairs = load_pairs(karpathy.folder, "train")
    assert "1 list entry left out: malformed (image 1" in pairs.notes[0] or "not valid Unicode" in pairs.notes[0]
    assert list(pairs.images.names) == ["0.jpg"] and pairs.images.encoded(0) == karpathy.photo(0)


def test_fields_that_readers_do_not_need_may_be_missing_or_wrong(karpathy: KarpathyFolder):
    entries = [{"filename": "0.jpg", "split": "train", "sentences": RAW}]
    same = {"imgid": [7], "sentences": [{"raw": "b", "sentid": 1}, "c", {"raw": None, "sentid": 1}]}
    karpathy.save([*entries, {"filename": "1.jpg", "split": "TRAIN", **same}, karpathy.entry(3, split="dev")])
    karpathy.add_photos()
    pairs = load_pairs(karpathy.folder, "train")
    assert pairs.captions == ["a", "b", "c"] and "1 empty caption left out (1.jpg)" in pairs.notes
    assert load_pairs(karpathy.folder, "val").count_images == 1


def test_a_name_too_long_for_the_disk_is_missing(karpathy: KarpathyFolder):
    karpathy.save([karpathy.entry(0), karpathy.entry(1, filename="x" * 300 + ".jpg")])
    (karpathy.folder / "0.jpg").write_bytes(karpathy.photo(0))
    assert "1 missing image" in load_pairs(karpathy.folder, "train").notes[0]


def test_flickr8k(shared: Path):
    folder = shared / "data" / "flickr8k"
    train = load_pairs(folder, "train", strict=True)
    assert (train.count_images, train.count_captions) == (6000, 30000)
    raw = json.loads((folder / "dataset_flickr8k.json").read_text())["images"][0]
    assert train.images.names[0] == raw["filename"]
    assert train.captions[0] == raw["sentences"][0]["raw"].strip()
    assert train.images.read(5999).size == (128, 128)
    assert load_pairs(folder, "val").count_captions == load_pairs(folder, "test").count_captions == 5000


def test_coco_mini_keeps_aspect_ratios(shared: Path):
    folder = shared / "data" / "coco_mini"
    pairs = load_pairs(folder, "test", strict=True)
    sizes = [
        (image["width"], image["height"])
        for image in json.loads((folder / "dataset_coco_mini.json").read_text())["images"]
    ]
    read = [pairs.images.read(index) for index in range(len(pairs.images))]
    assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in read)
    assert [image.size for image in read] == sizes
    with pytest.raises(DataError, match=r"no split 'train'. It has: test \(159 images, 795 captions\)"):
        load_pairs(folder, "train")
