from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vldistill.data.load import load_pairs, source_summary
from vldistill.data.pairs import CaptionRows, ChosenImages, Pairs
from vldistill.data.scenes import SceneImages, draw_splits
from vldistill.errors import DataError

if TYPE_CHECKING:
    from tests.conftest import KarpathyFolder

STORE = SceneImages(tuple(draw_splits(0, {"train": 3})["train"]))


def tiny(**changes: Any) -> Pairs:
    """Three images; captions in mixed order: two of image 0, one of 1, two of 2."""
    parts = {
        "source": "here",
        "split": "train",
        "images": STORE,
        "captions": ["c0", "a0", "b0", "c1", "a1"],
        "caption_image": np.array([2, 0, 1, 2, 0]),
    }
    return Pairs(**{**parts, **changes})


def test_counts_and_groups():
    pairs = tiny()
    assert (pairs.count_images, pairs.count_captions) == (3, 5)
    assert [group.tolist() for group in pairs.image_captions] == [[1, 4], [2], [0, 3]]
    assert pairs.caption_image.dtype == np.int64


def test_the_map_is_a_frozen_copy():
    given_map = np.array([2, 0, 1, 2, 0], dtype=np.int32)
    pairs = tiny(caption_image=given_map)
    given_map[0] = 1
    assert pairs.caption_image[0] == 2
    with pytest.raises(ValueError, match="read-only"):
        pairs.caption_image[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": ["c0", "a0", "b0", "c1", " "]}, "caption 4 is ' '"),
        ({"captions": ["c0", "a0", "b0", "c1", None]}, "caption 4 is None"),
        ({"captions": ["c0", "a0"]}, r"expected integers \(2,\)"),
        ({"caption_image": np.array([2, 0, 1, 3, 0])}, r"runs 0\.\.3; expected 0\.\.2"),
        ({"caption_image": np.array([2, 0, -1, 2, 0])}, r"runs -1\.\.2"),
        ({"caption_image": np.array([2.0, 0, 1, 2, 0])}, "float64"),
        ({"caption_image": np.array([2, 0, 0, 2, 0])}, "images without a caption: 1"),
        ({"captions": [], "caption_image": np.array([], dtype=int)}, "images without a caption: 3"),
        ({"images": SceneImages(())}, "no images"),
        ({"images": SceneImages(STORE.scenes[:1] * 3)}, "1 distinct names"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        tiny(**changes)


def test_select_keeps_order_and_all_captions():
    chosen = tiny().select_images([2, 0])
    assert list(chosen.images.names) == [STORE.names[2], STORE.names[0]]
    assert chosen.captions == ["c0", "c1", "a0", "a1"]
    assert chosen.caption_image.tolist() == [0, 0, 1, 1]
    assert chosen.images.read(0).tobytes() == STORE.read(2).tobytes()
    again = chosen.select_images(np.array([1]))
    assert again.captions == ["a0", "a1"]
    assert isinstance(again.images, ChosenImages) and again.images.store is STORE


@given(st.data())
def test_selecting_everything_back_gives_the_same_pairs(data: st.DataObject):
    order = data.draw(st.permutations(range(3)))
    back = tiny().select_images(order).select_images(np.argsort(order))
    grouped = tiny().select_images(range(3))
    assert back.fingerprint == grouped.fingerprint
    assert back.captions == grouped.captions


@pytest.mark.parametrize(
    ("indices", "message"), [([], "none chosen"), ([1, 1], "twice"), ([3], r"expected 0\.\.2"), ([-1], "-1")]
)
def test_selection_that_cannot_be_is_refused(indices: list[int], message: str):
    with pytest.raises(DataError, match=message):
        tiny().select_images(indices)


def test_fingerprint_follows_the_content_only():
    base = tiny().fingerprint
    assert len(base) == 16 and int(base, 16) >= 0
    assert tiny(source="elsewhere", notes=("a note",)).fingerprint == base
    assert tiny(split="val").fingerprint != base
    assert tiny(captions=["c0", "a0", "b0", "c1", "A1"]).fingerprint != base
    assert tiny(caption_image=np.array([2, 0, 1, 2, 1])).fingerprint != base
    reordered = tiny(images=SceneImages(STORE.scenes[::-1]))
    assert reordered.fingerprint != base
    reseeded = SceneImages(tuple(replace(scene, seed=9) for scene in STORE.scenes))
    assert reseeded.names == STORE.names and tiny(images=reseeded).fingerprint != base


def test_pairs_survive_pickling():
    chosen = tiny().select_images([1])
    again = pickle.loads(pickle.dumps(chosen))
    assert again.fingerprint == chosen.fingerprint
    assert again.images.read(0).tobytes() == chosen.images.read(0).tobytes()


def test_load_pairs_of_a_karpathy_folder(karpathy: KarpathyFolder):
    karpathy.add_photos()
    pairs = load_pairs(karpathy.folder, "train")
    assert (pairs.count_images, pairs.count_captions, pairs.notes) == (3, 6, ())
    assert pairs.captions[:2] == ["caption 0 a", "caption 0 b"]
    assert pairs.images.read(0).size == (40, 30)


def test_a_missing_split_lists_the_others(karpathy: KarpathyFolder):
    karpathy.save(karpathy.entries[:5])
    karpathy.add_photos()
    with pytest.raises(
        DataError, match=r"no split 'test'.*train \(3 images, 6 captions\), val \(2 images, 4 captions\)"
    ):
        load_pairs(karpathy.folder, "test")
    with pytest.raises(DataError, match=r"unknown split 'tset'\. Did you mean test"):
        load_pairs(karpathy.folder, "tset")


def test_summary(karpathy: KarpathyFolder):
    karpathy.add_photos()
    (karpathy.folder / "4.jpg").unlink()
    (karpathy.folder / "5.jpg").unlink()
    summary = source_summary(str(karpathy.json))
    assert summary["reader"] == "karpathy" and summary["source"] == str(karpathy.json)
    assert list(summary["splits"]) == ["train", "val", "test"]
    train, val = summary["splits"]["train"], summary["splits"]["val"]
    assert (train["images"], train["captions"], train["notes"]) == (3, 6, [])
    assert (val["images"], val["captions"], val["notes"]) == (1, 2, ["1 missing image left out (4.jpg)"])
    assert val["account"]["images"] == {
        "unit": "images", "seen": 2, "used": 1,
        "left_out": [{"reason": "missing", "count": 1, "first": ["4.jpg"], "loss": True}],
    }  # fmt: skip
    assert (summary["account"][1]["unit"], summary["account"][1]["seen"]) == ("list entries", 6)
    assert summary["splits"]["test"]["images"] == 0
    assert "none of its 1 images" in summary["splits"]["test"]["notes"][0]


def test_reading_needs_no_torch():
    code = (
        "import sys, vldistill.data.cache\n"
        "from vldistill.data.load import load_pairs\n"
        "load_pairs('scenes:train=5', 'train').fingerprint\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_of_captions_are_a_sequence():
    rows = CaptionRows(np.array([2, 0, 1, 2, 0]), 3)
    assert len(rows) == 3 and rows[-1].tolist() == rows[2].tolist() == [0, 3]
    assert [own.tolist() for own in rows[1:]] == [[2], [0, 3]] and list(map(len, rows)) == [2, 1, 2]
    for index in (3, -4):
        with pytest.raises(IndexError):
            rows[index]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_the_fingerprint_of_a_large_split_changes_with_everything(monkeypatch: pytest.MonkeyPatch, chunk: int):
    monkeypatch.setattr("vldistill.data.pairs.LARGE", 2)
    monkeypatch.setattr("vldistill.data.pairs.HASHED_AT_ONCE", chunk)
    store, others = (SceneImages(tuple(draw_splits(seed, {"train": 3})["train"])) for seed in (0, 1))
    same, same_again = tiny(), tiny(source="elsewhere")
    different = [
        tiny(split="val"),
        tiny(images=others),
        tiny(images=SceneImages((store.scenes[1], store.scenes[0], store.scenes[2]))),
        tiny(captions=["c0", "a0", "b0", "c1", "a2"]),
        tiny(captions=["c0", "a0b0", "b0", "c1", "a1"]),
        tiny(caption_image=np.array([2, 0, 1, 0, 2])),
        tiny(captions=["a0", "c0", "b0", "c1", "a1"], caption_image=np.array([0, 2, 1, 2, 0])),
    ]
    found = [pairs.fingerprint for pairs in (same, *different)]
    assert len(set(found)) == len(found) and same.fingerprint == same_again.fingerprint
