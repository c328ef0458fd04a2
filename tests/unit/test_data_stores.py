from __future__ import annotations

import gzip
import os
import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from vldistill.data.load import load_pairs
from vldistill.data.pairs import ImageStore
from vldistill.data.photos import UPRIGHT, PhotoLimits, decode
from vldistill.data.stores import FileImages, Place
from vldistill.errors import DataError

if TYPE_CHECKING:
    from tests.conftest import KarpathyFolder


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def one_file(path: Path, raw: bytes) -> ImageStore:
    path.write_bytes(raw)
    return FileImages((path.name,), (Place(path),))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(mode: str):
    values = np.linspace(0, 255, 12).reshape(3, 4)
    if mode.startswith("I"):
        picture = Image.fromarray((values * 257).astype(np.uint16 if ";" in mode else np.int32))
        kind = "PNG" if ";" in mode else "TIFF"
    else:
        picture, kind = Image.fromarray(values.astype(np.uint8)).convert(mode), "TIFF" if mode == "CMYK" else "PNG"
    image = decode(encoded(picture, kind), "x")
    assert image.mode == "RGB" and image.size == (4, 3)
    if mode not in ("1", "P"):
        assert np.abs(np.asarray(image)[..., 0] - values).max() <= 2


def test_transparent_palette_gives_no_warning():
    picture = Image.new("P", (4, 4))
    raw = encoded(picture, transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(raw, "x").mode == "RGB"


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
def test_orientation_is_applied(orientation: int):
    upright = noise(16, 8)
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    method = undo.get(orientation, UPRIGHT.get(orientation))
    stored = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encoded(stored, exif=exif), "x").tobytes() == upright.tobytes()


def test_broken_exif_keeps_the_photo():
    raw = encoded(noise(8, 8), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(raw, "x").size == (8, 8)


def test_a_large_jpeg_is_decoded_smaller_but_never_below_twice_the_wish():
    raw = encoded(Image.linear_gradient("L").resize((800, 600)).convert("RGB"), "JPEG")
    assert decode(raw, "x").size == (800, 600)
    assert decode(raw, "x", at_least=64).size == (200, 150)
    assert decode(raw, "x", at_least=300).size == (800, 600)
    assert decode(encoded(noise(80, 60)), "x", at_least=5).size == (80, 60)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_and_broken_images(kind: str, tmp_path: Path):
    raw = encoded(noise(64, 64), kind)
    for broken, message in (
        (raw[: len(raw) // 2], "not a readable image"),
        (b"", "empty"),
        (b"hello", "no known image"),
    ):
        with pytest.raises(DataError, match=rf"image photo.jpg is not a readable image.*|{message}") as caught:
            one_file(tmp_path / "photo.jpg", broken).read(0)
        assert message in str(caught.value)


def test_postscript_is_not_run():
    with pytest.raises(DataError, match="no known image format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "x")


@pytest.mark.parametrize("limit", [1000, 3000])
def test_giants_are_refused_before_decoding(limit: int, tmp_path: Path):
    raw = encoded(noise(64, 64))
    with pytest.raises(DataError, match=f"x has more than {limit:,} pixels: it is 64 x 64. Make it smaller"):
        decode(raw, "x", limits=PhotoLimits(pixels=limit))
    assert decode(raw, "x", limits=PhotoLimits(pixels=64 * 64)).size == (64, 64)
    store = FileImages(("a.png",), (Place(tmp_path / "a.png"),), limits=PhotoLimits(bytes=len(raw) - 1))
    (tmp_path / "a.png").write_bytes(raw)
    with pytest.raises(DataError, match=r"image a\.png has .* kB; expected .* or less"):
        store.read(0)


@pytest.mark.parametrize("limit", [1000, 3000])
def test_pillows_own_limit_holds_too(monkeypatch: pytest.MonkeyPatch, limit: int):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="x has more pixels than Pillow opens"):
            decode(encoded(noise(64, 64)), "x")


def test_signature_follows_the_content(tmp_path: Path):
    one, two = encoded(noise(200, 200)), encoded(noise(200, 200).transpose(Image.Transpose.ROTATE_180))
    signatures = {one_file(tmp_path / "a.png", raw).signature(0) for raw in (one, one, two)}
    assert len(signatures) == 2 and all(len(signature) == 8 + 4096 for signature in signatures)


def test_missing_images_are_named(tmp_path: Path):
    store = FileImages(("gone.jpg", "never.jpg"), (Place(tmp_path / "gone.jpg"), None))
    for index, message in ((0, r"gone\.jpg cannot be read \(No such file"), (1, r"never\.jpg is missing")):
        with pytest.raises(DataError, match=message):
            store.read(index)
        with pytest.raises(DataError, match=message):
            store.signature(index)


def checksum(store: ImageStore) -> list[int]:
    return [int(np.asarray(store.read(index)).sum()) for index in range(len(store))]


def test_tar_in_threads_and_processes(karpathy: KarpathyFolder):
    karpathy.add_tar()
    store = load_pairs(karpathy.folder, "train").images
    expected = checksum(store)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(checksum, [store] * 20)) == [expected] * 20
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        assert pool.submit(checksum, store).result() == expected
    assert checksum(pickle.loads(pickle.dumps(store))) == expected


def test_a_changed_tar_is_listed_again(karpathy: KarpathyFolder):
    tar = karpathy.add_tar(numbers=range(2))
    assert load_pairs(karpathy.folder, "train").count_images == 2
    karpathy.add_tar()
    os.utime(tar, ns=(1, 1))
    assert load_pairs(karpathy.folder, "train").count_images == 3


def test_a_tar_that_shrinks_after_listing(karpathy: KarpathyFolder):
    tar = karpathy.add_tar()
    store = load_pairs(karpathy.folder, "train").images
    os.truncate(tar, 1000)
    with pytest.raises(DataError, match=r"2\.jpg in .*images\.tar: the tar has become shorter"):
        store.read(2)


def test_damaged_and_compressed_tars(karpathy: KarpathyFolder):
    tar = karpathy.add_tar()
    raw = tar.read_bytes()
    end = raw.rindex(b"ustar") + 600  # within the last member
    for content in (raw[:end], gzip.compress(raw), b"not a tar" * 100, b""):
        tar.write_bytes(content)
        with pytest.raises(DataError, match=r"images\.tar cannot be read .*uncompressed, complete tar"):
            load_pairs(karpathy.folder, "train")


def test_a_name_in_several_places_is_refused(karpathy: KarpathyFolder):
    karpathy.add_tar("a.tar")
    karpathy.add_tar("b.tar", prefix="deep/", numbers=range(1))
    assert load_pairs(karpathy.folder, "train").count_images == 3  # the exact path wins over the base name
    karpathy.add_tar("b.tar", numbers=range(1))
    with pytest.raises(DataError, match=r"0\.jpg fits several tar members: 0\.jpg in .*a\.tar, 0\.jpg in .*b\.tar"):
        load_pairs(karpathy.folder, "train")
