from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import vldistill
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError, ConfigError
from vldistill.storage.files import read_json, read_tensors, write_tensors
from vldistill.training.recipe import ADDED_LATER, Recipe

TOWERS: dict[str, dict[str, Any]] = {
    "image": {
        "name": "convnet",
        "width": 32,
        "size": 8,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 0.1],
        "fingerprint": "i" * 16,
    },
    "text": {"name": "hashing", "width": 5, "fingerprint": "t" * 16},
}
RECIPE = Recipe(rates={"image": (0.123,), "text": (0.456, 0.4)}, epochs=7, batch=3, schedule="half", loss="infonce")


def make_set(**changes: Any) -> DistilledSet:
    draw = torch.Generator().manual_seed(0)
    values: dict[str, Any] = {
        "images": torch.randn(4, 3, 8, 8, generator=draw),
        "texts": torch.randn(4, 5, generator=draw),
        "recipe": RECIPE,
        "towers": TOWERS,
        "setting": "heads",
        "standardisation": {"text_mean": torch.arange(5.0), "text_scale": torch.full((5,), 2.0)},
        "captions": tuple({"start": f"start {i}", "nearest": f"näher {i}"} for i in range(4)),
        "info": {"name": "bitraj-4-s0", "method": "bitraj", "seed": 0, "iteration": 300, "data": "feedbeef"},
    }
    return DistilledSet(**(values | changes))


def make_features(**changes: Any) -> DistilledSet:
    return make_set(images=torch.randn(4, 32), space="features", **changes)


def same_set(left: DistilledSet, right: DistilledSet) -> bool:
    tensors = left.tensors(), right.tensors()
    return (
        tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
        and (left.recipe, left.setting, left.space) == (right.recipe, right.setting, right.space)
        and (dict(left.towers), left.captions, dict(left.info))
        == (dict(right.towers), right.captions, dict(right.info))
    )


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", [None, torch.rand(4, 4)], ids=["plain", "similarity"])
@pytest.mark.parametrize("make", [make_set, make_features])
def test_a_set_survives_the_disk(tmp_path: Path, make: Any, similarity: torch.Tensor | None) -> None:
    distilled = make(similarity=similarity)
    distilled.save(tmp_path / "a" / "set")
    loaded = DistilledSet.load(str(tmp_path / "a" / "set"))
    assert same_set(loaded, distilled)
    loaded.save(tmp_path / "b")
    for name in ("set.safetensors", "set.json", "README.md"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / "set" / name).read_bytes()


def test_a_folder_holds_tensors_json_and_a_card_only(tmp_path: Path) -> None:
    make_set().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "data", "set.json", "set.safetensors"]
    record = json.loads((tmp_path / "set.json").read_text())
    assert record["pairs"] == 4 and record["text_space"] == "sentence" and record["towers"] == TOWERS
    assert record["captions"][1] == {"start": "start 1", "nearest": "näher 1"}


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"is not a distilled set.*RUN/sets/NAME"):
        DistilledSet.load(tmp_path)
    with pytest.raises(ArtefactError, match="is not a distilled set"):
        DistilledSet.load(tmp_path / "nowhere")
    make_set().save(tmp_path)
    (tmp_path / "set.safetensors").unlink()
    with pytest.raises(ArtefactError, match="does not exist"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 50, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    make_set().save(tmp_path)
    path = tmp_path / "set.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtefactError, match="damaged"):
        DistilledSet.load(tmp_path)


def test_one_flipped_bit_is_refused(tmp_path: Path) -> None:
    make_set().save(tmp_path)
    path = tmp_path / "set.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ArtefactError, match="checksum"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"set"', "\x00\xff", '{"format": 2}', '{"format": "1"}'])
def test_a_record_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    make_set().save(tmp_path)
    (tmp_path / "set.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtefactError, match=r"set\.json|not readable"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": None},
        {"recipe": {}},
        {"recipe": {"rates": {"image": [0.1]}}},
        {"recipe": {"rates": [0.1, 0.1]}},
        {"recipe": {"rates": {"image": ["fast"], "text": [0.1]}}},
        {"recipe": {"rates": {"image": [-0.1], "text": [0.1]}}},
        {"recipe": RECIPE.to_dict() | {"momntum": 0.9}},
        {"recipe": RECIPE.to_dict() | {"schedule": "cosin"}},
        {"towers": {}},
        {"towers": []},
        {"towers": {"image": TOWERS["image"]}},
        {"towers": {"image": TOWERS["image"], "text": {"name": "hashing", "width": 5}}},
        {"towers": {"image": TOWERS["image"] | {"size": 16}, "text": TOWERS["text"]}},
        {"towers": {"image": TOWERS["image"], "text": TOWERS["text"] | {"width": 6}}},
        {"space": "features"},
        {"space": "sounds"},
        {"captions": 3},
        {"captions": [{"nearest": []}]},
        {"captions": [{"nearest": ["a dog", 3]}]},
    ],
    ids=str,
)
def test_a_garbled_record_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    make_set().save(tmp_path)
    record = read_json(tmp_path / "set.json", "set")
    (tmp_path / "set.json").write_text(json.dumps(record | change))
    with pytest.raises(ArtefactError):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize("name", ["recipe", "towers", "setting", "space", "info"])
def test_a_lacking_field_is_named(tmp_path: Path, name: str) -> None:
    make_set().save(tmp_path)
    record = read_json(tmp_path / "set.json", "set")
    del record[name]
    (tmp_path / "set.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=name):
        DistilledSet.load(tmp_path)


def test_another_file_with_the_right_checksum_still_has_to_be_a_set(tmp_path: Path) -> None:
    import hashlib

    make_set().save(tmp_path)
    write_tensors(tmp_path / "set.safetensors", {"images": torch.zeros(4, 3, 8, 8)})
    record = read_json(tmp_path / "set.json", "set")
    record["sha256"] = hashlib.sha256((tmp_path / "set.safetensors").read_bytes()).hexdigest()
    (tmp_path / "set.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match="texts"):
        DistilledSet.load(tmp_path)


def test_nothing_is_ever_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("unpickled")

    make_set(similarity=torch.eye(4)).save(tmp_path)
    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load"), (torch, "save")):
        monkeypatch.setattr(module, name, refuse)
    make_set(similarity=torch.eye(4)).save(tmp_path)
    assert len(DistilledSet.load(tmp_path)) == 4
    source = Path(vldistill.__file__).parent
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(source.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"pickle\.(load|dump)|import \w*pickle|torch\.(load|save)\(|allow_pickle=True|joblib", line)
    ]
    assert found == [  # the importer reads tensors and plain values alone; its own tests try it with hostile files
        "torchfile.py: import pickle",
        'torchfile.py: found = torch.load(path, map_location="cpu", weights_only=True)',
    ]


# --- what may be in a set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images", "texts", "similarity", "text_scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    distilled = make_set(similarity=torch.eye(4))
    broken = {key: tensor.clone() for key, tensor in distilled.tensors().items()}
    broken[name].view(-1)[3] = value
    standard = {key: broken[key] for key in ("text_mean", "text_scale")}
    with pytest.raises(ArtefactError, match=rf"{name} holds NaN or infinity"):
        make_set(
            images=broken["images"], texts=broken["texts"], similarity=broken["similarity"], standardisation=standard
        )


@pytest.mark.parametrize(
    "change",
    [
        {"images": torch.zeros(1, 3, 8, 8), "texts": torch.zeros(1, 5)},
        {"images": torch.zeros(3, 3, 8, 8)},
        {"images": torch.zeros(4, 32)},
        {"images": torch.zeros(4, 1, 8, 8)},
        {"images": torch.zeros(4, 3, 8, 9)},
        {"images": torch.zeros(())},
        {"texts": torch.zeros(4, 5, 1)},
        {"texts": torch.zeros(4, 6)},
        {"similarity": torch.zeros(4)},
        {"similarity": torch.zeros(4, 5)},
        {"space": "features"},
        {"space": "latents"},
        {"towers": {"image": TOWERS["image"]}},
    ],
    ids=lambda change: ", ".join(f"{k} {tuple(v.shape) if hasattr(v, 'shape') else v}" for k, v in change.items()),
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtefactError, match="distilled set: "):
        make_set(**change)


def test_stored_floats_by_hand() -> None:
    pairs = 4 * 3 * 8 * 8 + 4 * 5
    rates = 1 + 2
    assert make_set().stored_floats == pairs + rates == 791
    assert make_set(similarity=torch.eye(4)).stored_floats == pairs + rates + 16
    low_rank = make_set(similarity=torch.eye(4), info={"similarity_floats": 12})
    assert low_rank.stored_floats == pairs + rates + 12
    assert make_features().stored_floats == 4 * 32 + 4 * 5 + rates
    assert make_set().standardisation_floats == 10  # its own line of the budget, not in stored_floats


def loaded_by_datasets(folder: Path, cache: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(str(folder), cache_dir=str(cache))["train"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_datasets_load_a_sets_folder_as_rounded_pictures_and_captions(tmp_path: Path) -> None:
    distilled = make_set()
    distilled.save(tmp_path / "set")
    (tmp_path / "set" / "preview.png").write_bytes((tmp_path / "set" / "data" / "000000.png").read_bytes())
    distilled.save(tmp_path / "set" / "kept" / "iteration-1")
    rows = loaded_by_datasets(tmp_path / "set", tmp_path / "cache")
    assert rows.column_names == ["image", "caption", "start"] and len(rows) == len(distilled)
    assert list(rows["caption"]) == [f"näher {number}" for number in range(4)]
    shown = np.stack([np.asarray(picture) for picture in rows["image"]]).transpose(0, 3, 1, 2)
    assert np.abs(shown / 255 - distilled.pixels().numpy()).max() <= 0.5 / 255 + 1e-6


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_datasets_load_captions_of_features_and_several_of_an_image(tmp_path: Path) -> None:
    make_features().save(tmp_path / "features")
    rows = loaded_by_datasets(tmp_path / "features", tmp_path / "cache")
    assert rows.column_names == ["caption", "start"] and rows[2]["start"] == "start 2"
    several = tuple({"nearest": ["one", "two / three"]} for _ in range(4))
    make_set(captions=several, texts=torch.randn(4, 2, 5)).save(tmp_path / "several")
    rows = loaded_by_datasets(tmp_path / "several", tmp_path / "cache")
    assert rows.column_names == ["image", "caption"] and rows[3]["caption"] == ["one", "two / three"]


def test_a_set_that_is_saved_again_keeps_no_pictures_of_before(tmp_path: Path) -> None:
    make_set().save(tmp_path)
    make_set(images=torch.randn(2, 3, 8, 8), texts=torch.randn(2, 5), captions=()).save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "000000.png", "000001.png", "metadata.jsonl",
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "data")
    assert len(DistilledSet.load(tmp_path)) == 2  # sets of former versions have none


def test_the_card_says_what_matters(tmp_path: Path) -> None:
    distilled = make_set(similarity=torch.eye(4))
    distilled.save(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for said in (
        "bitraj-4-s0",
        "4 distilled image-caption pairs",
        "Train on them by the recipe below: texts are vectors, no words.",
        "iteration 300",
        "setting `heads`",
        "image tower `convnet` at 8 px",
        "text tower `hashing`",
        "807 stored floats, a similarity matrix among them",
        "10 floats of feature standardisation not counted",
        "7 epochs, batch 3, SGD with momentum 0.9 and weight decay 0.0005, schedule half",
        "image 0.123, text 0.456",
        "fingerprint feedbeef",
        "DistilledSet.load",
        "the terms of the real data apply",
    ):
        assert said in card, said
    make_set().save(tmp_path / "plain")
    plain = (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    assert "as on real pairs" not in card and "similarity matrix" not in plain


def test_a_set_is_a_torch_data_set(tmp_path: Path) -> None:
    make_set().save(tmp_path)
    distilled = DistilledSet.load(tmp_path)
    image, text = distilled[2]
    assert len(distilled) == 4 and image.shape == (3, 8, 8) and text.shape == (5,)
    batches = list(DataLoader(distilled, batch_size=3))
    assert [tuple(images.shape) for images, _ in batches] == [(3, 3, 8, 8), (1, 3, 8, 8)]
    assert torch.equal(torch.cat([images for images, _ in batches]), distilled.images)
    assert torch.equal(torch.cat([texts for _, texts in batches]), distilled.texts)
    shuffled = DataLoader(distilled, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(next(iter(shuffled))[1].sum(0).round(decimals=4), distilled.texts.sum(0).round(decimals=4))
    with pytest.raises(IndexError):
        distilled[4]
    assert distilled == distilled and distilled != make_set() and len({distilled, distilled}) == 1


# --- what a set fits ----------------------------------------------------------------------------------------------


def other_towers(side: str, **changes: Any) -> dict[str, dict[str, Any]]:
    return {**TOWERS, side: TOWERS[side] | changes}


def test_another_text_tower_is_refused() -> None:
    with pytest.raises(ArtefactError, match=r"'hashing' \(width 5, fingerprint t+\), not of 'minilm' \(width 384"):
        make_set().check_fits(other_towers("text", name="minilm", width=384, fingerprint="x"))
    with pytest.raises(ArtefactError, match="Use the tower it was made with"):
        make_set().check_fits(other_towers("text", fingerprint="x"))


def test_features_need_their_own_image_tower_and_pixels_do_not() -> None:
    other = other_towers("image", name="resnet", fingerprint="x")
    make_set().check_fits(other)
    make_features().check_fits(TOWERS)
    with pytest.raises(ArtefactError, match=r"features of the image tower 'convnet'.*'resnet'"):
        make_features().check_fits(other)


def test_the_same_image_tower_gets_the_images_as_they_are() -> None:
    distilled = make_set()
    assert distilled.images_for(8, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)) is distilled.images


def test_another_normalisation_by_hand() -> None:
    distilled = make_set()
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    found = distilled.images_for(8, tuple(mean), tuple(std)).numpy()
    old = np.array(TOWERS["image"]["mean"]), np.array(TOWERS["image"]["std"])
    for channel in range(3):
        pixels = distilled.images[:, channel].numpy() * old[1][channel] + old[0][channel]
        np.testing.assert_allclose(found[:, channel], (pixels - mean[channel]) / std[channel], atol=1e-5)


@pytest.mark.parametrize("size", [5, 8, 20])
def test_another_size_agrees_with_pillow(size: int) -> None:
    draw = torch.Generator().manual_seed(1)
    towers = other_towers("image", size=13)
    distilled = make_set(images=torch.randn(4, 3, 13, 13, generator=draw), towers=towers)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = distilled.images_for(size, mean, std)
    assert found.shape == (4, 3, size, size)
    for index in range(4):
        for channel in range(3):
            own = towers["image"]["mean"][channel], towers["image"]["std"][channel]
            pixels = distilled.images[index, channel].numpy() * own[1] + own[0]
            resized = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
            expected = (resized - mean[channel]) / std[channel]
            np.testing.assert_allclose(found[index, channel].numpy(), expected, atol=2e-4)


def test_pixels_are_clipped_as_a_screen_would() -> None:
    distilled = make_set(images=torch.full((4, 3, 8, 8), 100.0))
    assert torch.equal(distilled.pixels(), torch.ones(4, 3, 8, 8))
    grey = make_set(images=torch.zeros(4, 3, 8, 8)).pixels()
    torch.testing.assert_close(grey[0, :, 0, 0], torch.tensor([0.5, 0.4, 0.3]))
    with pytest.raises(ArtefactError, match="no pixels"):
        make_features().pixels()


def test_restandardising_goes_through_the_raw_vectors() -> None:
    distilled = make_set()
    mean, scale = torch.full((5,), 3.0), torch.arange(1.0, 6.0)
    raw = distilled.texts * 2.0 + torch.arange(5.0)
    torch.testing.assert_close(distilled.restandardised("text", mean, scale), (raw - mean) / scale)
    own = distilled.standardisation
    assert distilled.restandardised("text", own["text_mean"], own["text_scale"]) is distilled.texts
    assert distilled.restandardised("image", mean, scale) is distilled.images  # it has no image standardisation


# --- the recipe ---------------------------------------------------------------------------------------------------


def test_a_recipe_goes_round_as_plain_values() -> None:
    plain = json.loads(json.dumps(RECIPE.to_dict()))
    assert Recipe.from_dict(plain) == RECIPE
    assert plain.keys() == asdict(RECIPE).keys() - ADDED_LATER.keys()  # they are left out where they say nothing
    assert Recipe.from_dict({"rates": {"image": [1], "text": [2]}}) == Recipe(rates={"image": (1.0,), "text": (2.0,)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schedule": "cosin"}, "Did you mean cosine"),
        ({"loss": "infonc"}, "Did you mean infonce"),
        ({"rates": {"image": (0.1,)}}, "'image' and 'text'"),
        ({"rates": {"image": (0.1,), "text": ()}}, "'image' and 'text'"),
        ({"rates": {"image": (0.1,), "text": (-0.1,)}}, "negative or not finite"),
        ({"rates": {"image": (float("nan"),), "text": (0.1,)}}, "negative or not finite"),
        ({"rates": {"image": (float("inf"),), "text": (0.1,)}}, "negative or not finite"),
    ],
    ids=str,
)
def test_an_impossible_recipe_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(RECIPE, **change)


def test_an_unknown_field_of_a_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"momntum.*Did you mean momentum"):
        Recipe.from_dict(RECIPE.to_dict() | {"momntum": 0.9})


def test_rates_by_step_and_schedule() -> None:
    recipe = replace(RECIPE, schedule="half", rates={"image": (1.0,), "text": (3.0, 2.0, 1.0)})
    assert [recipe.rate("image", step, 4) for step in range(4)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert [recipe.rate("text", step, 4) for step in range(4)] == pytest.approx([3.0, 2.0, 0.1, 0.1])
    cosine = replace(recipe, schedule="cosine")
    assert [cosine.rate("image", step, 2) for step in range(3)] == pytest.approx([1.0, 0.5, 0.0])
    constant = replace(recipe, schedule="constant")
    assert [constant.rate("image", step, 2) for step in range(2)] == [1.0, 1.0]


def test_the_file_has_no_hidden_tensors(tmp_path: Path) -> None:
    make_set().save(tmp_path)
    tensors, _ = read_tensors(tmp_path / "set.safetensors", "set")
    assert sorted(tensors) == ["images", "text_mean", "text_scale", "texts"]
