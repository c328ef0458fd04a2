"""The last two checkpoints: what damage costs, and what a crash between two renames leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import Recorder

from vldistill.errors import DamagedError, StorageError
from vldistill.storage.checkpoints import Checkpoints
from vldistill.storage.files import write_tensors


def kept(folder: Path, count: int) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoint.safetensors", Recorder())
    for number in range(count):
        checkpoints.write({"at": torch.tensor(number)}, {"number": str(number)})
    return checkpoints


def number(checkpoints: Checkpoints) -> int:
    found = checkpoints.read()
    assert found is not None and int(found[0]["at"]) == int(found[1]["number"])
    return int(found[1]["number"])


def damage(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


def test_the_last_is_read_and_two_are_kept(tmp_path: Path) -> None:
    assert kept(tmp_path, 0).read() is None
    checkpoints = kept(tmp_path, 4)
    assert number(checkpoints) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-before.safetensors",
        "checkpoint.safetensors",
    ]
    checkpoints.remove()
    assert checkpoints.read() is None and list(tmp_path.iterdir()) == []


def test_a_damaged_one_costs_the_work_since_the_one_before(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, 3)
    damage(checkpoints.path)
    assert number(checkpoints) == 1
    said = checkpoints.reporter.warnings  # type: ignore[attr-defined]
    assert "the checksum of at differs" in said[0] and "resuming from the checkpoint before" in said[1]
    checkpoints.write({"at": torch.tensor(9)}, {"number": "9"})  # the good one must still be there after that
    damage(checkpoints.path)
    assert number(checkpoints) == 1
    damage(checkpoints.before)
    with pytest.raises(DamagedError, match="is damaged"):
        checkpoints.read()


@pytest.mark.parametrize("moment", ["written", "moved", "renamed"])
def test_a_crash_between_two_renames_loses_nothing(moment: str, tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, 2)
    write_tensors(checkpoints.fresh, {"at": torch.tensor(2)}, {"number": "2"})
    if moment != "written":
        checkpoints.path.replace(checkpoints.before)
    if moment == "renamed":
        checkpoints.fresh.replace(checkpoints.path)
    assert number(checkpoints) == (1 if moment == "written" else 2)
    checkpoints.write({"at": torch.tensor(3)}, {"number": "3"})
    assert number(checkpoints) == 3


def test_a_full_disk_keeps_what_there_was(small_disk: Callable[[int], Path]) -> None:
    checkpoints = kept(small_disk(100_000), 2)
    with pytest.raises(StorageError, match="the disk is full"):
        checkpoints.write({"at": torch.ones(100_000)}, {"number": "2"})
    assert number(checkpoints) == 1
