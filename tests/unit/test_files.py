"""Files that are whole or not there, hashes, and names for randomness."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from vldistill import files
from vldistill.errors import ArtefactError, VldistillError
from vldistill.files import (
    atomic,
    digest,
    human_bytes,
    read_json,
    read_tensors,
    require_space,
    write_json,
    write_tensors,
    write_text,
)
from vldistill.randomness import generator, seed_of, seeded

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
