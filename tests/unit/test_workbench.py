"""The workbench: everything built once, standardised by the training split, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from vldistill.config import ExpertsConfig, ImageTowerConfig, TextTowerConfig
from vldistill.data.transforms import augment, to_float
from vldistill.encoders.dual import DualEncoder, Head
from vldistill.encoders.text_towers import HashingTextTower
from vldistill.encoders.tower import ImageTower
from vldistill.errors import DataError
from vldistill.experts.record import augments, expert_note, expert_recipe
from vldistill.training.fit import fit
from vldistill.training.side_inputs import FeatureInputs, PixelInputs, TensorInputs, ViewInputs
from vldistill.workbench import bench as module

if TYPE_CHECKING:
    from tests.conftest import KarpathyFolder
    from tests.unit.conftest import Bench, Listener

EVERY = torch.arange(20)


def weights(encoder: DualEncoder) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in encoder.state_dict().values())


def forbid_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageTower, "forward", lambda *_: pytest.fail("images encoded again"))
    monkeypatch.setattr(HashingTextTower, "encode", lambda *_: pytest.fail("captions encoded again"))


@torch.no_grad()
def test_a_split_is_standardised_by_the_training_split(workbench: Bench):
    bench = workbench()
    train, val = bench.split("train"), bench.split("val")
    assert (len(train.data.images), len(val.data.images)) == (40, 20)
    for inputs in (train.data.images, train.data.texts):
        rows = inputs.rows(torch.arange(len(inputs))).double()
        torch.testing.assert_close(rows.mean(0), torch.zeros_like(rows.mean(0)), atol=1e-4, rtol=0)
        assert float(rows.std(0, correction=0).median()) == pytest.approx(1, abs=1e-3)
    tower = bench.image_tower
    pixels = to_float(torch.from_numpy(np.array(val.pixels.array)), tower.mean, tower.std)
    images, texts = bench.image_standardisation, bench.text_standardisation
    close: dict[str, Any] = {"atol": 1e-3, "rtol": 1e-3}  # standardising enlarges the rounding of the towers
    torch.testing.assert_close(val.data.images.rows(EVERY), (tower(pixels) - images.mean) / images.scale, **close)
    captions = bench.text_tower.encode(val.pairs.captions)
    everything = torch.arange(len(captions))
    torch.testing.assert_close(val.data.texts.rows(everything), (captions - texts.mean) / texts.scale)
    assert val.data.caption_image.tolist() == val.pairs.caption_image.tolist()
    # What the learned images pass is what the real ones passed.
    torch.testing.assert_close(bench.image_inputs(pixels), val.data.images.rows(EVERY), **close)
    torch.testing.assert_close(bench.encode_in_batches(pixels, batch=7), val.data.images.rows(EVERY), **close)


def test_everything_is_built_once_and_kept_for_the_next_process(workbench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench = workbench()
    first = bench.split("train")
    assert bench.split("train") is first and bench.pixels("train") is first.pixels
    assert bench.image_tower is bench.image_tower and bench.text_tower is bench.text_tower
    forbid_encoding(monkeypatch)
    again = workbench().split("train")
    assert torch.equal(again.data.images.rows(EVERY), first.data.images.rows(EVERY))
    assert torch.equal(again.data.texts.rows(EVERY), first.data.texts.rows(EVERY))


def test_tables_too_large_for_memory_are_read_by_row(workbench: Bench, monkeypatch: pytest.MonkeyPatch):
    small = workbench().split("train").data
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)
    large = workbench().split("train").data
    assert isinstance(small.images, TensorInputs) and isinstance(large.images, FeatureInputs)
    index = torch.tensor([5, 39, 0, 5])
    for left, right in ((small.images, large.images), (small.texts, large.texts)):
        assert len(left) == len(right) and torch.equal(left.rows(index), right.rows(index))


@pytest.mark.usefixtures("untouched_generator")
def test_setting_full_reads_pixels(workbench: Bench):
    bench = workbench("full")
    split = bench.split("train")
    assert isinstance(split.data.images, PixelInputs) and len(split.data.images) == 40
    index = torch.tensor([7, 3, 7])
    tower, pixels = bench.image_tower, torch.from_numpy(np.array(split.pixels.array)[index])
    rows = split.data.images.rows(index)
    assert torch.equal(rows, to_float(pixels, tower.mean, tower.std))
    assert rows.is_contiguous(memory_format=torch.channels_last)
    augmented = split.data.images.rows(index, 11)
    assert torch.equal(augmented, to_float(augment(pixels, 11), tower.mean, tower.std))
    assert not torch.equal(augmented[0], augmented[2])  # one image twice: each on its own draw
    assert bench.image_inputs(rows) is rows


@pytest.mark.parametrize("setting", ["heads", "full"])
@pytest.mark.usefixtures("untouched_generator")
def test_students_come_from_their_seed_alone(setting: str, workbench: Bench):
    bench = workbench(setting)
    first = bench.student(5, dropout=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert weights(workbench(setting).student(5, dropout=0.1)) == weights(first)
    assert weights(bench.student(6)) != weights(first)
    assert not first.training and first.logit_scale == pytest.approx(1 / 0.07)
    assert workbench(setting, temperature=0.5).student(5).logit_scale == 2


def test_what_is_trained_in_heads(workbench: Bench):
    bench = workbench(dim=24)
    student = bench.student(0)
    assert isinstance(student.image, Head) and isinstance(student.text, Head)
    assert bench.embedding_width == student.text.norm.bias.numel() == 24
    assert sorted(student.trained()["image"]) == sorted(student.trained()["text"])
    split = bench.split("val").data
    assert student(split.images.rows(EVERY), split.texts.rows(EVERY)).shape == (20, 20)
    assert not any(p.requires_grad for p in bench.image_tower.parameters())


def test_what_is_trained_in_full(workbench: Bench):
    bench = workbench("full")
    student = bench.student(0)
    assert isinstance(student.image, ImageTower) and isinstance(student.text, Head)
    assert bench.embedding_width == bench.image_tower.width == student.text.norm.bias.numel()
    assert set(student.trained()["image"]) == {name for name, _ in bench.image_tower.named_parameters()}
    for name, tensor in bench.image_tower.state_dict().items():
        copied = student.image.state_dict()[name]
        assert torch.equal(copied, tensor) and copied.data_ptr() != tensor.data_ptr()
    nn.init.zeros_(student.trained()["image"]["model.layers.0.weight"])
    assert bool(bench.image_tower.state_dict()["model.layers.0.weight"].any())


def test_the_fingerprint_is_of_all_that_decides_what_a_parameter_means(workbench: Bench):
    other_image = ImageTowerConfig("convnet", "random", 16, {"width": 8}, seed=1)
    changed: dict[str, dict[str, Any]] = {
        "setting": {"setting": "full"},
        "image": {"image": other_image},
        "text": {"text": TextTowerConfig("hashing", width=16)},
        "dim": {"dim": 8},
        "temperature": {"temperature": 0.1},
    }
    prints = {name: workbench(**changes).fingerprint for name, changes in changed.items()}
    same = workbench().fingerprint
    assert len({same, *prints.values()}) == 6 and workbench().fingerprint == same


def test_broken_photos_leave_pairs_pixels_and_features_together(
    workbench: Bench, karpathy: KarpathyFolder, listener: Listener
):
    karpathy.save([karpathy.entry(number, "train" if number < 6 else "val") for number in range(8)])
    karpathy.add_photos()
    (karpathy.folder / "2.jpg").write_bytes(b"not a photo")
    split = workbench(source=str(karpathy.folder)).split("train")
    assert (len(split.data.images), len(split.data.texts), split.pairs.count_images) == (5, 10, 5)
    assert split.pairs.captions[4:6] == ["caption 3 a", "caption 3 b"] and split.data.caption_image[4:6].tolist() == [
        2,
        2,
    ]
    assert any("1 broken image left out (2.jpg)" in warning for warning in listener.warned)
    listener.warned.clear()
    bench = workbench(source=str(karpathy.folder))
    bench._on_pixels = lambda pairs: True  # as a run whose former stage has said so
    bench.split("train")
    assert not listener.warned and any("left out is in account.json" in line for line in listener.said)


def test_sources_hold_variables(workbench: Bench, karpathy: KarpathyFolder, monkeypatch: pytest.MonkeyPatch):
    karpathy.add_photos()
    monkeypatch.setenv("PHOTOS", str(karpathy.folder.parent))
    bench = workbench(source="${PHOTOS}/tiny")
    assert bench.pairs("train").count_images == 3 and bench.pairs("train") is bench.pairs("train")
    with pytest.raises(DataError):
        workbench(source=str(karpathy.folder / "nowhere")).pairs("train")


def test_captions_are_cleaned_if_asked(workbench: Bench, karpathy: KarpathyFolder):
    karpathy.add_photos()
    karpathy.save([{**item, "sentences": [{"raw": "A Dog; runs!"}, {"raw": "..."}]} for item in karpathy.entries])
    plain, clean = (workbench(source=str(karpathy.folder), clean_captions=on).pairs("train") for on in (False, True))
    assert plain.captions == ["A Dog; runs!", "..."] * 3 and clean.captions == ["a dog runs"] * 3
    assert any("3 empty captions left out" in note for note in clean.notes) and plain.fingerprint != clean.fingerprint


@torch.no_grad()
def test_a_tower_of_timm_from_a_file(workbench: Bench, timm_file: Callable[[str], tuple[Any, Path]]):
    model, path = timm_file("mobilenetv2_035")
    bench = workbench(image=ImageTowerConfig("mobilenetv2_035", str(path), size=32))
    split = bench.split("val")
    tower = bench.image_tower
    pixels = to_float(torch.from_numpy(np.array(split.pixels.array)), tower.mean, tower.std)
    expected = bench.image_standardisation(model.forward_head(model.forward_features(pixels), pre_logits=True))
    found = split.data.images.rows(EVERY)  # through folded layers, which round otherwise
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


def test_views_are_drawn_by_row_where_a_seed_is_given(workbench: Bench):
    plain = workbench().split("train").data.images
    bench, every = workbench(views=2), torch.arange(40)
    images = bench.split("train").data.images
    assert isinstance(images, ViewInputs) and len(images) == 40 and len(images.views) == 3
    assert torch.equal(images.rows(every), plain.rows(every))  # no seed: the plain images, as before
    drawn = images.rows(every, 7)
    assert torch.equal(drawn, images.rows(every, 7)) and not torch.equal(drawn, images.rows(every, 8))
    tables = torch.stack([view.rows(every) for view in images.views])
    found = [[number for number in range(3) if torch.equal(tables[number, row], drawn[row])] for row in range(40)]
    assert all(found) and {numbers[0] for numbers in found} == {0, 1, 2}
    assert not isinstance(bench.split("val").data.images, ViewInputs)


def test_features_in_half_precision_have_files_of_their_own(workbench: Bench):
    single, half = workbench(), workbench(features="float16")
    left, right = (bench.split("train").data for bench in (single, half))
    for side, other in ((left.images, right.images), (left.texts, right.texts)):
        rows = torch.arange(len(side))
        torch.testing.assert_close(side.rows(rows), other.rows(rows), rtol=1e-2, atol=2e-2)
    assert half._image_table("train").shards[0].dtype == np.float16
    assert single._image_table("train").shards[0].dtype == np.float32


def test_experts_of_frozen_towers_see_views_where_there_are_any(workbench: Bench):
    plain, viewed = workbench(), workbench(views=1)
    config = ExpertsConfig(count=1, epochs=1, batch=16)
    notes = [expert_note(bench, config, 0) for bench in (plain, viewed)]
    assert not notes[0].augment and "views" not in notes[0].to_record()
    assert notes[1].augment and notes[1].views == 1
    assert not expert_note(viewed, replace(config, augment=False), 0).augment
    losses = []
    for bench in (plain, viewed):
        student = bench.student(0)
        fit(
            student, bench.split("train").data, expert_recipe(config), seed=0, device=bench.device,
            augment=augments(bench, config), on_epoch=lambda epoch, loss: losses.append(loss),
        )  # fmt: skip
    assert losses[0] != losses[1]
