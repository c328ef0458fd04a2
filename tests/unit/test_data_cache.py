from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from vldistill.data import cache
from vldistill.data.cache import open_images
from vldistill.data.load import load_pairs
from vldistill.data.pairs import Pairs
from vldistill.errors import DataError, VldistillError

if TYPE_CHECKING:
    from tests.conftest import KarpathyFolder

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def pairs(karpathy: KarpathyFolder) -> Pairs:
    karpathy.add_photos()
    return load_pairs(karpathy.folder, "train")


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_decode", lambda *_: pytest.fail("decoded again"))


def test_rows_are_the_resized_images(pairs: Pairs, tmp_path: Path):
    decoded = open_images(pairs, 24, tmp_path / "cache")
    assert decoded.pairs is pairs and decoded.broken == ()
    assert decoded.array.shape == (3, 3, 24, 24) and decoded.array[:].dtype == np.uint8
    assert isinstance(decoded.array[:], np.memmap) and not decoded.array[:].flags.writeable
    for index in range(3):
        expected = pairs.images.read(index).resize((24, 24), Image.Resampling.BICUBIC)
        assert np.array_equal(decoded.array[index], np.asarray(expected).transpose(2, 0, 1))
    assert (tmp_path / "cache" / f"images-{pairs.fingerprint}-24" / "images.npy").is_file()


def test_images_of_the_right_size_are_untouched(tmp_path: Path):
    scenes = load_pairs("scenes:train=300", "train")
    calls: list[tuple[int, int]] = []
    decoded = open_images(scenes, 64, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(256, 300), (300, 300)]
    for index in (0, 255, 256, 299):
        assert np.array_equal(decoded.array[index].transpose(1, 2, 0), np.asarray(scenes.images.read(index)))


def test_large_jpegs_come_out_nearly_the_same(karpathy: KarpathyFolder, tmp_path: Path):
    karpathy.save([karpathy.entry(0)])
    (karpathy.folder / "0.jpg").write_bytes(karpathy.photo(0, size=(1600, 1200)))
    pairs = load_pairs(karpathy.folder, "train")
    exact = np.asarray(pairs.images.read(0).resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    difference = np.abs(open_images(pairs, 64, tmp_path).array[0].astype(int) - exact)
    assert difference.max() <= 4 and difference.mean() < 1


def test_the_second_call_decodes_nothing(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = np.array(open_images(pairs, 16, tmp_path).array)
    forbid_decoding(monkeypatch)
    assert np.array_equal(open_images(pairs, 16, tmp_path).array[:], first)


def test_an_edited_photo_or_another_size_is_decoded_anew(karpathy: KarpathyFolder, pairs: Pairs, tmp_path: Path):
    before = np.array(open_images(pairs, 16, tmp_path).array)
    (karpathy.folder / "1.jpg").write_bytes(karpathy.photo(77))
    after = open_images(load_pairs(karpathy.folder, "train"), 16, tmp_path).array
    assert [bool(np.array_equal(before[i], after[i])) for i in range(3)] == [True, False, True]
    assert open_images(pairs, 8, tmp_path).array.shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "longer",
        "zeroed end",
        "header",
        "no json",
        "bad json",
        "list",
        "foreign",
        "wrong type",
        "no digits",
    ],
)
def test_a_damaged_cache_is_rebuilt(pairs: Pairs, tmp_path: Path, damage: str):
    expected = np.array(open_images(pairs, 16, tmp_path).array)
    place = next(tmp_path.glob("images-*"))
    array, about = place / "images.npy", place / "images.json"
    raw = array.read_bytes()
    match damage:
        case "truncated":
            array.write_bytes(raw[:-100])
        case "longer":
            array.write_bytes(raw + b"x")
        case "zeroed end":
            array.write_bytes(raw[:-100] + bytes(100))
        case "header":
            array.write_bytes(b"x" + raw[1:])
        case "no json":
            about.unlink()
        case "bad json":
            about.write_text("{")
        case "list":
            about.write_text("[]")
        case "foreign":
            about.write_text(json.dumps({**json.loads(about.read_text()), "broken": {"other.jpg": "gone"}}))
        case "wrong type" | "no digits":
            digests = {} if damage == "wrong type" else "x" * len(json.loads(about.read_text())["rows"])
            about.write_text(json.dumps({**json.loads(about.read_text()), "rows": digests}))
    assert np.array_equal(open_images(pairs, 16, tmp_path).array[:], expected)
    assert sorted(path.name for path in place.iterdir()) == ["images.json", "images.npy"]


def test_broken_photos_are_left_out_and_counted(
    karpathy: KarpathyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    karpathy.add_photos()
    whole = open_images(load_pairs(karpathy.folder, "train"), 16, tmp_path)
    photo = karpathy.folder / "1.jpg"
    photo.write_bytes(photo.read_bytes()[:300])
    pairs = load_pairs(karpathy.folder, "train")
    for attempt in range(2):
        decoded = open_images(pairs, 16, tmp_path)
        assert decoded.broken == ("1.jpg",)
        assert list(decoded.pairs.images.names) == ["0.jpg", "2.jpg"]
        assert decoded.pairs.notes == ("1 broken image left out (1.jpg)",)
        assert decoded.pairs.captions == ["caption 0 a", "caption 0 b", "caption 2 a", "caption 2 b"]
        assert np.array_equal(decoded.array[:], whole.array[[0, 2]])
        with pytest.raises(
            DataError, match=r"broken images: 1, and --strict refuses them: image 1\.jpg is not a readable"
        ):
            open_images(pairs, 16, tmp_path, strict=True)
        if attempt == 0:
            forbid_decoding(monkeypatch)


def test_a_photo_deleted_after_loading_is_a_broken_one(karpathy: KarpathyFolder, pairs: Pairs, tmp_path: Path):
    assert pairs.fingerprint
    (karpathy.folder / "0.jpg").unlink()
    assert open_images(pairs, 16, tmp_path).broken == ("0.jpg",)


def test_all_broken_is_an_error_each_time(karpathy: KarpathyFolder, tmp_path: Path):
    karpathy.add_photos()
    for number in range(3):
        (karpathy.folder / f"{number}.jpg").write_bytes(b"broken")
    pairs = load_pairs(karpathy.folder, "train")
    for _ in range(2):
        with pytest.raises(DataError, match=r"all 3 images are broken: image 0\.jpg"):
            open_images(pairs, 16, tmp_path)


def test_giants_are_broken_images(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"all 3 images are broken: image 0\.jpg has more pixels than Pillow opens"):
        open_images(pairs, 16, tmp_path)


def test_a_size_of_zero_is_refused(pairs: Pairs, tmp_path: Path):
    with pytest.raises(DataError, match="image size 0: expected at least 1"):
        open_images(pairs, 0, tmp_path)


def test_disk_space_is_checked_first(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    forbid_decoding(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 0, 1000))
    with pytest.raises(VldistillError, match=r"decoding 3 images at 16 x 16 pixels needs 2\.4 kB"):
        open_images(pairs, 16, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_leaves_nothing_behind(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.open

    def on_full_disk(path: Path, mode: str = "r", *args: object, **options: object):
        return real(Path("/dev/full") if path.name.endswith(".tmp") else path, mode, *args, **options)  # pyright: ignore

    monkeypatch.setattr(Path, "open", on_full_disk)
    with pytest.raises(VldistillError, match=r"filled up; 2\.4 kB are needed"):
        open_images(pairs, 16, tmp_path)
    monkeypatch.undo()
    assert [path.name for path in next(tmp_path.glob("images-*")).iterdir()] == []


def test_an_interrupted_build_leaves_no_half_file(pairs: Pairs, tmp_path: Path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_images(pairs, 16, tmp_path, progress=interrupt)
    assert list(next(tmp_path.glob("images-*")).iterdir()) == []
    assert open_images(pairs, 16, tmp_path).array.shape[0] == 3


def test_two_processes_build_the_same_cache_at_once(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from vldistill.data.cache import open_images; from vldistill.data.load import load_pairs\n"
        "pairs = load_pairs('scenes:train=600', 'train'); start = float(sys.argv[2])\n"
        "time.sleep(max(0, start - time.time()))\n"
        "for _ in range(3):\n"
        "    print(int(open_images(pairs, 64, Path(sys.argv[1])).array[:].astype('int64').sum()))\n"
        "    (next(Path(sys.argv[1]).glob('images-*')) / 'images.json').unlink(missing_ok=True)\n"
    )
    start = str(time.time() + 1.0)
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), start], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [job.communicate(timeout=60)[0].split() for job in jobs]
    expected = open_images(load_pairs("scenes:train=600", "train"), 64, tmp_path).array[:].astype("int64").sum()
    assert results == [[str(expected)] * 3] * 2


def test_flickr8k_photos(shared: Path, tmp_path: Path):
    pairs = load_pairs(shared / "data" / "flickr8k", "val").select_images(range(200))
    decoded = open_images(pairs, 128, tmp_path)
    assert decoded.broken == () and decoded.array.shape == (200, 3, 128, 128)
    assert np.array_equal(decoded.array[7].transpose(1, 2, 0), np.asarray(pairs.images.read(7)))
