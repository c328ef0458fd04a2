"""What the numbers can mean: test size, ceilings given equal captions, leaks across splits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_bench

from vldistill.data.load import load_pairs
from vldistill.data.pairs import Pairs
from vldistill.evaluation.data_checks import Check, check_data
from vldistill.evaluation.data_checks.equal_captions import check_equal_captions
from vldistill.evaluation.data_checks.near_duplicates import check_near_duplicates, near_duplicates, sketch
from vldistill.evaluation.data_checks.recall_ceiling import check_recall_ceiling, recall_ceiling
from vldistill.evaluation.data_checks.test_size import check_test_size
from vldistill.evaluation.retrieval import retrieval_metrics

SCENES = "scenes:train=30,val=20,test=20"


class Named:
    """Images that are never opened."""

    def __init__(self, count: int) -> None:
        self.names = [f"{index}.png" for index in range(count)]

    def __len__(self) -> int:
        return len(self.names)


def pairs_of(captions: list[str], image_of: list[int], split: str = "test") -> Pairs:
    images: Any = Named(max(image_of) + 1)
    return Pairs("source", split, images, captions, np.array(image_of))


def test_a_class_folder_cannot_exceed_its_equal_captions() -> None:
    """Ten captions over 200 images: twenty images each, every image with its class's caption."""
    pairs = pairs_of([f"a photo of a {index % 10}" for index in range(200)], list(range(200)))
    ceiling = recall_ceiling(pairs)
    assert (ceiling.tr1, ceiling.tr5, ceiling.tr10) == (0, 0, 0)
    assert (ceiling.ir1, ceiling.ir5, ceiling.ir10) == (5, 25, 50)
    found = check_recall_ceiling(pairs)
    assert found.flag and found.score == pytest.approx(80 / 6) and "IR@10 50" in found.summary
    assert found.examples[0] == "20 x 'a photo of a 0'"


@pytest.mark.parametrize("seed", range(6))
def test_a_perfect_student_reaches_the_ceiling_and_none_exceeds_it(seed: int) -> None:
    """Captions of random images out of few texts, scored with the library's metric."""
    draw = torch.Generator().manual_seed(seed)
    images, texts = 12, 9
    image_of = torch.cat([torch.arange(images), torch.randint(images, (15,), generator=draw)])
    words = torch.randint(texts, (len(image_of),), generator=draw)
    ceiling = recall_ceiling(pairs_of([f"text {word}" for word in words.tolist()], image_of.tolist()))
    for attempt in range(30):
        embedded = torch.randn(images, 40, generator=draw)
        known = torch.randn(texts, 40, generator=draw)
        if attempt < 15:  # a text is the sum of its images: it finds them before all others
            embedded = torch.eye(images, 40) + 0.001 * torch.rand(images, 40, generator=draw)
            known = torch.stack([embedded[image_of[words == word]].unique(dim=0).sum(0) for word in range(texts)])
        found = retrieval_metrics(embedded, known[words], image_of)
        for name, most in vars(ceiling).items():
            assert getattr(found, name) <= most + 1e-9
    # the best right answer of each query first, for one direction at a time
    own = torch.zeros(images, texts)
    own[image_of, words] = 1
    behind = torch.stack([own[:, words[image_of == image]].sum(0).min() - 1 for image in range(images)])
    counts = torch.bincount(words, minlength=texts)
    exact = torch.tensor([
        min(int(counts[word]) - int(((words == word) & (image_of == image)).sum()) for word in words[image_of == image])
        for image in range(images)
    ])  # fmt: skip
    assert ceiling.tr1 == pytest.approx(100 * float((exact < 1).float().mean()))
    assert behind.min() >= 0


def test_captions_that_all_differ_have_no_ceiling() -> None:
    found = check_recall_ceiling(pairs_of(["a", "b", "c"], [0, 1, 1]))
    assert not found.flag and found.score == 100


def test_few_test_images_are_a_warning() -> None:
    few, enough = (check_test_size(pairs_of([str(i) for i in range(n)], list(range(n)))) for n in (49, 50))
    assert few.flag and few.score == 49 and "2.0 percentage points" in few.summary
    assert not enough.flag and "random ranking" in enough.summary


def test_captions_in_two_splits_are_counted_with_examples() -> None:
    train = pairs_of(["A dog  runs.", "a cat"], [0, 1], "train")
    val = pairs_of(["a bird"], [0], "val")
    test = pairs_of(["a dog runs.", "a horse"], [0, 1])
    found = check_equal_captions({"train": train, "val": val, "test": test})
    assert found.flag and found.score == 1 and found.examples == ("test: 'a dog runs.'",)
    assert "1 of 2 test captions" in found.summary and "0 of 1 val captions" in found.summary


def photos(count: int, seed: int) -> list[Image.Image]:
    """Photo-like pictures: smooth random fields."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(array).resize((96, 80), Image.Resampling.BICUBIC) for array in small]


def stacked(images: list[Image.Image], size: int = 64) -> np.ndarray:
    return np.stack([np.asarray(image.convert("RGB").resize((size, size))).transpose(2, 0, 1) for image in images])


def recompressed(image: Image.Image) -> Image.Image:
    held = io.BytesIO()
    image.resize((70, 60)).save(held, "JPEG", quality=60)
    return Image.open(held)


def test_a_recompressed_photo_is_found_and_others_are_not() -> None:
    train, test = photos(40, 0), photos(30, 1)
    test[7], test[20] = recompressed(train[3]), train[11]
    brighter = Image.fromarray((np.asarray(train[5]) * 0.97 + 3).astype(np.uint8))
    val = [*photos(10, 2), brighter]
    sketches = {
        name: sketch([stacked(found, size)], [f"{name}-{i}" for i in range(len(found))])
        for name, found, size in (("train", train, 64), ("val", val, 128), ("test", test, 96))
    }
    assert near_duplicates(sketches["test"], sketches["train"]) == ([(7, 3), (20, 11)], 30)
    found = check_near_duplicates(sketches)
    assert found.flag and found.score == 3
    assert "val: val-10 and train-5" in found.examples and "2 of 30 test photos" in found.summary


def test_the_search_compares_a_sample_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from vldistill.evaluation.data_checks import near_duplicates as module

    monkeypatch.setattr(module, "MOST_PAIRS", 40 * 10)
    train = sketch([stacked(photos(40, 0))], map(str, range(40)))
    found, compared = near_duplicates(train, train)
    assert compared == 10 and found == [(4 * i, 4 * i) for i in range(10)]


def test_the_checks_of_a_bench_are_kept_for_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vldistill.evaluation.data_checks import every

    bench = make_bench(tmp_path, source=SCENES)
    first = check_data(bench)
    assert [check.name for check in first] == [
        *("test size", "recall ceiling", "equal captions across splits", "near-duplicate photos across splits")
    ]
    assert first[0].flag  # 20 test images
    assert Check.from_json(first[0].to_json()) == first[0]
    monkeypatch.setattr(every, "sketch", lambda *_: pytest.fail("computed again"))
    assert check_data(make_bench(tmp_path, source=SCENES)) == first


def test_drawn_scenes_are_no_leak() -> None:
    splits = {split: load_pairs(SCENES, split) for split in ("train", "val", "test")}
    assert check_recall_ceiling(splits["test"]).score > 50
