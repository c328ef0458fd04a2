from __future__ import annotations

import time

import numpy as np
import pytest

from vldistill.data.load import load_pairs
from vldistill.data.scenes import (
    BACKGROUNDS,
    COLOURS,
    POOLS,
    RELATIONS,
    SHAPES,
    SIZES,
    TOTAL,
    SceneImages,
    _scene,
    caption_scene,
    draw_scene,
    draw_splits,
    parse_options,
)
from vldistill.errors import DataError

COUNTS = {"train": 3000, "val": 500, "test": 500}


def test_options():
    assert parse_options("scenes") == (0, COUNTS)
    assert parse_options("scenes: seed = 7 ,train=12") == (7, {**COUNTS, "train": 12})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("scenes:sed=1", "unknown option 'sed'. Did you mean seed"),
        ("scenes:", "'' is not an option"),
        ("scenes:train", "'train' is not an option; expected name=number"),
        ("scenes:train=0", "train is '0'; expected a whole number from 1"),
        ("scenes:train=-5", "train is '-5'"),
        ("scenes:train=1e3", "train is '1e3'"),
        ("scenes:train=٣", "train is '٣'"),
        ("scenes:seed=1,seed=2", "seed is given twice"),
        (f"scenes:test={TOTAL}", "expected a whole number from 1 to 25,"),
    ],
)
def test_bad_options(source: str, message: str):
    with pytest.raises(DataError, match=message):
        load_pairs(source, "train")


def test_every_number_is_another_scene():
    sample = range(0, TOTAL, 7)
    scenes = [_scene(number, 0) for number in sample]
    assert len({scene.key for scene in scenes}) == len(sample)
    assert all((s.first.colour, s.first.shape) != (s.second.colour, s.second.shape) for s in scenes)
    assert POOLS["test"][1] == POOLS["val"][0] and POOLS["val"][1] == POOLS["train"][0] and POOLS["train"][1] == TOTAL


def test_splits_are_disjoint_and_use_every_value():
    splits = draw_splits(0, COUNTS)
    keys = [scene.key for scenes in splits.values() for scene in scenes]
    assert len(keys) == len(set(keys)) == 4000
    for scenes in splits.values():
        for values, of in (
            (COLOURS, lambda s: s.first.colour),
            (SHAPES, lambda s: s.second.shape),
            (SIZES, lambda s: s.first.size),
            (RELATIONS, lambda s: s.relation),
            (BACKGROUNDS, lambda s: s.background),
        ):
            counts = [sum(of(scene) == value for scene in scenes) for value in values]
            assert min(counts) > 0.6 * len(scenes) / len(counts)


def test_galleries_do_not_depend_on_the_number_of_training_scenes():
    small, large = draw_splits(3, {**COUNTS, "train": 10}), draw_splits(3, COUNTS)
    assert small["test"] == large["test"] and small["val"] == large["val"] and small["train"] == large["train"][:10]


def test_every_caption_determines_its_scene():
    scenes = [scene for chosen in draw_splits(0, COUNTS).values() for scene in chosen]
    owner: dict[str, str] = {}
    for scene in scenes:
        captions = caption_scene(scene)
        assert len(set(captions)) == 5
        for caption in captions:
            assert owner.setdefault(caption, scene.key) == scene.key


def test_every_caption_names_every_attribute():
    for scene in draw_splits(5, {"train": 200})["train"]:
        for caption in caption_scene(scene):
            for thing in (scene.first, scene.second):
                assert any(
                    f"{size} {colour} {shape}" in caption
                    for size in SIZES[thing.size][1]
                    for colour in COLOURS[thing.colour][1]
                    for shape in SHAPES[thing.shape]
                )
            assert any(shade in caption for shade in BACKGROUNDS[scene.background][1])
            first_named_first = any(f" {words} " in caption for words in RELATIONS[scene.relation][0])
            second_named_first = any(f" {words} " in caption for words in RELATIONS[scene.relation][1])
            assert first_named_first != second_named_first


def test_words_stand_for_one_value_only():
    for table in ({k: v[1] for k, v in COLOURS.items()}, SHAPES, {k: v[1] for k, v in SIZES.items()}):
        words = [word for options in table.values() for word in options]
        assert len(words) == len(set(words))


def test_drawings_are_deterministic_and_follow_the_seed():
    scene = draw_splits(0, {"train": 1})["train"][0]
    picture = np.asarray(draw_scene(scene))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, np.asarray(draw_scene(_scene(scene.number, 0))))
    assert not np.array_equal(picture, np.asarray(draw_scene(_scene(scene.number, 1))))
    assert load_pairs("scenes:train=5", "train").fingerprint == load_pairs("scenes:train=5,val=9", "train").fingerprint
    assert load_pairs("scenes:train=5", "train").fingerprint != load_pairs("scenes:train=5,seed=1", "train").fingerprint


def test_the_stream_of_a_seed_never_changes():
    assert [scene.number for scene in draw_splits(0, {"train": 3})["train"]] == [76014, 659, 82831]
    expected = "a little red circle on the left side of a small crimson square on a white background"
    assert caption_scene(_scene(0, 0))[0] == expected


@pytest.mark.parametrize("relation", RELATIONS)
def test_objects_stand_as_the_relation_says(relation: str):
    """The centre of the first object's colour lies left of, or above, that of the second."""
    scenes = [s for s in draw_splits(1, {"train": 300})["train"] if s.relation == relation]
    axis = 1 if relation == "left" else 0
    for scene in scenes:
        if scene.first.colour == scene.second.colour:
            continue
        pixels = np.asarray(draw_scene(scene)).astype(int)
        centres = []
        for thing in (scene.first, scene.second):
            near = np.abs(pixels - COLOURS[thing.colour][0]).sum(-1) < 12
            assert near.sum() > 10
            centres.append(np.argwhere(near).mean(0)[axis])
        assert centres[0] + 10 < centres[1]


def test_different_scenes_look_different():
    pictures = {draw_scene(scene).tobytes() for scene in draw_splits(0, {"test": 300})["test"]}
    assert len(pictures) == 300


def test_sizes_are_told_apart():
    for shape in SHAPES:
        areas = {}
        for scene in (_scene(number, 0) for number in range(0, TOTAL, 97)):
            if scene.first.shape == shape:
                red, green, blue = COLOURS[scene.first.colour][0]
                near = np.abs(np.asarray(draw_scene(scene)).astype(int) - (red, green, blue)).sum(-1) < 12
                if scene.first.colour != scene.second.colour:
                    areas.setdefault(scene.first.size, []).append(near.sum())
        assert max(areas["small"]) < min(areas["large"])


def test_speed():
    start = time.process_time()
    store = load_pairs("scenes", "test").images
    for index in range(len(store)):
        store.read(index)
    assert time.process_time() - start < 3  # CPU time, about 0.3 s; all 4,000 scenes within 3 s


def test_store_shows_keys_as_names():
    scenes = tuple(draw_splits(0, {"train": 2})["train"])
    store = SceneImages(scenes)
    assert len(store) == 2 and store.names == tuple(scene.key for scene in scenes)
    assert store.signature(0) != store.signature(1)
