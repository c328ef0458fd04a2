"""Features on disk: each row encoded once, whatever stops in between, and never met by another key."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from vldistill.config import ImageTowerConfig
from vldistill.data.cache import DecodedImages
from vldistill.data.transforms import augment, to_float
from vldistill.encoders import features
from vldistill.encoders.build import build_image_tower
from vldistill.encoders.features import FeatureTable, Standardisation, image_encoding, text_encoding
from vldistill.encoders.text_towers import HashingTextTower
from vldistill.encoders.tower import ImageTower
from vldistill.errors import DataError, VldistillError
from vldistill.runtime.randomness import seed_of
from vldistill.storage import files
from vldistill.workbench.bench import Workbench

if TYPE_CHECKING:
    from tests.unit.conftest import Bench, Listener

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def bench(workbench: Bench) -> Workbench:
    return workbench()


@pytest.fixture
def images(bench: Workbench) -> DecodedImages:
    return bench.pixels("train")


class CountingTexts(HashingTextTower):
    """Hashed words that count what they encode, and fail when told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__(32)
        self.fail_at = fail_at
        self.encoded = 0

    def encode(self, captions: Sequence[str], progress: Any = None) -> torch.Tensor:
        if self.fail_at is not None and self.encoded >= self.fail_at:
            raise RuntimeError("out of memory")
        self.encoded += len(captions)
        return super().encode(captions, progress)


def encode(bench: Workbench, images: DecodedImages, folder: Path, tower: ImageTower | None = None, **options: Any):
    return image_encoding(tower or bench.image_tower, images, folder, device=CPU, **options).table(bench.reporter)


def folders(cache: Path) -> list[Path]:
    return sorted(cache.glob("features-*"))


@torch.no_grad()
def test_rows_are_the_towers_features(bench: Workbench, images: DecodedImages, tmp_path: Path):
    table = encode(bench, images, tmp_path, batch=16)
    tower = bench.image_tower
    expected = tower(to_float(torch.from_numpy(np.array(images.array)), tower.mean, tower.std))
    assert len(table) == 40 and table.width == tower.width
    torch.testing.assert_close(table.all(), expected)
    index = torch.tensor([3, 0, 39, 3])
    assert torch.equal(table.rows(index), table.all()[index]) and table.rows(index).dtype == torch.float32
    texts = text_encoding(bench.text_tower, images.pairs, tmp_path).table(bench.reporter)
    assert torch.equal(texts.all(), bench.text_tower.encode(images.pairs.captions))


def test_shards_read_as_one_table(
    bench: Workbench, images: DecodedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = encode(bench, images, tmp_path / "whole", batch=2).all()
    monkeypatch.setattr(features, "SHARD_ROWS", 14)
    table = encode(bench, images, tmp_path / "parts", batch=2)
    assert [len(shard) for shard in table.shards] == [14, 14, 12]
    assert all(isinstance(shard, np.memmap) for shard in table.shards)
    assert torch.equal(table.all(), whole)
    index = torch.randint(40, (200,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(table.rows(index), whole[index])
    assert torch.equal(table.rows(torch.tensor([13, 14, 27, 28, 39])), whole[[13, 14, 27, 28, 39]])
    assert table.rows(torch.tensor([], dtype=torch.int64)).shape == (0, table.width)


def test_an_interrupted_encoding_goes_on(images: DecodedImages, tmp_path: Path, listener: Listener, monkeypatch: Any):
    monkeypatch.setattr(features, "SHARD_ROWS", 50)
    count = images.pairs.count_captions
    with pytest.raises(RuntimeError, match="out of memory"):
        text_encoding(CountingTexts(fail_at=50), images.pairs, tmp_path).table(listener)
    (folder,) = folders(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["shard-00000.npy"]
    first = (folder / "shard-00000.npy").stat()
    going_on = CountingTexts()
    table = text_encoding(going_on, images.pairs, tmp_path).table(listener)
    assert going_on.encoded == count - 50
    assert (folder / "shard-00000.npy").stat().st_mtime_ns == first.st_mtime_ns
    assert torch.equal(table.all(), HashingTextTower(32).encode(images.pairs.captions))
    assert f"{count - 50} rows of 32" in listener.said[-1]
    again = CountingTexts()
    said = len(listener.said)
    text_encoding(again, images.pairs, tmp_path).table(listener)
    assert again.encoded == 0 and len(listener.said) == said


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "header", "shape", "dtype", "object"])
def test_a_damaged_shard_is_redone_alone(
    damage: str, images: DecodedImages, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features, "SHARD_ROWS", 50)
    whole = text_encoding(CountingTexts(), images.pairs, tmp_path).table(listener).all()
    path = folders(tmp_path)[0] / "shard-00001.npy"
    raw = path.read_bytes()
    if damage in ("shape", "dtype", "object"):
        kind = {"shape": np.zeros((49, 32), np.float32), "dtype": np.zeros((50, 32)), "object": np.array([{}])}[damage]
        np.save(path, kind)
    else:
        path.write_bytes({"cut": raw[:-1], "longer": raw + b"0", "empty": b"", "header": b"x" * len(raw)}[damage])
    tower = CountingTexts()
    assert torch.equal(text_encoding(tower, images.pairs, tmp_path).table(listener).all(), whole)
    assert tower.encoded == 50


def test_every_change_has_a_key_of_its_own(bench: Workbench, images: DecodedImages, tmp_path: Path):
    config = bench.encoder_config.image
    other_seed = build_image_tower(ImageTowerConfig(**{**vars(config), "seed": 1}))
    other_std = build_image_tower(ImageTowerConfig(**{**vars(config), "std": (0.3, 0.3, 0.3)}))
    encode(bench, images, tmp_path)
    encode(bench, images, tmp_path, other_seed)
    encode(bench, images, tmp_path, other_std)
    encode(bench, images, tmp_path, view=1)
    encode(bench, images, tmp_path, view=2)
    encode(bench, images, tmp_path, view=1, batch=8)
    encode(bench, images, tmp_path, dtype="float16")
    encode(bench, bench.pixels("val"), tmp_path)
    text_encoding(bench.text_tower, images.pairs, tmp_path).table(bench.reporter)
    text_encoding(HashingTextTower(16), images.pairs, tmp_path).table(bench.reporter)
    text_encoding(bench.text_tower, bench.pixels("val").pairs, tmp_path).table(bench.reporter)
    assert len(folders(tmp_path)) == 11
    encode(bench, images, tmp_path, batch=8)  # the plain view does not depend on the batch
    encode(bench, images, tmp_path, view=1)
    assert len(folders(tmp_path)) == 11


@pytest.mark.usefixtures("untouched_generator")
@torch.no_grad()
def test_views_are_drawn_from_their_number(bench: Workbench, images: DecodedImages, tmp_path: Path):
    first, other, plain = (encode(bench, images, tmp_path / "a", view=view, batch=16).all() for view in (1, 2, 0))
    assert torch.equal(encode(bench, images, tmp_path / "b", view=1, batch=16).all(), first)
    assert not torch.allclose(first, other, atol=1e-2) and not torch.allclose(first, plain, atol=1e-2)
    tower = bench.image_tower
    pixels = augment(torch.from_numpy(np.array(images.array[16:32])), seed_of("view", 1, 16))
    torch.testing.assert_close(first[16:32], tower(to_float(pixels, tower.mean, tower.std)))


def test_half_precision_on_disk(bench: Workbench, images: DecodedImages, tmp_path: Path):
    full, half = (encode(bench, images, tmp_path, dtype=dtype) for dtype in ("float32", "float16"))
    assert half.shards[0].dtype == np.float16 and half.all().dtype == torch.float32
    assert half.rows(torch.tensor([1])).dtype == torch.float32
    assert torch.equal(half.all(), full.all().half().float())


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (float("inf"), "float32"), (1e6, "float16")])
def test_features_that_are_not_finite_are_refused(
    value: float, dtype: str, images: DecodedImages, tmp_path: Path, listener
):
    class Broken(HashingTextTower):
        def encode(self, captions: Sequence[str], progress: Any = None) -> torch.Tensor:
            vectors = super().encode(captions, progress)
            vectors[3, 2] = value
            return vectors

    with pytest.raises(DataError, match=r"train captions through hashing: .*not finite.*Check its weights") as raised:
        text_encoding(Broken(32), images.pairs, tmp_path, dtype=dtype).table(listener)
    assert ("store float32" in str(raised.value)) == (dtype == "float16")
    assert not list(tmp_path.rglob("shard-*"))


def test_a_full_disk_is_refused_before_the_work(
    images: DecodedImages, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: Usage(10, 10, 0))
    tower = CountingTexts()
    with pytest.raises(VldistillError, match=r"captions through hashing needs .* free"):
        text_encoding(tower, images.pairs, tmp_path).table(listener)
    assert tower.encoded == 0


def test_standardisation_is_scikit_learns():
    rows = np.random.default_rng(0).normal(3, 2, (10_000, 5)).astype(np.float32) * [1, 10, 0.1, 1, 1] + [
        0,
        0,
        0,
        0,
        1e4,
    ]
    rows = rows.astype(np.float32)
    table = FeatureTable([rows[:4000], rows[4000:8000], rows[8000:]])
    fitted = Standardisation.fit(table)
    reference: Any = StandardScaler().fit(rows.astype(np.float64))
    np.testing.assert_allclose(fitted.mean.numpy(), reference.mean_, rtol=1e-6)
    np.testing.assert_allclose(fitted.scale.numpy(), reference.scale_, rtol=1e-5)
    there = torch.from_numpy(rows)
    standard = fitted(there)
    np.testing.assert_allclose(standard.numpy(), reference.transform(rows), atol=2e-3)
    assert torch.equal(fitted.apply_(there.clone()), standard) and torch.equal(there, torch.from_numpy(rows))
    assert fitted(there.double()).dtype == torch.float64


def test_dead_dimensions_stay_quiet():
    rows = np.random.default_rng(0).normal(0, 1, (100, 3)).astype(np.float32)
    rows[:, 1] = 7
    fitted = Standardisation.fit(FeatureTable([rows]))
    assert float(fitted.scale[1]) == pytest.approx(1e-2 * rows.std(0).mean(), rel=1e-5)
    assert float(fitted(torch.from_numpy(rows))[:, 1].abs().max()) < 1e-3
    constant = Standardisation.fit(FeatureTable([np.full((4, 2), 3, np.float32)]))
    assert torch.equal(constant(torch.full((1, 2), 3.0)), torch.zeros(1, 2))
