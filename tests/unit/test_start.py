from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vldistill.config import Config, DistillConfig, Outer, SelectConfig
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.methods.bilevel import Bilevel, BilevelOptions
from vldistill.distillation.start import check_start, is_folder, make_start, nearest_captions, starting_pairs
from vldistill.distilled.distilled_set import DistilledSet, one_line
from vldistill.errors import ArtefactError, ConfigError
from vldistill.options.resolve import first_method, resolve, resolve_distill
from vldistill.selection.choose import choose_pairs
from vldistill.workbench.bench import Workbench


def random_pairs(bench: Workbench, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return choose_pairs(bench, "random", count, seed, SelectConfig())


def sentence_vectors(bench: Workbench, captions: Sequence[str]) -> torch.Tensor:
    """Standardised vectors of ``captions``, by hand."""
    raw = bench.text_tower.encode(bench.pairs("train").captions).double()
    scale = raw.std(0, correction=0)
    scale = scale.clamp(min=1e-2 * float(scale.mean()))
    return ((bench.text_tower.encode(captions) - raw.mean(0)) / scale).float()


@pytest.mark.parametrize("count", [2, 17, 40])
def test_pairs_have_distinct_images_and_captions_of_their_own(bench: Workbench, count: int) -> None:
    for seed in range(5):
        images, captions = random_pairs(bench, count, seed)
        assert images.dtype == captions.dtype == torch.int64
        assert len(set(images.tolist())) == len(images) == len(captions) == count
        assert (bench.pairs("train").caption_image[captions.numpy()] == images.numpy()).all()


def test_every_caption_of_an_image_can_be_drawn(bench: Workbench) -> None:
    pairs = bench.pairs("train")
    drawn = {int(caption) for seed in range(60) for caption in random_pairs(bench, 40, seed)[1]}
    assert len(drawn) > 0.95 * pairs.count_captions


def test_the_seed_decides_the_pairs(bench: Workbench) -> None:
    first, again, other = (random_pairs(bench, 10, seed) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("kind", ["real", "noise"])
def test_the_same_start_is_made_twice(bench: Workbench, kind: str) -> None:
    first, again, other = (make_start(bench, kind, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images) and torch.equal(first.texts, again.texts)
    assert first.captions == again.captions
    assert not torch.equal(first.images, other.images)


def test_more_pairs_than_images_are_refused(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match=r"41 pairs.*has 40 images.*Ask for 40 or fewer"):
        make_start(bench, "real", 41, 0)


def test_a_real_start_is_made_of_real_pairs(bench: Workbench) -> None:
    start = make_start(bench, "real", 12, 3)
    images, captions = random_pairs(bench, 12, 3)
    pairs, tower = bench.pairs("train"), bench.image_tower
    assert start.captions == [pairs.captions[int(i)] for i in captions]
    pixels = bench.pixels("train").array[images.numpy()].astype(np.float32) / 255
    mean, std = (np.array(value, np.float32).reshape(3, 1, 1) for value in (tower.mean, tower.std))
    np.testing.assert_allclose(start.images.numpy(), (pixels - mean) / std, atol=1e-5)
    told = list(map(one_line, start.captions))
    torch.testing.assert_close(start.texts, sentence_vectors(bench, told), rtol=1e-4, atol=1e-4)


def test_a_start_is_a_copy(bench: Workbench) -> None:
    make_start(bench, "real", 4, 0).texts.zero_()
    make_start(bench, "real", 4, 0).images.zero_()
    again = make_start(bench, "real", 4, 0)
    assert bool(again.texts.any()) and bool(again.images.any())


def test_noise_has_the_moments_of_the_real_channels(bench: Workbench) -> None:
    start = make_start(bench, "noise", 400, 0)
    tower = bench.image_tower
    real = torch.from_numpy(np.array(bench.pixels("train").array)).float() / 255
    real = (real - torch.tensor(tower.mean).view(3, 1, 1)) / torch.tensor(tower.std).view(3, 1, 1)
    assert start.images.shape == (400, 3, 16, 16) and start.captions == [""] * 400
    torch.testing.assert_close(start.images.mean((0, 2, 3)), real.mean((0, 2, 3)), rtol=0, atol=0.03)
    torch.testing.assert_close(start.images.std((0, 2, 3)), real.std((0, 2, 3)), rtol=0.03, atol=0)
    assert start.texts.shape == (400, 32)
    assert abs(float(start.texts.mean())) < 0.04 and abs(float(start.texts.std()) - 1) < 0.04


def test_nearest_captions_agree_with_brute_force(bench: Workbench) -> None:
    draw = torch.Generator().manual_seed(0)
    texts = torch.randn(15, 32, generator=draw) * torch.rand(15, 1, generator=draw) * 10
    captions = bench.pairs("train").captions
    real = sentence_vectors(bench, captions).double().numpy()
    found = nearest_captions(bench, texts)
    for text, caption in zip(texts.double().numpy(), found):
        cosines = [float(text @ row / (np.linalg.norm(text) * np.linalg.norm(row))) for row in real]
        assert cosines[captions.index(caption)] == pytest.approx(max(cosines), abs=1e-5)


def test_the_nearest_caption_of_a_real_start_is_its_own(bench: Workbench) -> None:
    start = make_start(bench, "real", 20, 0)
    found = nearest_captions(bench, 3 * start.texts)
    told = list(map(one_line, start.captions))
    torch.testing.assert_close(sentence_vectors(bench, found), sentence_vectors(bench, told))


@pytest.fixture
def made(bench: Workbench) -> DistilledSet:
    """A set of six real pairs, whose images are half the side of what the tower takes."""
    config = resolve_distill(DistillConfig(method="bilevel", pairs=6, size=bench.image_tower.size // 2), "heads")
    context = Context(bench, resolve_distill(config, bench.setting), BilevelOptions())
    start = starting_pairs(Bilevel(), context)
    return Bilevel().export(Bilevel().setup(start, context), context)


def test_a_set_is_a_start(bench: Workbench, made: DistilledSet, tmp_path: Path) -> None:
    made.save(tmp_path / "set")
    start = make_start(bench, str(tmp_path / "set"), 6, 0)
    tower = bench.image_tower
    assert torch.equal(start.images, made.images_for(tower.size, tower.mean, tower.std))
    assert torch.allclose(start.texts, made.texts, atol=1e-5) and start.rows is None
    check_start(str(tmp_path / "set"), 6, SelectConfig())


def test_a_set_beside_noise_keeps_its_size_and_space(bench: Workbench, made: DistilledSet, tmp_path: Path) -> None:
    place, images = str(tmp_path / "small"), made.images[:, :, ::2, ::2].contiguous()
    towers = {**made.towers, "image": {**made.towers["image"], "stored_size": images.shape[-1]}}
    small = replace(made, images=images, towers=towers)
    small.save(Path(place))
    start = make_start(bench, place, 6, 0, text_kind="noise", size=small.images.shape[-1])
    assert torch.equal(start.images, small.images)
    assert torch.equal(start.texts, make_start(bench, "noise", 6, 0).texts)
    with pytest.raises(ConfigError, match=r"holds pixels with a sentence vector.*space features"):
        make_start(bench, place, 6, 0, text_kind="noise", space="features")


def test_sets_that_are_no_start(bench: Workbench, made: DistilledSet, tmp_path: Path) -> None:
    made.save(tmp_path / "set")
    place = str(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"has 6 pairs, but distill\.pairs is 7"):
        check_start(place, 7, SelectConfig())
    with pytest.raises(ConfigError, match=r"holds pixels with a sentence vector.*space features"):
        check_start(place, 6, SelectConfig(), "features")
    with pytest.raises(ArtefactError, match="nowhere"):
        check_start(str(tmp_path / "nowhere"), 6, SelectConfig())
    with pytest.raises(ConfigError, match="a set is a start of both"):
        make_start(bench, "real", 6, 0, text_kind=place)
    with pytest.raises(ConfigError, match=r"unknown distill\.start 'reel'.*Or a set's folder"):
        check_start("reel", 6, SelectConfig())


def test_a_word_wins_over_a_folder_of_its_name(
    made: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("real", "noise", "kmeans", "mine"):
        made.save(tmp_path / name)
    assert [is_folder(name) for name in ("real", "noise", "kmeans", "mine", "./real")] == [False] * 3 + [True] * 2


def test_a_method_that_is_a_start_is_one_of_both_sides() -> None:
    config = DistillConfig(method="bilevel", start="canonical", minutes=8, ema=0.5, label="mine")
    assert first_method(config) == "canonical" and first_method(replace(config, start="real")) == ""
    own = resolve(Config(distill=config)).first
    assert own and resolve(Config(distill=replace(config, start="real"))).first is None
    assert (own.method, own.start, own.label, own.minutes) == ("canonical", "real", "", 2)
    assert {name: getattr(own, name) for name in asdict(Outer())} == asdict(METHODS.find("canonical").outer)
    for change, message in (
        ({"start_text": "noise"}, "makes both sides"),
        ({"start": "bitraj"}, "which is no start"),
        ({"captions": 2}, "makes one text"),
        ({"method": "canonical"}, "the method itself"),
        ({"method": "prototypes"}, "prototypes chooses its own pairs"),
    ):
        with pytest.raises(ConfigError, match=message):
            first_method(replace(config, **change))
