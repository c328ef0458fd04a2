"""Photos of every broken and unusual kind: each is read, or left out by name, or refused with data.strict."""

from __future__ import annotations

import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vldistill.data.cache import open_images
from vldistill.data.load import load_pairs
from vldistill.data.photos import PhotoLimits, decode
from vldistill.errors import DataError
from vldistill.runtime.memory import peak_memory

RED, BLUE = (255, 0, 0), (0, 0, 255)
WHITE = (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of any stated size around compressed ``data``."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def webp(width: int, height: int) -> bytes:
    """The header of an extended WebP of any stated size, and no picture."""
    body = b"\0" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inside = b"WEBPVP8X" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


BROKEN = {
    "0 bytes": b"",
    "text": b"not found\n" * 100,
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "nul bytes": bytes(5000),
    "truncated jpeg": encoded(Image.effect_noise((64, 64), 80), "JPEG")[:900],
    "truncated png": encoded(Image.effect_noise((64, 64), 80))[:900],
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "giant header": png(60_000, 60_000, b"x"),
    "giant webp": webp(16_000, 16_000),
    "header over the data": png(8_000, 7_900, b"x"),
    "text bomb": png(4, 4, b"x").replace(b"IDAT", b"IDAX", 1)
    + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000))),
    "zero sides": png(0, 9, b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_photo_is_left_out_by_name_or_refused(name: str, tmp_path: Path):
    before, start = peak_memory(), time.process_time()
    (tmp_path / "good.png").write_bytes(encoded(Image.new("RGB", (9, 9), RED)))
    (tmp_path / "bad.jpg").write_bytes(BROKEN[name])
    entries = [{"filename": f, "split": "train", "sentences": [{"raw": "x"}]} for f in ("good.png", "bad.jpg")]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    pairs = load_pairs(tmp_path, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        found = open_images(pairs, 8, tmp_path / "cache")
        with pytest.raises(DataError, match=r"broken images: 1, and --strict refuses them: image bad\.jpg"):
            open_images(pairs, 8, tmp_path / "cache", strict=True)
    assert found.broken == ("bad.jpg",) and found.pairs.images.names == ("good.png",)
    assert found.pairs.notes[-1] == "1 broken image left out (bad.jpg)"
    assert np.abs(found.array[0].astype(int).mean((1, 2)) - RED).max() <= 1
    assert time.process_time() - start < 5 and peak_memory() - before < 300_000_000


def first_red(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, BLUE)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (16, 8), RED)
    picture.paste(BLUE, (0, 0, 8, 8))  # left, which is up when upright
    return encoded(picture, kind, exif=exif)


READ: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "CMYK": (lambda: encoded(Image.new("RGB", (8, 8), RED).convert("CMYK"), "JPEG"), RED),
    "16-bit grey": (lambda: encoded(Image.fromarray(np.full((8, 8), 200 * 257, np.uint16))), (200, 200, 200)),
    "1-bit": (lambda: encoded(Image.new("1", (8, 8), 1)), (255, 255, 255)),
    "grey and no alpha": (lambda: encoded(Image.new("LA", (8, 8), (90, 0))), WHITE),
    "half transparent": (lambda: encoded(Image.new("RGBA", (8, 8), (*RED, 128))), (255, 127, 127)),
    "opaque": (lambda: encoded(Image.new("RGBA", (8, 8), (*RED, 255))), RED),
    "palette with transparency": (
        lambda: encoded(Image.new("RGB", (8, 8), RED).convert("P", palette=Image.Palette.ADAPTIVE), transparency=0),
        WHITE,
    ),
    "animated GIF": (lambda: first_red("GIF"), RED),
    "animated PNG": (lambda: first_red("PNG"), RED),
    "animated WebP": (lambda: first_red("WEBP"), RED),
    "wrong suffix": (lambda: encoded(Image.new("RGB", (8, 8), RED), "BMP"), RED),
}


@pytest.mark.parametrize("name", READ)
def test_unusual_photos_are_read(name: str):
    make, expected = READ[name]
    image = decode(make(), "photo")
    assert image.mode == "RGB" and image.size == (8, 8)
    assert np.abs(np.asarray(image).reshape(-1, 3).mean(0) - expected).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_rotated_photo_is_turned_upright(kind: str):
    upright = decode(turned(kind), "photo")
    assert upright.size == (8, 16)
    assert np.abs(np.asarray(upright)[2, 4].astype(int) - BLUE).max() < 30
    assert np.abs(np.asarray(upright)[13, 4].astype(int) - RED).max() < 30


def test_limits_are_of_the_user_and_a_higher_one_decodes_again(tmp_path: Path):
    (tmp_path / "good.png").write_bytes(encoded(Image.new("RGB", (9, 9))))
    (tmp_path / "big.png").write_bytes(encoded(Image.new("RGB", (50, 50))))
    entries = [{"filename": f, "split": "train", "sentences": [{"raw": "x"}]} for f in ("good.png", "big.png")]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    kept = []
    for limit in (2499, 2500, 2499):
        pairs = load_pairs(tmp_path, "train", limits=PhotoLimits(pixels=limit))
        kept.append(open_images(pairs, 8, tmp_path / "cache").array.shape[0])
    assert kept == [1, 2, 2]  # what is decoded already stays


def test_no_pipe_or_folder_is_waited_for(tmp_path: Path):
    (tmp_path / "good.png").write_bytes(encoded(Image.new("RGB", (9, 9))))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    names = ("good.png", "pipe.jpg", "folder.jpg", "loop.jpg", "x" * 300 + ".jpg")
    entries = [{"filename": f, "split": "train", "sentences": [{"raw": "x"}]} for f in names]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    pairs = load_pairs(tmp_path, "train")
    assert pairs.images.names == ("good.png",)
    assert pairs.notes[0].startswith("4 missing images left out (pipe.jpg, folder.jpg, loop.jpg, ...")
