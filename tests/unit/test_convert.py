"""Conversion: what is written is read back as the same pairs, bytes and all; sets are exported, lossy ones marked."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.unit.test_format_readers import told

from vldistill.commands.convert import main as convert
from vldistill.convert.export import open_export, write_export
from vldistill.convert.records import Export
from vldistill.convert.writers import WRITERS
from vldistill.data.collection import clean_caption
from vldistill.data.load import find_reader, load_pairs, read_collection
from vldistill.data.pairs import Pairs
from vldistill.data.stores import FileImages, Place
from vldistill.distilled.distilled_set import CORESET, DistilledSet
from vldistill.errors import ArtefactError, ConfigError, DataError
from vldistill.runtime.log import Reporter
from vldistill.storage.files import write_json
from vldistill.training.recipe import Recipe

if TYPE_CHECKING:
    from tests.conftest import KarpathyFolder

FORMATS = sorted(WRITERS)


def front(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


@pytest.mark.parametrize("to", FORMATS)
def test_round_trip_of_a_karpathy_source(karpathy: KarpathyFolder, tmp_path: Path, to: str):
    karpathy.entries[1]["filepath"] = "deep"
    karpathy.entries[2]["sentences"][0]["raw"] = 'two\nlines, "quoted"; Ünicode'
    karpathy.save()
    karpathy.add_photos()
    out = tmp_path / "out"
    assert convert([str(karpathy.folder), "--to", to, "--out", str(out), "--quiet", "--shard", "2"]) == 0
    assert find_reader(out).name == to
    for split in ("train", "val", "test"):
        before, after = load_pairs(karpathy.folder, split), load_pairs(out, split, strict=True)
        assert told(after) == told(before)
        if to != "folder":  # which is read in the order of names
            assert after.fingerprint == before.fingerprint
    assert front(out)["lossy"] is False and front(out)["splits"]["train"] == {"images": 3, "captions": 6}
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


@pytest.mark.parametrize("to", FORMATS)
def test_drawings_become_png_and_keep_every_pixel(tmp_path: Path, to: str):
    out = tmp_path / "out"
    convert(["scenes:train=3,val=1,test=1", "--to", to, "--out", str(out), "--split", "train", "--quiet"])
    before, after = load_pairs("scenes:train=3", "train"), load_pairs(f"{out}?val=0&test=0", "train")
    bare = [Path(name).with_suffix("").name for name in after.images.names]
    assert sorted(bare) == sorted(before.images.names) and read_collection(f"{out}?val=0&test=0").splits_present() == [
        "train"
    ]
    for index, name in enumerate(before.images.names):
        other = after.images.read(bare.index(name))
        assert other.tobytes() == before.images.read(index).tobytes()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--split=train"], ["train"]),
        (["--split", "train"], ["train"]),
        (["--split=val,train"], ["val", "train"]),
        (["--split", "[val, train]"], ["val", "train"]),
        (["--split=[test]"], ["test"]),
        ([], ["train", "val", "test"]),
    ],
)
def test_splits_are_named_in_one_word_or_in_two(tmp_path: Path, words: list[str], wanted: list[str]):
    out = tmp_path / "out"
    convert(["scenes:train=2,val=1,test=1", *words, "--to", "csv", "--out", str(out), "--quiet"])
    assert list(front(out)["splits"]) == wanted


def test_a_split_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--split: unknown split 'trian'\. Did you mean train"):
        convert(["scenes:train=2,val=1,test=1", "--split=trian", "--to", "csv", "--out", str(tmp_path / "out")])


def test_other_libraries_read_what_is_written(karpathy: KarpathyFolder, tmp_path: Path):
    import datasets

    karpathy.add_photos()
    for to in FORMATS:
        write_export(open_export(str(karpathy.folder)), to, tmp_path / to, Reporter(quiet=True))
    saved = datasets.load_from_disk(str(tmp_path / "hf"))
    assert list(saved) == ["train", "validation", "test"]
    assert saved["validation"][0]["captions"] == ["caption 3 a", "caption 3 b"]
    assert np.array_equal(np.asarray(saved["train"][1]["image"]), np.asarray(Image.open(karpathy.folder / "1.jpg")))
    with tarfile.open(tmp_path / "wds" / "train-00000.tar") as archive:
        assert archive.getnames()[:3] == ["000000000.jpg", "000000000.txt", "000000000.json"]
    rows = list(csv.DictReader((tmp_path / "csv" / "pairs.csv").read_text().splitlines()))
    assert rows[-1] == {"filepath": "5.jpg", "title": "caption 5 b", "split": "test"}
    assert (tmp_path / "folder" / "val" / "3.txt").read_text() == "caption 3 a\ncaption 3 b\n"


@pytest.mark.filterwarnings("ignore")  # of webdataset itself
def test_webdataset_reads_our_shards(karpathy: KarpathyFolder, tmp_path: Path):
    from webdataset.compat import WebDataset

    karpathy.add_photos()
    write_export(open_export(str(karpathy.folder), ["train"]), "wds", tmp_path / "w", Reporter(quiet=True), shard=2)
    urls = [str(path) for path in sorted((tmp_path / "w").glob("*.tar"))]
    samples = list(WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["txt"].decode() for sample in samples] == [f"caption {n} a" for n in range(3)]
    assert [sample["jpg"] for sample in samples] == [karpathy.photo(n) for n in range(3)]
    assert json.loads(samples[2]["json"]) == {"captions": ["caption 2 a", "caption 2 b"], "image_name": "2.jpg"}


@pytest.mark.parametrize("to", FORMATS)
def test_names_that_no_file_can_have(tmp_path: Path, to: str):
    """Names come from cells of tables that anyone may have written."""
    names = ("../../evil.jpg", "/etc/passwd", "a" * 300 + ".jpg", "same.jpg", "SAME.png", "plain")
    raws = [_photo(tmp_path / str(n), n) for n in range(len(names))]
    store = FileImages(names, tuple(Place(tmp_path / str(n)) for n in range(len(names))))
    pairs = Pairs("x", "train", store, [f"c{n}" for n in range(len(names))], np.arange(len(names)))
    out = write_export(Export("x", {"train": pairs}), to, tmp_path / "out" / to, Reporter(quiet=True))
    found = load_pairs(f"{out}?val=0&test=0", "train")
    assert sorted(told(found).values()) == sorted((raw, [f"c{n}"]) for n, raw in enumerate(raws))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {to} and not (tmp_path / "evil.jpg").exists()


def _photo(path: Path, seed: int) -> bytes:
    from tests.conftest import photo

    path.write_bytes(photo(seed))
    return path.read_bytes()


@pytest.mark.parametrize("kept", [0.0, 0.7])  # of the bytes: no photo at all, and one that is cut off
def test_broken_photos_are_left_out_or_refused(karpathy: KarpathyFolder, tmp_path: Path, capsys: Any, kept: float):
    karpathy.add_photos()
    whole = (karpathy.folder / "1.jpg").read_bytes()
    (karpathy.folder / "1.jpg").write_bytes(whole[: int(kept * len(whole))] or b"no photo")
    convert([str(karpathy.folder), "--to", "wds", "--out", str(tmp_path / "w")])
    assert "1 image left out: image 1.jpg is not a readable image" in capsys.readouterr().err
    assert "image 1.jpg is not a readable image" in (tmp_path / "w" / "README.md").read_text()
    assert list(load_pairs(tmp_path / "w", "train").images.names) == ["0.jpg", "2.jpg"]
    with pytest.raises(DataError, match=r"1\.jpg is not a readable image"):
        convert([str(karpathy.folder), "--to", "wds", "--out", str(tmp_path / "v"), "--strict", "--quiet"])
    assert not (tmp_path / "v").exists() and not list(tmp_path.glob(".v*"))


def test_what_a_killed_conversion_left_is_removed_by_the_next(karpathy: KarpathyFolder, tmp_path: Path):
    karpathy.add_photos()
    (tmp_path / ".w.12345.tmp").mkdir()
    (tmp_path / ".w.12345.tmp" / "train-00000.tar").write_bytes(b"half")
    (tmp_path / ".w.csv.12345.tmp").mkdir()  # of another conversion, which may be running
    convert([str(karpathy.folder), "--to", "wds", "--out", str(tmp_path / "w"), "--quiet"])
    assert (tmp_path / "w" / "README.md").exists()
    assert [path.name for path in tmp_path.glob(".w*")] == [".w.csv.12345.tmp"]


@pytest.mark.parametrize("to", FORMATS)
def test_splits_may_have_images_of_the_same_name(karpathy: KarpathyFolder, tmp_path: Path, to: str):
    for split, numbers in (("train", (0, 1)), ("val", (1,)), ("test", (0,))):
        (tmp_path / "in" / split).mkdir(parents=True)
        for number in numbers:
            (tmp_path / "in" / split / f"{number}.jpg").write_bytes(karpathy.photo(number + len(split)))
            (tmp_path / "in" / split / f"{number}.txt").write_text(f"{split} {number}\n")
    convert([str(tmp_path / "in"), "--to", to, "--out", str(tmp_path / "out"), "--quiet"])
    for split in ("train", "val", "test"):
        before, after = load_pairs(tmp_path / "in", split), load_pairs(tmp_path / "out", split, strict=True)
        assert after.captions == before.captions
        assert [after.images.encoded(i) for i in range(len(after.images))] == [
            before.images.encoded(i) for i in range(len(before.images))
        ]


def test_photos_over_the_limits_are_left_out_unless_they_are_raised(karpathy: KarpathyFolder, tmp_path: Path):
    karpathy.add_photos()  # 40 x 30 pixels
    words = [str(karpathy.folder), "--to", "csv", "--quiet", "--max_pixels"]
    convert([*words, "1200", "--out", str(tmp_path / "all")])
    with pytest.raises(DataError, match="more than 1,199 pixels"):
        convert([*words, "1199", "--out", str(tmp_path / "none"), "--strict"])
    assert len(load_pairs(tmp_path / "all", "train").images) == 3 and not (tmp_path / "none").exists()


def test_mistakes_are_refused(karpathy: KarpathyFolder, tmp_path: Path):
    karpathy.add_photos()
    source, out = str(karpathy.folder), str(tmp_path / "w")
    for words, message in (
        (["--to", "zip", "--out", out], "unknown format 'zip'"),
        (["--to", "wds", "--out", str(tmp_path)], "exists already"),
        (["--to", "wds", "--out", out, "--split", "dev"], "unknown split 'dev'"),
        (["--to", "wds", "--out", out, "--shard", "0"], "expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert([source, *words])
    with pytest.raises(DataError, match="has no split test"):
        karpathy.save(karpathy.entries[:5])
        open_export(source, ["test"])


# Sets


def tiny_set(captions: tuple[dict[str, Any], ...], **more: Any) -> DistilledSet:
    draw = torch.Generator().manual_seed(0)
    image = {"name": "convnet", "width": 4, "fingerprint": "i", "size": 6, "mean": [0.5] * 3, "std": [0.25] * 3}
    values = {
        "images": torch.randn(3, 3, 6, 6, generator=draw),
        "texts": torch.randn(3, 5, generator=draw),
        "recipe": Recipe(),
        "towers": {"image": image, "text": {"name": "hashing", "width": 5, "fingerprint": "t"}},
        "setting": "heads",
        "captions": captions,
        "info": {"name": "mine-3-s0", "method": "mine", "seed": 0},
    }
    return DistilledSet(**(values | more))


CAPTIONS = tuple({"start": "s", "nearest": f"near {n}"} for n in range(3))


@pytest.mark.parametrize("to", FORMATS)
def test_a_distilled_set_is_exported_and_marked_as_lossy(tmp_path: Path, to: str):
    distilled = tiny_set(CAPTIONS)
    distilled.save(tmp_path / "set")
    out = tmp_path / "out"
    convert([str(tmp_path / "set"), "--to", to, "--out", str(out), "--quiet"])
    pairs = load_pairs(f"{out}?val=0&test=0", "train")
    assert pairs.captions == ["near 0", "near 1", "near 2"]
    pixels = (distilled.pixels() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(np.asarray(pairs.images.read(index)), pixels[index]) for index in range(3))
    assert front(out)["lossy"] is True and "nearest" in front(out)["why_lossy"]
    assert front(out)["set"]["method"] == "mine" and "**This is a lossy export.**" in (out / "README.md").read_text()


def test_sets_that_cannot_be_exported(tmp_path: Path):
    tiny_set(()).save(tmp_path / "bare")
    with pytest.raises(ArtefactError, match="has no real captions nearest"):
        open_export(str(tmp_path / "bare"))
    tiny_set(CAPTIONS, images=torch.zeros(3, 4), space="features").save(tmp_path / "features")
    with pytest.raises(ArtefactError, match="has no images to export"):
        open_export(str(tmp_path / "features"))


def test_several_captions_of_a_distilled_image(tmp_path: Path):
    told = [f"{animal} / {n}" for n in range(3) for animal in ("cat", "dog")]
    captions = tuple({"start": ["s", "t"], "nearest": told[2 * n : 2 * n + 2]} for n in range(3))
    tiny_set(captions, texts=torch.zeros(3, 2, 5)).save(tmp_path / "set")
    export = open_export(str(tmp_path / "set"))
    pairs = export.splits["train"]
    assert pairs.captions == told and pairs.caption_image.tolist() == [0, 0, 1, 1, 2, 2] and not export.notes


def test_captions_that_older_sets_hold_in_one_line_are_parted_where_that_is_certain(tmp_path: Path):
    lines = ["one 0 / two 0", "cat / dog 1 / two 1", "one 2 / two 2"]
    tiny_set(tuple({"nearest": line} for line in lines), texts=torch.zeros(3, 2, 5)).save(tmp_path / "set")
    export = open_export(str(tmp_path / "set"))
    pairs = export.splits["train"]
    assert pairs.captions == ["one 0", "two 0", "cat / dog 1 / two 1", "one 2", "two 2"]
    assert pairs.caption_image.tolist() == [0, 0, 1, 2, 2]
    assert "the 2 captions of 1 image are left as one" in export.notes[0]


def test_one_caption_of_a_distilled_image_is_never_parted(tmp_path: Path):
    tiny_set(tuple({"nearest": f"cat / dog {n}"} for n in range(3))).save(tmp_path / "set")
    assert open_export(str(tmp_path / "set")).splits["train"].captions == ["cat / dog 0", "cat / dog 1", "cat / dog 2"]


@pytest.mark.parametrize("to", FORMATS)
def test_a_coreset_is_exported_with_the_photos_of_its_source(karpathy: KarpathyFolder, tmp_path: Path, to: str):
    karpathy.add_photos()
    info = {"name": "herding-2-s0", "kind": CORESET, "method": "herding", "source": str(karpathy.folder)}
    tiny_set(CAPTIONS, info=info).save(tmp_path / "set")
    chosen = [{"image": "2.jpg", "caption": "caption 2 b"}, {"image": "0.jpg", "caption": "caption 0 a"}]
    write_json(tmp_path / "set" / "pairs.json", {"pairs": chosen})
    out = tmp_path / "out"
    convert([str(tmp_path / "set"), "--to", to, "--out", str(out), "--quiet"])
    assert told(load_pairs(f"{out}?val=0&test=0", "train")) == {
        "2.jpg": (karpathy.photo(2), ["caption 2 b"]), "0.jpg": (karpathy.photo(0), ["caption 0 a"]),
    }  # fmt: skip
    assert front(out)["lossy"] is False and front(out)["set"]["method"] == "herding"
    with pytest.raises(DataError, match=r"is not in .*--from SOURCE"):
        open_export(str(tmp_path / "set"), origin="scenes:train=3,val=1,test=1")


def test_a_coreset_of_cleaned_captions_is_exported_as_it_was_chosen(karpathy: KarpathyFolder, tmp_path: Path):
    karpathy.add_photos()
    karpathy.save([{**item, "sentences": [{"raw": f"A Dog, {n}!"}]} for n, item in enumerate(karpathy.entries)])
    info = {"name": "herding-2-s0", "kind": CORESET, "method": "herding", "source": str(karpathy.folder)}
    tiny_set(CAPTIONS, info=info).save(tmp_path / "set")
    cleaned = load_pairs(karpathy.folder, "train").captions
    chosen = [{"image": f"{n}.jpg", "caption": clean_caption(cleaned[n])} for n in (2, 0)]
    write_json(tmp_path / "set" / "pairs.json", {"pairs": chosen})
    assert open_export(str(tmp_path / "set")).splits["train"].captions == ["a dog, 2", "a dog, 0"]
