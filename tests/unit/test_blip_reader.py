"""BLIP-style lists against the Karpathy-style file of the same photos, and everything that can be wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vldistill.data.load import find_reader, load_pairs, source_summary
from vldistill.errors import DataError

if TYPE_CHECKING:
    from tests.conftest import KarpathyFolder


def as_blip(entries: list[dict[str, Any]], split: str, place: str = "") -> list[dict[str, Any]]:
    """The records of one split as BLIP writes them: train by caption, val and test by image."""
    rows = []
    for entry in entries:
        if {"restval": "train"}.get(entry["split"], entry["split"]) != split:
            continue
        image = "/".join(part for part in (place, entry.get("filepath", ""), entry["filename"]) if part)
        texts = [sentence["raw"] for sentence in entry["sentences"]]
        if split == "train":
            rows += [{"image": image, "caption": text, "image_id": f"tiny_{entry['imgid']}"} for text in texts]
        else:
            rows.append({"image": image, "caption": texts})
    return rows


def write(folder: Path, entries: list[dict[str, Any]], family: str = "tiny_", place: str = "") -> None:
    for split in ("train", "val", "test"):
        (folder / f"{family}{split}.json").write_text(json.dumps(as_blip(entries, split, place)))


@pytest.fixture
def blip(karpathy: KarpathyFolder, tmp_path: Path) -> KarpathyFolder:
    """The same data twice: ``karpathy.folder`` beside ``blip.folder``, which has BLIP's lists instead."""
    other = shutil.copytree(karpathy.folder, tmp_path / "blip")
    both = type(karpathy)(other)
    both.json.unlink()
    write(other, both.entries)
    return both


LAYOUTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    # filepath of the Karpathy-style entries by number, and the folder that BLIP puts before the names
    "flat": ([{}] * 6, ""),
    "flickr30k": ([{}] * 6, "flickr30k-images"),
    "coco": ([{"filepath": "train2014" if n < 2 else "val2014"} for n in range(6)], ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tar", [False, True])
def test_pairs_are_those_of_the_karpathy_file(layout: str, tar: bool, karpathy: KarpathyFolder, tmp_path: Path):
    changes, place = LAYOUTS[layout]
    splits = ["train", "restval", "train", "val", "val", "test"]
    karpathy.save([karpathy.entry(n, split, **changes[n]) for n, split in enumerate(splits)])
    other = tmp_path / "blip"
    other.mkdir()
    write(other, karpathy.entries, place=place)
    if tar:
        prefixed = f"{place}/" if place else ""
        karpathy.save(
            [{**e, "filename": Path(e.get("filepath", ""), e["filename"]).as_posix()} for e in karpathy.entries]
        )
        karpathy.save([{k: v for k, v in entry.items() if k != "filepath"} for entry in karpathy.entries])
        karpathy.add_tar()
        made = karpathy.add_tar("blip.tar", prefix=prefixed)
        shutil.move(made, other / "photos.tar")
    else:
        karpathy.add_photos()
        for number, entry in enumerate(karpathy.entries):
            path = other / place / entry.get("filepath", "") / entry["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(karpathy.photo(number))
    assert (find_reader(karpathy.folder).name, find_reader(other).name) == ("karpathy", "blip")
    for split, images in (("train", 3), ("val", 2), ("test", 1)):
        ours, theirs = load_pairs(other, split, strict=True), load_pairs(karpathy.folder, split, strict=True)
        assert ours.count_images == images
        assert list(ours.images.names) == list(theirs.images.names)
        assert ours.captions == theirs.captions
        assert np.array_equal(ours.caption_image, theirs.caption_image)
        assert ours.fingerprint == theirs.fingerprint
        for index in range(images):
            assert ours.images.read(index).tobytes() == theirs.images.read(index).tobytes()


def test_any_of_the_files_means_all_of_them(blip: KarpathyFolder):
    blip.add_photos("images")
    expected = load_pairs(blip.folder, "val").fingerprint
    for split in ("train", "val", "test"):
        assert load_pairs(blip.folder / f"tiny_{split}.json", "val").fingerprint == expected
    (blip.folder / "tiny_test.json").unlink()
    assert list(source_summary(blip.folder)["splits"]) == ["train", "val"]
    with pytest.raises(DataError, match=r"no split 'test'. It has: train \(3 images, 6 captions\), val"):
        load_pairs(blip.folder, "test")


def test_captions_of_one_image_need_not_be_neighbours(blip: KarpathyFolder):
    blip.add_photos()
    path = blip.folder / "tiny_train.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows[::2] + rows[1::2]))
    pairs = load_pairs(blip.folder, "train")
    assert list(pairs.images.names) == ["0.jpg", "1.jpg", "2.jpg"]
    assert pairs.captions == [f"caption {number} {letter}" for number in range(3) for letter in "ab"]


def test_files_beside_the_lists(blip: KarpathyFolder, karpathy: KarpathyFolder):
    blip.add_photos()
    (blip.folder / "tiny_val_gt.json").write_text(json.dumps({"annotations": [], "images": []}))  # of caption scores
    (blip.folder / "empty.json").write_text("[]")
    assert load_pairs(blip.folder, "val").count_images == 2
    shutil.copy(karpathy.json, blip.folder)  # both forms in one folder: the one that says all in one file
    assert find_reader(blip.folder).name == "karpathy"
    assert find_reader(blip.folder / "tiny_val.json").name == "blip"
    assert load_pairs(blip.folder, "val").fingerprint == load_pairs(blip.folder / "tiny_val.json", "val").fingerprint


def test_two_data_sets_in_one_folder(blip: KarpathyFolder):
    blip.add_photos()
    write(blip.folder, blip.entries, "other-")
    with pytest.raises(DataError, match=r"several BLIP-style data sets: other-test\.json.*Give the path of one file"):
        load_pairs(blip.folder, "train")
    assert load_pairs(blip.folder / "other-val.json", "train").count_images == 3


def test_a_list_whose_name_names_no_split_is_split_as_a_table_is(blip: KarpathyFolder):
    blip.add_photos()
    rows = [{"image": f"{n}.jpg", "caption": ["x"]} for n in range(6)]
    for split in ("train", "val", "test"):
        (blip.folder / f"tiny_{split}.json").unlink()
    (blip.folder / "captions.json").write_text(json.dumps(rows))
    for source in (blip.folder, blip.folder / "captions.json"):
        assert [load_pairs(source, split).count_images for split in ("train", "val", "test")] == [2, 2, 2]
    assert load_pairs(f"{blip.folder}?val=0&test=0", "train").count_images == 6


@pytest.mark.parametrize("name", ["train", "flickr30k_train", "coco-karpathy-train", "my.train"])
def test_names_of_files(name: str, blip: KarpathyFolder):
    blip.add_photos()
    for split in ("train", "val", "test"):
        (blip.folder / f"tiny_{split}.json").rename(blip.folder / f"{name.replace('train', split)}.json")
    assert load_pairs(blip.folder, "train").count_images == 3


def test_missing_and_bare_images_are_counted(blip: KarpathyFolder):
    blip.add_photos()
    (blip.folder / "1.jpg").unlink()
    path = blip.folder / "tiny_val.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[0], {**rows[1], "caption": []}]))
    assert load_pairs(blip.folder, "train").notes == ("1 missing image left out (1.jpg)",)
    assert load_pairs(blip.folder, "val").notes == ("1 image without a caption left out (4.jpg)",)
    with pytest.raises(DataError, match=r"Looked for 1\.jpg in .*blip, its images/"):
        load_pairs(blip.folder, "train", strict=True)


@pytest.mark.parametrize("content", ['[{"image": "a.jpg", "caption": "x"', "", "[]", '{"a": 1}'])
def test_a_list_that_is_broken_or_none(blip: KarpathyFolder, content: str):
    blip.add_photos()
    (blip.folder / "tiny_train.json").write_text(content)
    with pytest.raises(DataError, match=r"is not JSON|expected a|no split 'train'"):
        load_pairs(blip.folder / "tiny_train.json", "train")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (7, "tiny_train.json: record 1 is a number; expected an object"),
        ({"image": None}, "image is null; expected a text"),
        ({"image": 3}, "image is a number"),
        ({"image": ""}, "image is empty"),
        ({"image": "../1.jpg"}, "'../1.jpg' is refused; expected a relative path"),
        ({"image": "/etc/passwd"}, "is refused"),
        ({"image": "a\0b.jpg"}, "is refused"),
        ({"caption": None}, "1 empty caption left out"),
        ({"caption": 5}, "caption is a number; expected a text or a list of texts"),
        ({"caption": ["a", 5]}, "caption is a number; expected a text"),
        ({"caption": "half \ud800"}, "not valid Unicode"),
        ({"image": "3.jpg", "image_id": "new"}, r"tiny_val.json: record 0: image '3.jpg' .*split train as well|before"),
    ],
)
def test_wrong_records(blip: KarpathyFolder, bad: Any, message: str):
    blip.add_photos()
    first = {"image": "0.jpg", "caption": "a", "image_id": "tiny_0"}
    record = {"image": "1.jpg", "caption": "b", "image_id": "tiny_1", **bad} if isinstance(bad, dict) else bad
    (blip.folder / "tiny_train.json").write_text(json.dumps([first, record]))
    with pytest.raises(DataError, match=message):
        load_pairs(blip.folder, "train", strict=True)
    assert load_pairs(blip.folder, "train").captions[0] == "a"


def test_lists_of_one_image_are_joined_whatever_the_ids_say(blip: KarpathyFolder):
    blip.add_photos()
    rows = [{"image": "3.jpg", "caption": ["a"], "image_id": 1}, {"image": "3.jpg", "caption": "b", "image_id": True}]
    (blip.folder / "tiny_val.json").write_text(json.dumps([*rows, {"image": "4.jpg", "caption": "c", "image_id": 1}]))
    pairs = load_pairs(blip.folder, "val", strict=True)
    assert pairs.captions == ["a", "b", "c"] and list(pairs.images.names) == ["3.jpg", "4.jpg"]


def test_one_name_in_two_folders_stays_two_images(blip: KarpathyFolder):
    blip.add_photos()
    for place in ("a-images", "images"):
        (blip.folder / place).mkdir()
        (blip.folder / place / "x.jpg").write_bytes(blip.photo(len(place)))
    rows = [{"image": f"{place}/x.jpg", "caption": place} for place in ("a-images", "images")]
    (blip.folder / "tiny_train.json").write_text(json.dumps(rows))
    pairs = load_pairs(blip.folder, "train", strict=True)
    assert [pairs.images.encoded(index) for index in range(2)] == [blip.photo(len(place)) for place in pairs.captions]
