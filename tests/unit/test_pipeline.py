"""What comes before a selector: conditions, filters, deduplication, lists, quotas, ids, weights."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vldistill.config import DataConfig, SelectConfig
from vldistill.data.sketches import BITS, LEVELS
from vldistill.data.weights import some_captions, weighed
from vldistill.distillation.pair_weights import right_ones, write_weights
from vldistill.distillation.selectors.learned import Products, carrying, weighed_infonce
from vldistill.distillation.selectors.match import assigned
from vldistill.errors import ConfigError, MissingExtraError
from vldistill.selection.choose import choose_nested, choose_pairs
from vldistill.selection.columns import SideTable, matched
from vldistill.selection.condition import Condition
from vldistill.selection.coreset import choose_coreset
from vldistill.selection.duplicate import KEPT, first_of_equal
from vldistill.selection.duplicates.embedding import Rows, near_features
from vldistill.selection.duplicates.near import Thumbnails, near_hashes
from vldistill.selection.duplicates.semantic import near_in_clusters
from vldistill.selection.features import PairFeatures
from vldistill.selection.ids import uid_array
from vldistill.selection.pipeline import check_pipeline, prepare
from vldistill.selection.quotas import groups_of
from vldistill.training.data import TrainingData
from vldistill.training.losses import infonce
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

VALUES = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a>=3", [3, 4, 5]), ("a>3", [4, 5]), ("a<=2", [1, 2]), ("a<2", [1]), ("a=2..4", [2, 3, 4]), ("a=..2", [1, 2]),
        ("a=4..", [4, 5]), ("a==3", [3]), ("a!=3", [1, 2, 4, 5]), ("a=top40%", [4, 5]), ("a=bottom40%", [1, 2]),
        ("a=top100%", [1, 2, 3, 4, 5]), ("a>=p50", [3, 4, 5]), (" a >= -1.5 ", [1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_conditions_keep_what_they_say(text: str, kept: list[float]) -> None:
    assert VALUES[Condition.parse(text).holds(VALUES)].tolist() == kept


def test_conditions_on_texts() -> None:
    values = np.array(["en", "de", "fr"], object)
    assert Condition.parse("language=en+fr").holds_for_texts(values).tolist() == [True, False, True]
    assert Condition.parse("language!=en").holds_for_texts(values).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filters": ("words",)}, "expected NAME, a sign and a value"),
        ({"filters": ("wrods>=3",)}, "unknown filter 'wrods'. Did you mean words.*select.columns"),
        ({"filters": ("words>=three",)}, "compares with 'three'; expected a number"),
        ({"filters": ("words=5..3",)}, "runs from 5 to 3"),
        ({"filters": ("words=..",)}, "expected an end"),
        ({"filters": ("words=top0%",)}, r"expected a share in \(0, 100\]"),
        ({"filters": ("words>=p101",)}, "from p0 to p100"),
        ({"filters": ("language>=en",)}, "expected = or !="),
        ({"preset": "datacomp"}, "Did you mean datacomp_basic"),
        ({"deduplicate": ("nearly",)}, "Did you mean near"),
        ({"deduplicate": ("near=200",)}, "near takes a number from 0 to 15"),
        ({"deduplicate": ("exact=1",)}, "exact takes no threshold"),
        ({"deduplicate": ("embedding=x",)}, "from -1 to 1"),
        ({"quotas": ("a=3",)}, "name it by select.quota_by"),
        ({"quota_by": "class", "quotas": ("a=3.5",)}, "expected VALUE=COUNT or VALUE=SHARE%"),
        ({"quota_by": "class", "quotas": ("a=60%", "b=60%"), "pairs": 10}, "ask for 12 pairs together"),
        ({"quota_by": "class", "quotas": ("a=1", "a=2")}, "names 'a' twice"),
        ({"quota_by": "class", "quotas": ("a=3",), "budgets": (4,)}, "give shares"),
    ],
)
def test_what_cannot_be_is_refused_before_data_are_read(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_pipeline(SelectConfig(**options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budgets": (100,)}, "select.budgets is 100; expected 2 pairs to 99"),
        ({"budgets": (5, 5)}, "each number once"),
        ({"across": ("train",)}, "unknown select.across 'train'"),
        ({"ids": ("xls",)}, "unknown select.ids 'xls'"),
        ({"learn_cap": 1.0}, "select.learn_cap is 1.0"),
    ],
)
def test_impossible_options_of_the_pipeline(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SelectConfig(**options)


# --- duplicates against brute force -------------------------------------------------------------------------------


def greedy(near: np.ndarray) -> np.ndarray:
    """Who is dropped for whom, by the definition: the first kept item that one is near to, or any."""
    owner = np.full(len(near), KEPT)
    for row in range(len(near)):
        earlier = [other for other in range(row) if near[row, other] and owner[other] == KEPT]
        if earlier:
            owner[row] = earlier[0]
    return owner


@pytest.mark.parametrize("bits", [0, 3, BITS, 15])
def test_near_hashes_are_found_as_by_comparing_all(bits: int) -> None:
    draw = np.random.default_rng(bits)
    hashes = draw.integers(0, 256, (60, 16), np.uint8)
    hashes[20:40] = hashes[:20]
    for row in range(20, 40):  # up to a dozen bits away
        for bit in draw.choice(128, draw.integers(0, 13), replace=False):
            hashes[row, bit // 8] ^= np.uint8(1 << (bit % 8))
    thumbnails = np.zeros((60, 256), np.uint8)
    thumbnails[30:32] = 200  # these look different
    hashes[50:55] = 7
    differing = np.bitwise_count(hashes[:, None] ^ hashes).sum(2)
    gaps = np.abs(thumbnails[:, None].astype(int) - thumbnails).mean(2)
    expected = greedy((differing <= bits) & (gaps <= LEVELS))
    parts = [(thumbnails[:25], np.arange(25)), (thumbnails[25:], np.arange(35))]
    found = near_hashes(hashes, Thumbnails(parts), bits)
    assert np.array_equal(found == KEPT, expected == KEPT)
    dropped = np.flatnonzero(found != KEPT)
    assert (differing[dropped, found[dropped]] <= 2 * bits).all() and (found[found[dropped]] == KEPT).all()


def test_near_features_are_found_as_by_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(90, 3, generator=draw), dim=1)
    expected = greedy((features @ features.T).numpy() >= 0.95)
    assert np.array_equal(near_features(features, 0.95) == KEPT, expected == KEPT)
    monkeypatch.setattr("vldistill.selection.duplicates.embedding.BLOCK", 7)
    found = near_features(features, 0.95)
    assert np.array_equal(found == KEPT, expected == KEPT) and (expected != KEPT).sum() > 20
    rows = Rows([(features[:40].__getitem__, np.arange(40)), (features.__getitem__, np.arange(40, 90))])
    clusters = near_in_clusters(rows, 0.95, 50, 0)
    assert 0 < (clusters != KEPT).sum() <= (expected != KEPT).sum()
    assert np.array_equal(clusters, near_in_clusters(rows, 0.95, 50, 0))


def test_equal_keys_keep_their_first() -> None:
    keys = np.frombuffer(b"".join(letter * 16 for letter in (b"b", b"a", b"b", b"a", b"c")), np.uint8).reshape(-1, 16)
    assert first_of_equal(keys).tolist() == [KEPT, KEPT, 0, 1, KEPT]


# --- the pipeline on drawn scenes ---------------------------------------------------------------------------------


def test_steps_add_up_and_quotas_and_lists_hold(bench: Workbench, tmp_path: Path) -> None:
    pairs = bench.pixels("train").pairs
    names = pairs.images.names
    with (tmp_path / "about.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image", "place", "sharp", "uid"])
        rows.writerows([name, "city" if at % 4 else "sea", at / 40, f"{at:032x}"] for at, name in enumerate(names))
    (tmp_path / "in.txt").write_text(f"{names[1]}\n{names[2]}\n")
    (tmp_path / "out.json").write_text(json.dumps([names[5]]))
    options = SelectConfig(
        method="random", pairs=10, columns=str(tmp_path / "about.csv"), filters=("words>=3", "sharp>=0.1"),
        deduplicate=("exact", "near", "embedding", "semantic", "caption"), include=str(tmp_path / "in.txt"),
        exclude=str(tmp_path / "out.json"), quota_by="place", quotas=("sea=30%",), ids=("csv", "npy", "wds"),
        budgets=(5,),
    )  # fmt: skip
    coreset = choose_coreset(bench, options)
    images = [row.image_row for row in coreset.rows]
    assert len(set(images)) == 10 and {1, 2} <= set(images) and 5 not in images
    assert all(image / 40 >= 0.1 for image in images if image not in (1, 2))
    assert sum(image % 4 == 0 for image in images) == 3
    counts = [(step.seen, step.kept) for step in coreset.steps]
    assert all(kept == seen for (_, kept), (seen, _) in itertools.pairwise(counts))
    assert all(step.examples for step in coreset.steps if step.dropped)
    coreset.save(tmp_path / "set", options.ids)
    assert json.loads((tmp_path / "set" / "pairs.json").read_text())["steps"][1]["name"] == "words>=3"
    uids = np.load(tmp_path / "set" / "ids.npy")
    assert uids.dtype == np.dtype("u8,u8") and np.array_equal(uids, np.sort(uids)) and len(uids) == 10
    assert sorted(int(uid[1]) for uid in uids) == sorted(images)
    assert len((tmp_path / "set" / "keys.txt").read_text().split()) == 10
    assert coreset.first(5, "five").rows == coreset.rows[:5] and len(coreset.first(5, "five").pairs) == 5


def test_photos_of_other_splits_are_left_out(bench: Workbench) -> None:
    plain = prepare(bench, SelectConfig(deduplicate=("embedding=-1",), across=()))
    assert len({*bench.pixels("train").pairs.caption_image[plain.rows].tolist()}) == 1
    with pytest.raises(ConfigError, match="filters and deduplication leave 1 images"):
        choose_pairs(bench, "random", 5, 0, SelectConfig(deduplicate=("embedding=-1",), across=()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filters": ("words>=99",)}, "keeps none of 200 pairs: values run from .* Loosen it"),
        ({"filters": ("tower_score>=0",)}, "both sides of one CLIP model.*Use score"),
        ({"quota_by": "place"}, "select.columns names no file"),
        ({"include": "nowhere.txt"}, "select.include nowhere.txt cannot be read"),
        ({"columns": "nowhere.csv", "filters": ("a>1",)}, "select.columns nowhere.csv does not exist"),
    ],
)
def test_what_the_data_do_not_have_is_refused(bench: Workbench, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare(bench, SelectConfig(**options))


def test_names_that_do_not_exist_are_told(bench: Workbench, tmp_path: Path) -> None:
    name = bench.pixels("train").pairs.images.names[0]
    (tmp_path / "list.txt").write_text(f"{name}\n{name}x\n")
    with pytest.raises(ConfigError, match=f"names 1 of 2 images.*Did you mean {name}"):
        prepare(bench, SelectConfig(exclude=str(tmp_path / "list.txt")))
    with pytest.raises((ConfigError, MissingExtraError)):
        prepare(bench, SelectConfig(preset="datacomp_basic"))


def test_names_match_without_folders_and_endings() -> None:
    assert matched(["b", "a.jpg", "x/c.png", "d"], ["p/a.jpg", "q/b.jpg", "c.png"]).tolist() == [1, 0, 2, -1]
    assert matched(["a"], ["p/a.jpg", "q/a.png"]).tolist() == [-1], "not unique"


def test_a_table_that_is_about_other_images(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,n\nz.jpg,1\n")
    with pytest.raises(ConfigError, match="no row is about an image"):
        SideTable.read(tmp_path / "a.csv", ["a.jpg"])
    (tmp_path / "b.csv").write_text("photo,n\na.jpg,1\n")
    with pytest.raises(ConfigError, match="expected one of image"):
        SideTable.read(tmp_path / "b.csv", ["a.jpg"])


def test_quotas_that_cannot_be_met_are_refused() -> None:
    values = np.array(["a"] * 3 + ["b"] * 5, object)
    usable = np.ones(8, bool)
    assert [(g.name, g.count) for g in groups_of(values, usable, "c", ("a=2",), 6)] == [("a", 2), ("", 4)]
    assert [(g.name, g.count) for g in groups_of(values, usable, "c", (), 7)] == [("a", 3), ("b", 4)]
    for quotas, pairs, said in (
        (("a=4",), 6, "asks for 4 pairs with c a, but 3 images have it"),
        (("z=1",), 6, "unknown value of column c 'z'"),
        (("a=1",), 8, "leave 7 of 8 pairs to other values of c, which have 5"),
    ):
        with pytest.raises(ConfigError, match=said):
            groups_of(values, usable, "c", quotas, pairs)


def test_the_first_of_nested_random_pairs_are_those_of_the_budget(bench: Workbench) -> None:
    _, captions = choose_nested(bench, "random", (4, 9), 3, SelectConfig())
    assert torch.equal(captions[:4], choose_pairs(bench, "random", 4, 3)[1])


def test_uids_are_sorted_halves() -> None:
    found = uid_array(["f" * 32, "0" * 31 + "1", "0" * 31 + "1"])
    assert found.tolist() == [(0, 1), (2**64 - 1, 2**64 - 1)]


# --- learned, match, weights --------------------------------------------------------------------------------------


def made_data(images: int = 30, captions: int = 2) -> TrainingData:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(images, 8, generator=draw)
    y = x.repeat_interleave(captions, 0)[:, :5] + 0.5 * torch.randn(images * captions, 5, generator=draw)
    return TrainingData(TensorInputs(x), TensorInputs(y), torch.arange(images).repeat_interleave(captions))


def test_pairs_are_taken_by_the_cosine_of_their_products_with_the_canonical_map() -> None:
    data = made_data()
    own = list(np.arange(60).reshape(30, 2))
    found = Products(data)
    phi = torch.einsum("mi,mj->mij", found.images[data.caption_image], found.texts).flatten(1)
    assert torch.allclose(found.column(7), phi @ phi[7], rtol=1e-3, atol=1e-3)
    total, taken, expected = torch.zeros(phi.shape[1]), set[int](), list[int]()
    for _ in range(6):
        cosine = (total @ phi.T * 0 + found.aims + sum(found.aims[row] for row in expected)) / (total + phi).norm(dim=1)
        best = next(row for row in cosine.argsort(descending=True).tolist() if row // 2 not in taken)
        expected.append(best)
        taken.add(best // 2)
        total = total + phi[best]
    assert carrying(data, own, 6).tolist() == expected


def test_a_weight_counts_as_copies_that_are_no_negatives_of_each_other() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(weighed_infonce(logits, torch.ones(4)), infonce(logits))
    copies = torch.tensor([0, 1, 1, 1, 2, 3])
    equal = (copies[:, None] == copies) & ~torch.eye(6, dtype=torch.bool)
    expected = infonce(logits[copies][:, copies], equal)
    assert torch.allclose(weighed_infonce(logits, torch.tensor([1.0, 3.0, 1.0, 1.0])), expected)


def test_real_pairs_are_assigned_one_to_one_with_the_smallest_sum() -> None:
    from scipy.optimize import linear_sum_assignment

    draw = torch.Generator().manual_seed(0)
    features = PairFeatures(
        torch.randn(12, 3, generator=draw), torch.randn(24, 3, generator=draw), torch.arange(24) // 2
    )
    wanted = torch.randn(12, 6, generator=draw)
    rows = assigned(features, wanted)
    assert sorted((rows // 2).tolist()) == list(range(12))
    cost = torch.cdist(wanted, features.joined(torch.arange(24))).square().view(12, 12, 2).amin(2)
    first, second = linear_sum_assignment(cost.numpy())
    chosen = torch.cdist(wanted, features.joined(rows)).square().diagonal().sum()
    assert torch.isclose(chosen, cost[first, second].sum(), rtol=1e-4)


def test_losses_of_two_kinds_are_told_apart() -> None:
    draw = np.random.default_rng(0)
    losses = np.concatenate([draw.normal(2, 0.7, 400), draw.normal(7, 1.5, 100)])
    weights = right_ones(losses)
    assert (weights[:400] > 0.3).mean() > 0.95 and (weights[400:] < 0.3).mean() > 0.85 and weights.max() <= 1


def test_captions_of_small_weights_are_left_out_and_counted(bench: Workbench, tmp_path: Path) -> None:
    pairs = bench.pixels("train").pairs
    weights = np.ones(pairs.count_captions)
    weights[:7] = 0.1  # all five captions of the first image, two of the second
    write_weights(bench, weights, tmp_path / "weights.csv")
    left = weighed(pairs, tmp_path / "weights.csv", 0.3)
    assert left.count_captions == pairs.count_captions - 7 and left.count_images == pairs.count_images - 1
    assert left.captions == pairs.captions[7:] and left.accounts[-1].left_out["weight below 0.3"].count == 7
    assert left.fingerprint == some_captions(pairs, np.arange(7, pairs.count_captions)).fingerprint
    config = DataConfig(bench.data_config.source, cache=bench.data_config.cache, weights=str(tmp_path / "weights.csv"))
    again = Workbench(config, bench.encoder_config, bench.device, bench.reporter)
    assert again.pairs("train").captions == left.captions and again.pairs("val").captions == bench.pairs("val").captions
    (tmp_path / "bad.csv").write_text(f"image,caption,weight\n{pairs.images.names[0]},{pairs.captions[0]},-1\n")
    for path, least, said in (
        ("weights.csv", 2.0, "no caption is left. Lower it"),
        ("bad.csv", 0.3, "is '-1'; expected a number of 0 or more"),
        ("none.csv", 0.3, "does not exist"),
    ):
        with pytest.raises(ConfigError, match=said):
            weighed(pairs, tmp_path / path, least)
