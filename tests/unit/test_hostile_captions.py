"""Json, names and captions that others wrote badly, or on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vldistill.commands.inspect import main as inspect
from vldistill.data import jsonfile
from vldistill.data.collection import LONGEST_CAPTION
from vldistill.data.jsonfile import load_json
from vldistill.data.load import load_pairs
from vldistill.errors import DataError
from vldistill.evaluation.tables import markdown


def source(folder: Path, names: list[str], captions: list[list[str]] | None = None) -> Path:
    """A folder with a photo per name and a Karpathy json."""
    folder.mkdir(exist_ok=True)
    texts = captions or [["a dog"]] * len(names)
    entries: list[dict[str, Any]] = []
    for number, (name, own) in enumerate(zip(names, texts)):
        Image.new("RGB", (6, 6), (number, 0, 0)).save(folder / name, "PNG")
        entries.append({"filename": name, "split": "train", "sentences": [{"raw": text} for text in own]})
    (folder / "dataset.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is not JSON"),
        (b'{"images": [', r"is not JSON .*line 1"),
        (b'{"images": "\xff"}', r"is not UTF-8 text \(byte 12\)"),
        (b"\xff\xfe{\x00", "is not JSON"),
        (b'{"images": [\xe9]}', "is not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b"[" + b"9" * 10_000 + b"]", "is not JSON"),
        (b'{"images": "\x00"}', "is not JSON"),
        (b'{"images": [NaN', "is not JSON"),
        (b'{"images": []} {}', "is not JSON"),
        (b"PK\x03\x04", "is not JSON"),
    ],
)
def test_what_is_no_json_is_an_error_of_ours(raw: bytes, message: str, tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_bytes(raw)
    wanted = f"x.json .*{message}"
    with pytest.raises(DataError, match=wanted):
        load_json(path)
    for source in (path, tmp_path):
        with pytest.raises(DataError, match=wanted):
            load_pairs(source, "train")


def test_a_byte_order_mark_is_fine_and_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert load_json(path) == {"a": 1}
    monkeypatch.setattr(jsonfile, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="has 11 B; expected 10 B or less"):
        load_json(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "", "\0.png", "a\nb.png", "\ud800.png"])
def test_names_that_lead_out_or_cannot_be(name: str, tmp_path: Path):
    source(tmp_path, ["a.png"])
    entries = [{"filename": name, "split": "train", "sentences": [{"raw": "x"}]}]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    with pytest.raises(DataError, match=r"dataset\.json: image 0"):
        load_pairs(tmp_path, "train")
    (tmp_path / "dataset.json").write_text("[" + json.dumps({"image": name, "caption": "x"}) + "]")
    with pytest.raises(DataError):
        load_pairs(tmp_path, "train")


def test_unusual_names_are_names(tmp_path: Path):
    names = ["A.png", "a.png", "é.png", "e\u0301.png", "犬 🐕.png", "<b>&.png", "'quote\".png", "-rf.png", "$HOME.png"]
    pairs = load_pairs(source(tmp_path, names), "train")
    assert list(pairs.images.names) == names
    assert [pairs.images.read(index).getpixel((0, 0)) for index in range(len(names))] == [
        (number, 0, 0) for number in range(len(names))
    ]


def test_links_of_the_users_own_folder_are_followed(tmp_path: Path):
    source(tmp_path / "real", ["a.png"])
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "images").symlink_to(tmp_path / "real")
    (linked / "dataset.json").write_bytes((tmp_path / "real" / "dataset.json").read_bytes())
    assert load_pairs(linked, "train").images.read(0).size == (6, 6)


def test_empty_and_endless_captions_are_left_out_and_counted(tmp_path: Path):
    captions = [["a dog", "", " \t\u2003"], ["x" * 1_000_000, "a cat", "y" * LONGEST_CAPTION]]
    folder = source(tmp_path, ["a.png", "b.png"], captions)
    pairs = load_pairs(folder, "train")
    assert pairs.captions == ["a dog", "a cat", "y" * LONGEST_CAPTION]
    assert "1 caption over 10,000 characters left out (b.png)" in pairs.notes
    assert "2 empty captions left out (a.png)" in pairs.notes
    with pytest.raises(DataError, match="over 10,000 characters left out"):
        load_pairs(folder, "train", strict=True)


def test_captions_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = source(tmp_path / "x", ["a.png"], [["\x1b[2J\x07 red \u202e and\r\nmore" + "z" * 900]])
    inspect([str(folder), "--sheet", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert "red" in said and all(letter.isprintable() or letter == "\n" for letter in said)
    assert len(max(said.splitlines(), key=len)) < 600


def test_a_name_cannot_break_a_markdown_table():
    table = markdown(["set", "x"], [["a|b\n| c", "1"], ["<script>", "2"]])
    lines = table.splitlines()
    assert len(lines) == 4 and lines[2].startswith("| a\\|b \\| c ")
