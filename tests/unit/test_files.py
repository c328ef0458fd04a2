"""Files that are whole or not there, hashes, and names for randomness."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vldistill.errors import ArtefactError, DamagedError, StorageError, VldistillError
from vldistill.runtime.randomness import generator, seed_of, seeded
from vldistill.storage import files
from vldistill.storage.arrays import let_go, open_array, write_array
from vldistill.storage.files import (
    append_line,
    atomic,
    digest,
    human_bytes,
    read_json,
    read_tensors,
    require_space,
    write_json,
    write_record,
    write_tensors,
    write_text,
)
from vldistill.storage.locks import held

Usage = namedtuple("Usage", "total used free")


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise error
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_two_threads_may_write_the_same_file(tmp_path: Path):
    path, together = tmp_path / "file", threading.Barrier(2, timeout=30)

    def write(text: str) -> None:
        with atomic(path) as temporary:
            temporary.write_text(text)
            together.wait()  # both are under way, as when two parts of one group of experts begin

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, ("one", "two")))
    assert path.read_text() in ("one", "two") and list(tmp_path.iterdir()) == [path]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "file"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable_and_refuses_what_json_has_not(tmp_path: Path):
    path = tmp_path / "value.json"
    write_json(path, {"naïve": [1, 2.5, None]})
    assert "naïve" in path.read_text(encoding="utf-8") and path.read_text().endswith("}\n")
    assert read_json(path, "value") == {"naïve": [1, 2.5, None]}
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(path, bad)
    assert read_json(path, "value") == {"naïve": [1, 2.5, None]}


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"])
def test_damaged_json_is_a_clear_error(raw: bytes, tmp_path: Path):
    path = tmp_path / "note.json"
    path.write_bytes(raw)
    with pytest.raises(ArtefactError, match=r"the note: .*note\.json is not readable JSON .*make it again"):
        read_json(path, "the note")
    with pytest.raises(ArtefactError, match=r"the note: .*none\.json does not exist"):
        read_json(tmp_path / "none.json", "the note")


def test_tensors_keep_their_bytes_and_do_not_alias(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "turned": base.T,
        "part": base[1:],
        "scalar": torch.tensor(3),
        "half": base.bfloat16(),
        "leaf": base.clone().requires_grad_(),
    }
    write_tensors(path, tensors, {"why": "test"})
    found, metadata = read_tensors(path, "tensors")
    assert metadata == {"why": "test"} and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "other"])
def test_damaged_tensors_are_a_clear_error(damage: str, tmp_path: Path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.ones(100)})
    raw = path.read_bytes()
    path.write_bytes(
        {"cut": raw[:-4], "empty": b"", "header": b"\xff" * 16 + raw[16:], "other": b"PK\x03\x04" * 99}[damage]
    )
    with pytest.raises(ArtefactError, match=r"weights: .*t\.safetensors is damaged .*make it again"):
        read_tensors(path, "weights")
    with pytest.raises(ArtefactError, match=r"weights: .*none does not exist"):
        read_tensors(tmp_path / "none", "weights")


def test_digests_tell_parts_apart():
    assert digest("a", "b") == digest("a", "b")
    several = [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), (b"ab",), (["a", "b"],), (1,), (1.5,), (None,), ()]
    assert len({digest(*parts) for parts in several}) == len(several)
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest((0.5, 0.25)) == digest([0.5, 0.25])
    assert len(digest()) == 16 and int(digest("x"), 16) >= 0


def test_sizes_for_people():
    sizes = {
        0: "0 B",
        999: "999 B",
        1000: "1.0 kB",
        1.5e6: "1.5 MB",
        2.34e9: "2.3 GB",
        5e12: "5.0 TB",
        7e15: "7000.0 TB",
    }
    assert {count: human_bytes(count) for count in sizes} == sizes


def test_a_full_disk_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(10_000, 9_000, 1_000)

    monkeypatch.setattr(files.shutil, "disk_usage", usage)
    folder = tmp_path / "not" / "yet"
    require_space(folder, 1000, "the work")
    with pytest.raises(VldistillError, match=r"the work needs 1\.0 MB in .*yet, but the disk has 1\.0 kB free"):
        require_space(folder, 1_000_000, "the work")
    assert asked == [tmp_path, tmp_path] and not folder.exists()


# --- randomness ----------------------------------------------------------------------------------------------------


def test_seeds_come_from_names_and_stay_what_they_are():
    # Recorded: a change here would change every draw of every run that is resumed.
    assert seed_of(0, "student") == 3570160891861230858
    several = [(), (0,), (1,), (0, "a"), (0, "b"), ("a", 0), (0, "a", 1), (1, 11), (11, 1), ("01",)]
    seeds = {seed_of(*parts) for parts in several}
    assert len(seeds) == len(several) and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.usefixtures("untouched_generator")
def test_generators_are_made_anew_and_leave_the_global_one_alone():
    first, again, other = (torch.rand(5, generator=generator(*parts)) for parts in (("a", 1), ("a", 1), ("a", 2)))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.usefixtures("untouched_generator")
def test_seeding_for_a_while():
    def draw(*parts: object) -> torch.Tensor:
        with seeded(torch.device("cpu"), *parts):
            return torch.nn.functional.dropout(torch.ones(50))

    assert torch.equal(draw("x", 1), draw("x", 1)) and not torch.equal(draw("x", 1), draw("x", 2))
    with pytest.raises(RuntimeError), seeded(torch.device("cpu"), "x"):
        torch.rand(3)
        raise RuntimeError  # the state is restored all the same


# --- checksums -----------------------------------------------------------------------------------------------------


def flipped(raw: bytes, place: int, bit: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ (1 << bit)]) + raw[place + 1 :]


def places(raw: bytes, count: int = 250) -> list[tuple[int, int]]:
    """Bits to flip: every header's beginning, and places all over the file."""
    draw = random.Random(0)
    spread = [(draw.randrange(len(raw)), draw.randrange(8)) for _ in range(count)]
    return [(place, place % 8) for place in range(0, 40)] + spread


def test_no_flipped_bit_in_tensors_passes(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.randn(5, 7), "b": torch.arange(9), "c": torch.randn(4).bfloat16(), "none": torch.zeros(0, 3)}
    write_tensors(path, tensors, {"one": "1", "two": "2"})
    raw = path.read_bytes()
    noticed = 0
    for place, bit in places(raw):
        path.write_bytes(flipped(raw, place, bit))
        try:
            found, metadata = read_tensors(path, "tensors")
        except DamagedError:
            noticed += 1
            continue
        assert metadata == {"one": "1", "two": "2"} and found.keys() == tensors.keys(), place  # blanks of the header
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()), place
    assert noticed > 250
    for length in (0, 7, 100, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(DamagedError, match="is damaged"):
            read_tensors(path, "tensors")


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path):
    metadata = {str(number): "x" for number in range(6)}  # safetensors writes several entries in random order
    for name in "abcd":
        write_tensors(tmp_path / name, {"b": torch.ones(3), "a": torch.zeros(2)}, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_tensors_of_somebody_else_are_read_as_they_are(tmp_path: Path):
    save_file({"a": torch.ones(3)}, tmp_path / "foreign", {"format": "pt"})
    assert read_tensors(tmp_path / "foreign", "weights")[1] == {"format": "pt"}


def test_no_flipped_bit_in_a_record_passes(tmp_path: Path):
    path = tmp_path / "r.json"
    record = {"numbers": [1, 2.5, -1e-17], "by": {2: "two", 10: "ten"}, "text": "naïve", "none": None}
    write_record(path, record)
    expected = json.loads(json.dumps(record))
    assert read_json(path, "record") == expected
    raw = path.read_bytes()
    key = raw.index(b"blake2b")
    for place, bit in places(raw):
        path.write_bytes(flipped(raw, place, bit))
        try:
            found = read_json(path, "record")
        except DamagedError:
            continue
        same = {name: found[name] for name in expected} == expected
        assert same and (len(found) == len(expected) or key <= place < key + 7), place
    value = json.loads(raw)
    del value["blake2b"]
    path.write_text(json.dumps(value | {"text": "changed by hand"}))
    assert read_json(path, "record")["text"] == "changed by hand"
    path.write_text(json.dumps(json.loads(raw) | {"text": "changed by hand"}))
    with pytest.raises(DamagedError, match="take out its line 'blake2b'"):
        read_json(path, "record")


def test_no_flipped_bit_in_an_array_passes(tmp_path: Path):
    path = tmp_path / "a.npy"
    array = np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)
    write_array(path, array)
    assert np.array_equal(np.load(path), array) and np.array_equal(open_array(path, "rows"), array)
    raw = path.read_bytes()
    for place, bit in places(raw):
        path.write_bytes(flipped(raw, place, bit))
        with pytest.raises(DamagedError, match=r"rows: .*a\.npy cannot be read"):
            open_array(path, "rows")
    for wrong in (raw[:-1], raw[:100], b"", raw + b"x"):
        path.write_bytes(wrong)
        with pytest.raises(DamagedError):
            open_array(path, "rows")
    np.save(path, array)  # from before there were checksums
    mapped = open_array(path, "rows")
    assert np.array_equal(mapped, array)
    let_go(mapped)
    assert np.array_equal(mapped, array)


# --- disks ---------------------------------------------------------------------------------------------------------


def test_what_killed_processes_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getppid()):
        with atomic(tmp_path / "file") as temporary:
            temporary.write_text("x")
        named = temporary.name.replace(f".{os.getpid()}-", f".{process}-")
        (tmp_path / named).write_text("half")
        (tmp_path / named.replace("file", "other")).write_text("half")
    write_text(tmp_path / "file", "new")
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".file.")]
    assert len(left) == 1 and f".{os.getppid()}-" in left[0]
    assert len(list(tmp_path.glob(".other.*"))) == 2  # not this file's


def test_a_full_disk_is_an_error_of_ours_and_the_old_file_stays(small_disk: Callable[[int], Path]):
    disk = small_disk(200_000)
    tensors = disk / "t.safetensors"
    write_tensors(tensors, {"a": torch.ones(1000)})
    writers: list[Callable[[], None]] = [
        lambda: write_tensors(tensors, {"a": torch.ones(100_000)}),
        lambda: write_text(disk / "text", "x" * 300_000),
        lambda: write_record(disk / "record", {"x": "x" * 300_000}),
        lambda: write_array(disk / "array", np.ones(100_000)),
        lambda: append_line(disk / "log", "x" * 300_000),
    ]
    for write in writers:
        with pytest.raises(StorageError, match=r"cannot be written: the disk is full\. Free some space.*same command"):
            write()
        (disk / "log").unlink(missing_ok=True)
    assert [path.name for path in disk.iterdir()] == ["t.safetensors"]
    assert read_tensors(tensors, "tensors")[0]["a"].shape == (1000,)


def test_a_read_only_disk_is_an_error_of_ours(small_disk: Callable[[int], Path]):
    disk = small_disk(200_000)
    write_text(disk / "text", "old")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StorageError, match=r"the disk is read-only\. Make its folder writable"):
        write_text(disk / "text", "new")
    with pytest.raises(StorageError, match="read-only"), held(disk / "lock", "it"):
        pass
    assert (disk / "text").read_text() == "old"


def test_half_a_line_does_not_swallow_the_next(tmp_path: Path):
    path = tmp_path / "deep" / "log"
    append_line(path, "one")
    with path.open("a") as handle:
        handle.write("ha")
    append_line(path, "two")
    assert path.read_text().splitlines() == ["one", "ha", "two"]


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_whoever_may_read_a_folders_texts_may_read_its_tensors(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "x")
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)})
    assert (tmp_path / "x.txt").stat().st_mode == (tmp_path / "x.safetensors").stat().st_mode
