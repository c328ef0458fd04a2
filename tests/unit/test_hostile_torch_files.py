"""Files of torch.save made to hurt: nothing is imported, unpacked, or allocated beyond the file."""

from __future__ import annotations

import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from vldistill.errors import ArtefactError
from vldistill.importers.torchfile import SHARED, read_torch_file
from vldistill.runtime.memory import peak_memory


def saved(content: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def endless(levels: int) -> list[Any]:
    value: list[Any] = [0]
    for _ in range(levels):
        value = [value] * 10
    return value


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)


BOMBS = {
    "expanded": lambda: {"image": torch.zeros(1).expand(10**9, 10**6)},
    "expanded a little": lambda: {"image": torch.zeros(10).expand(2, 10)},
    "shared": lambda: [torch.zeros(1000)] * (SHARED + 40),
    "sparse": lambda: torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (10**9, 10**9)),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "meta": lambda: torch.zeros(3, device="meta"),
    "endless": lambda: endless(9),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str, zipped: bool, tmp_path: Path):
    path = saved(BOMBS[name](), tmp_path / "x.pt", zipped)
    before, start = peak_memory(), time.process_time()
    with pytest.raises(ArtefactError, match=r"x\.pt"):
        read_torch_file(path, "published set")
    assert peak_memory() - before < 300_000_000 and time.process_time() - start < 5


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_tensors_are_refused(tmp_path: Path):
    with pytest.raises(ArtefactError, match="refused"):
        read_torch_file(saved(quantized(), tmp_path / "x.pt"), "published set")


def test_views_and_plain_values_are_read(tmp_path: Path):
    base = torch.arange(12.0).view(3, 4)
    found = read_torch_file(saved({"a": base[:, 1:3], "b": base.T, "c": [1, "x", None]}, tmp_path / "x.pt"), "set")
    assert torch.equal(found["a"], base[:, 1:3]) and torch.equal(found["b"], base.T) and found["c"] == [1, "x", None]


def test_a_packed_zip_is_refused(tmp_path: Path):
    path = saved({"image": torch.zeros(5_000_000)}, tmp_path / "x.pt")
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert packed.stat().st_size < 100_000
    with pytest.raises(ArtefactError, match=r"refused: its members unpack to 20\.0 MB"):
        read_torch_file(packed, "published set")


def test_the_tar_format_of_the_first_releases_is_not_unpacked(tmp_path: Path):
    path = tmp_path / "x.pt"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.FIFOTYPE  # torch would open it, and wait
            archive.addfile(info)
    with pytest.raises(ArtefactError, match="begins like neither of torch's formats"):
        read_torch_file(path, "published set")


@pytest.mark.parametrize("change", ["cut", "flipped", "longer"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_damage_never_escapes(change: str, zipped: bool, tmp_path: Path):
    path = saved({"image": torch.ones(50)}, tmp_path / "x.pt", zipped)
    raw = path.read_bytes()
    for place in range(0, len(raw), max(1, len(raw) // 60)):
        broken = {
            "cut": raw[:place],
            "flipped": raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :],
            "longer": raw[:place] + b"\0" * 7 + raw[place:],
        }[change]
        path.write_bytes(broken)
        try:
            read_torch_file(path, "published set")
        except ArtefactError:
            continue


def test_an_empty_file_is_named(tmp_path: Path):
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ArtefactError, match="it is empty"):
        read_torch_file(tmp_path / "x.pt", "published set")
