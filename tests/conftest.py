"""Fixtures for every test: real data beside the repository where there is any, small sources made on the spot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vldistill.data.load import load_pairs
from vldistill.data.pairs import Pairs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights: $VLDISTILL_SHARED, else ../shared. Skips the test when missing."""
    folder = Path(os.environ.get("VLDISTILL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found in {folder}; set VLDISTILL_SHARED to the folder with data/ and weights/")
    return folder


@pytest.fixture(scope="session")
def scene_pairs() -> Callable[[str], Pairs]:
    """Forty drawn training scenes, and twenty each for val and test: ``scene_pairs("train")``."""

    def load(split: str) -> Pairs:
        return load_pairs("scenes:train=40,val=20,test=20", split)

    return load


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """``small_disk(bytes)``: a real file system of that size. Skips the test where this user may not mount one."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        given = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        done = subprocess.run(given, capture_output=True, text=True) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"no small disk: {done.stderr.strip() if done else 'no mount here'} (root may mount one)")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def photo(seed: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    """An encoded picture with smooth random content; ``size`` is width, height."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def entry(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    """One image of a Karpathy-style json, with two captions; ``changes`` replace or (None) remove fields."""
    sentences = [{"raw": f"caption {number} {letter}", "sentid": 2 * number + i} for i, letter in enumerate("ab")]
    value = {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences, **changes}
    return {key: item for key, item in value.items() if item is not None}


def add_member(archive: tarfile.TarFile, name: str, raw: bytes) -> None:
    """Put a regular file into an open tar."""
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    archive.addfile(member, BytesIO(raw))


class KarpathyFolder:
    """A folder with ``dataset_tiny.json``: three images of train, two of val, one of test, until saved otherwise."""

    photo = staticmethod(photo)
    entry = staticmethod(entry)
    add_member = staticmethod(add_member)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json = folder / "dataset_tiny.json"
        self.entries = [entry(i, split) for i, split in enumerate(["train", "train", "train", "val", "val", "test"])]
        self.save()

    def save(self, entries: list[Any] | None = None) -> None:
        """Write the json, from ``entries`` where given."""
        self.entries = self.entries if entries is None else entries
        self.json.write_text(json.dumps({"dataset": "tiny", "images": self.entries}))

    def add_photos(self, sub: str = "") -> None:
        """Write a photo for every entry into the folder, or into ``sub`` of it."""
        for number, item in enumerate(self.entries):
            path = self.folder / sub / item.get("filepath", "") / item["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo(number))

    def add_tar(self, name: str = "images.tar", prefix: str = "", numbers: range | None = None) -> Path:
        """Write a tar with a photo for every entry, or for those of ``numbers``."""
        with tarfile.open(self.folder / name, "w") as archive:
            for number in range(len(self.entries)) if numbers is None else numbers:
                add_member(archive, prefix + self.entries[number]["filename"], photo(number))
        return self.folder / name


@pytest.fixture
def karpathy(tmp_path: Path) -> KarpathyFolder:
    """A small Karpathy-style source without photos: call add_photos or add_tar."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    return KarpathyFolder(folder)
