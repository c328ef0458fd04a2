"""Class sets: what becomes a class, what its prompts are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vldistill.config import DataConfig
from vldistill.data.classes import NONE, Classes, labels_of
from vldistill.data.collection import clean_caption
from vldistill.data.load import find_reader, load_pairs, read_collection
from vldistill.data.scenes import ClassScenes, draw_splits
from vldistill.errors import ConfigError, DataError

COLOURS = {"grey_cat": 40, "dog": 120, "red fox": 200}


def picture(folder: Path, name: str, level: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(level + len(name)).integers(0, 30, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise + np.uint8(level)).save(folder / name)


def class_folder(place: Path, *, splits: tuple[str, ...] = ("train", "val", "test"), count: int = 4) -> Path:
    """Three classes of small PNG files."""
    for split in splits:
        for name, level in COLOURS.items():
            for number in range(count):
                picture(place / split / name, f"{number}.png", level + number)
    return place


def test_folders_of_splits_and_classes_are_recognised(tmp_path: Path) -> None:
    assert find_reader(class_folder(tmp_path)).name == "classes"
    pairs = load_pairs(tmp_path, "val")
    assert pairs.classes is not None and pairs.classes.names == ("dog", "grey cat", "red fox")
    assert [(name.split("/")[0], text) for name, text in zip(pairs.images.names, pairs.captions)][::4] == [
        ("dog", "a photo of a dog"), ("grey_cat", "a photo of a grey cat"), ("red fox", "a photo of a red fox")
    ]  # fmt: skip
    chosen = pairs.select_images([9, 0])
    assert chosen.classes is not None and chosen.classes.labels.tolist() == [2, 0]
    assert chosen.caption_keys == [2, 0]


def test_folders_without_splits_may_be_albums_and_need_the_prefix(tmp_path: Path) -> None:
    class_folder(tmp_path, splits=("",), count=30)
    with pytest.raises(DataError, match=f"Where its folders are classes, classes:{tmp_path}"):
        read_collection(tmp_path)
    collection = read_collection(f"classes:{tmp_path}")
    assert collection.splits_present() == ["train", "val", "test"] and "made by a hash" in collection.made["val"]
    picture(tmp_path, "cover.png", 3)
    (tmp_path / "dog" / "LICENSE").write_text("mine")
    (account,) = read_collection(f"classes:{tmp_path}").accounts
    assert (account.seen, account.used) == (92, 90)
    assert account.losses() == ["1 file left out: not in the folder of a class (cover.png)"]


def test_captions_win_over_class_folders(tmp_path: Path) -> None:
    class_folder(tmp_path)
    (tmp_path / "train" / "dog" / "0.txt").write_text("a dog on a sofa")
    assert find_reader(tmp_path).name == "folder"


def test_prompts_are_every_images_captions(tmp_path: Path) -> None:
    found = read_collection(class_folder(tmp_path)).prompted(["a bad photo of the {}.", "{}!"])
    pairs = found.pairs("train")
    assert pairs.count_captions == 2 * pairs.count_images
    assert pairs.captions[:2] == ["a bad photo of the dog.", "dog!"] and pairs.caption_keys[:2] == [0, 0]
    assert pairs.fingerprint != read_collection(tmp_path).pairs("train").fingerprint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "terrier\ntabby\nvixen\n"),
        ("synsets.txt", "dog terrier\ngrey_cat  tabby\nred vixen\n"),
        ("names.json", '["terrier", "tabby", "vixen"]'),
        ("by_folder.csv", "folder,name\ndog,terrier\nred fox,vixen\ngrey_cat,tabby\n"),
        ("lines.yaml", 'red fox: vixen\ngrey_cat: "tabby"\ndog: terrier\n'),
        ("turned.json", '{"terrier": 0, "tabby": 1, "vixen": 2}'),
        ("synsets.json", '[["n1", "terrier"], ["n2", "tabby"], ["n3", "vixen"]]'),
        ("by_folder.json", '{"dog": "terrier", "red fox": "vixen", "grey_cat": "tabby", "cow": "calf"}'),
        ("imagenet.json", '{"0": ["n1", "terrier"], "1": ["n2", "tabby"], "2": ["n3", "vixen"]}'),
    ],
)
def test_names_of_classes_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    data = class_folder(tmp_path / "data")
    if name == "synsets.txt":
        for split in ("train", "val", "test"):
            (data / split / "red fox").rename(data / split / "red")
    (tmp_path / name).write_text(text)
    classes = read_collection(f"classes:{data}?names={tmp_path / name}").classes
    assert classes is not None and classes.names == ("terrier", "tabby", "vixen")


def table(folder: Path, labels: list[object], header: str = "filename,label") -> Path:
    rows = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    for number in range(len(labels)):
        picture(folder, f"{number}.png", 5 * number)
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]))
    return path


def test_a_table_with_a_column_of_labels(tmp_path: Path) -> None:
    path = table(tmp_path, ["cat", "dog", "", "cat", "dog", "cat"])
    found = read_collection(f"classes:{path}?val=0&test=0")
    pairs = found.pairs("train")
    assert pairs.captions == [f"a photo of a {name}" for name in ("cat", "dog", "cat", "dog", "cat")]
    assert "1 image of no single class left out (2.png)" in pairs.notes
    with pytest.raises(DataError, match="of no single class"):
        found.pairs("train", strict=True)
    table(tmp_path, ["cat", "dog"], "filename,species")
    with pytest.raises(DataError, match=r"no column looks like a class; it has: filename, species.*\?label=COLUMN"):
        read_collection(f"classes:{path}")
    classes = read_collection(f"classes:{path}?label=species&val=0&test=0").classes
    assert classes is not None and classes.names == ("cat", "dog")


def test_numbers_are_no_names(tmp_path: Path) -> None:
    path = table(tmp_path, [10, 2, 2, 10])
    with pytest.raises(DataError, match=r"the classes are called 2, 10, which are numbers.*\?names=FILE"):
        read_collection(f"classes:{path}")
    (tmp_path / "names.json").write_text(json.dumps({"2": "owl", "10": "bee"}))
    found = read_collection(f"classes:{path}?names={tmp_path / 'names.json'}&val=0&test=0").pairs("train")
    assert found.captions == [f"a photo of a {name}" for name in ("bee", "owl", "owl", "bee")]
    (tmp_path / "names.json").write_text(json.dumps({"2": "owl"}))
    with pytest.raises(DataError, match=r"has no name for 1 classes \(10\)"):
        read_collection(f"classes:{path}?names={tmp_path / 'names.json'}")


@pytest.mark.parametrize(
    "labels", [["0.0", "1.0"], [-1, 1], ["n01440764", "n01443537"], ["class_1", "class_2"], ["False", "True"]]
)
def test_ids_are_no_names(tmp_path: Path, labels: list[object]) -> None:
    path = table(tmp_path, labels)
    with pytest.raises(DataError, match=r"which are numbers or ids, and prompts need names.*\?names=FILE"):
        read_collection(f"classes:{path}")
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    classes = read_collection(f"classes:{path}?names={tmp_path / 'names.txt'}&val=0&test=0").classes
    assert classes is not None and classes.names == ("tench", "goldfish") and classes.labels.tolist() == [0, 1]


def test_numbers_in_lines_of_json(tmp_path: Path) -> None:
    table(tmp_path, [0, 1])
    rows = [json.dumps({"file_name": f"{number}.png", "label": number}) for number in range(2)]
    (tmp_path / "labels.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match="the classes are called 0, 1, which are numbers"):
        read_collection(f"classes:{tmp_path / 'labels.jsonl'}")
    (tmp_path / "names.txt").write_text("owl\nbee")
    found = read_collection(f"classes:{tmp_path / 'labels.jsonl'}?names={tmp_path / 'names.txt'}&val=0&test=0")
    assert found.pairs("train").captions == ["a photo of a owl", "a photo of a bee"]


def test_names_that_do_not_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="polish stands for several classes"):
        Classes(("Polish", "polish", "dog"), np.array([0, 1, 2]))
    with pytest.raises(DataError, match="set has no class: every label is empty"):
        Classes((), np.array([]), source="set")
    classes = Classes(("st. bernard", "st bernard"), np.array([0, 1]))
    with pytest.raises(DataError, match=r"a photo of a st bernard stands for several classes.*clean_captions"):
        classes.check_cleaned(clean_caption)
    long = Classes(("cat", "dog"), np.array([0, 1]), (30 * "very " + "large {}",))
    with pytest.raises(DataError, match="clean_captions made them so of 'very very"):
        long.check_cleaned(clean_caption)


def test_a_folder_of_a_class_without_images_is_a_class(tmp_path: Path) -> None:
    class_folder(tmp_path, splits=("train",))
    (tmp_path / "train" / "newt").mkdir()
    (tmp_path / "train" / "newt" / "todo.md").write_text("download them")
    classes = read_collection(f"classes:{tmp_path}?val=0&test=0").pairs("train").classes
    assert classes is not None
    with pytest.raises(DataError, match=r"1 of 4 classes have no training image \(newt\)"):
        classes.check_trained()


def test_a_dataset_of_the_hubs_form(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (8, 8), (9 * number, 0, 0)) for number in range(6)]
    kinds = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["owl", "queen_bee", "newt"])}
    rows = {"img": images, "fine_label": [0, 1, 1, 0, -1, 0]}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    datasets.DatasetDict(train=made, test=made.select([0, 1])).save_to_disk(str(tmp_path / "saved"))
    found = read_collection(f"classes:{tmp_path / 'saved'}?val=0")
    assert found.classes is not None and found.classes.names == ("owl", "queen bee", "newt")
    assert found.classes.labels.tolist() == [0, 1, 1, 0, NONE, 0, 0, 1]
    assert found.pairs("test").captions == ["a photo of a owl", "a photo of a queen bee"]
    trained = found.pairs("train").classes
    assert trained is not None
    with pytest.raises(DataError, match=r"1 of 3 classes have no training image \(newt\)"):
        trained.check_trained()


def test_lists_of_labels_of_the_hubs_form(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (8, 8), (9 * number, 0, 0)) for number in range(4)]
    kinds = {"img": datasets.Image(), "labels": datasets.Sequence(datasets.ClassLabel(names=["owl", "newt"]))}
    rows = {"img": images, "labels": [[0], [0, 1], [], [1]]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).save_to_disk(str(tmp_path / "saved"))
    classes = read_collection(f"classes:{tmp_path / 'saved'}?val=0&test=0").classes
    assert classes is not None and classes.names == ("owl", "newt")
    assert classes.labels.tolist() == [0, NONE, NONE, 1]


def test_what_is_no_class_set_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "cat", f"{number}.png", number)
    with pytest.raises(DataError, match=r"has one class \(cat\); expected two or more"):
        read_collection(f"classes:{tmp_path}")
    with pytest.raises(DataError, match="its images lie side by side"):
        read_collection(f"classes:{tmp_path / 'cat'}")
    with pytest.raises(DataError, match=r"is no class set\. Expected a folder of class folders"):
        read_collection(f"classes:{tmp_path / 'cat' / '0.png'}")
    (tmp_path / "dog").mkdir()
    classes = read_collection(f"classes:{tmp_path}?val=0&test=0").pairs("train").classes
    with pytest.raises(DataError, match=r"1 of 2 classes have no training image \(dog\)"):
        classes.check_trained()  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(DataError, match=r"crane stands for several classes"):
        Classes(("crane", "crane"), np.zeros(1, np.int64), source="x")
    with pytest.raises(ConfigError, match=r"data\.prompts is 'a photo'; expected a template with \{\}"):
        DataConfig(prompts=("a photo",))


def test_labels_are_those_of_images_with_one_known_key() -> None:
    assert labels_of([["a"], ["b", "b"], ["a", "b"], [], ["c"]], ["a", "b"]).tolist() == [0, 1, NONE, NONE, NONE]


def test_digits_are_scikit_learns_and_their_splits_are_stratified() -> None:
    from sklearn.datasets import load_digits

    found = {split: load_pairs("digits", split) for split in ("train", "val", "test")}
    real: Any = load_digits()
    for pairs in found.values():
        assert pairs.classes is not None
        numbers = [int(name.partition("-")[2]) for name in pairs.images.names]
        assert pairs.classes.labels.tolist() == real.target[numbers].tolist()
    labels = [pairs.classes.labels for pairs in found.values() if pairs.classes is not None]
    shares = [np.bincount(own) / np.bincount(real.target) for own in labels]
    assert np.allclose(shares, [[0.6], [0.2], [0.2]], atol=0.01)
    assert sum(pairs.count_images for pairs in found.values()) == 1797
    shown = np.asarray(found["test"].images.read(3).resize((8, 8), Image.Resampling.BOX), float)[..., 0]
    number = int(found["test"].images.names[3].partition("-")[2])
    assert np.corrcoef(shown.ravel(), real.images[number].ravel())[0, 1] > 0.97


def test_scenes_have_class_views() -> None:
    shapes = load_pairs("scenes:classes=shape,train=400,val=8,test=8", "train")
    assert shapes.classes is not None and len(shapes.classes) == 8
    assert np.bincount(shapes.classes.labels).min() > 25
    scene = draw_splits(0, {"train": 1})["train"][0]
    assert shapes.captions[0] == f"a drawing of a {scene.first.shape}"
    colours = read_collection("scenes:classes=colour,seed=3").classes
    assert colours is not None and "red" in colours.names
    one = ClassScenes((scene,))
    assert np.array_equal(np.asarray(one.read(0)), np.asarray(shapes.images.read(0)))
    with pytest.raises(DataError, match="unknown classes 'size'"):
        read_collection("scenes:classes=size")
