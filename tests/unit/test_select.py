"""Selectors against brute force on a few pairs, in float64 and without the shortcuts of the real ones."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from tiny import Recorder, make_bench

from vldistill.config import EvaluateConfig, SelectConfig
from vldistill.config.plain import section
from vldistill.data.transforms import to_float
from vldistill.distillation.start import make_start
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import ConfigError, DivergedError, Stopped
from vldistill.evaluation.protocol import evaluate_set
from vldistill.evaluation.subjects import check_target, subject
from vldistill.runtime.micro_batches import ComputeOptions
from vldistill.selection import warmup as warming
from vldistill.selection.choose import _TrainingCandidates, choose_pairs
from vldistill.selection.coreset import choose_coreset
from vldistill.selection.features import PairFeatures, first_of_each_image
from vldistill.selection.selector import SELECTORS, WARMUP, Candidates, register
from vldistill.selection.selectors import facility as facility_location
from vldistill.selection.warmup import count_forgotten, found, galleries
from vldistill.workbench.bench import Workbench

OPTIONS = SelectConfig(warmup_epochs=4)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several steps and galleries on forty scenes."""
    monkeypatch.setattr(warming, "STEP", 32)
    monkeypatch.setattr(warming, "GALLERY", 16)


QUICK = EvaluateConfig(
    generic="generic-v1", seeds=2, generic_epochs=2, subset_epochs=(2,), full_epochs=(1,), head_rates=(0.1,)
)
NAMES = ["facility", "forgetting", "herding", "kcenter", "kmeans", "learned", "match", "random", "similarity"]
OF_FEATURES = [name for name in NAMES if name not in ("learned", "match")]
"""Those that need nothing but unit features; the others are tried on a workbench, in tests/contract."""


@dataclass
class Made:
    """Candidates with made features."""

    caption_image: torch.Tensor
    image_captions: list[np.ndarray]
    towers: PairFeatures
    student: PairFeatures
    forgotten: torch.Tensor
    labels: np.ndarray | None = None


def made(seed: int, images: int = 23, width: int = 6, dtype: torch.dtype = torch.float32) -> Made:
    """Images with one to four captions that lean to them, in no order."""
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 5, (images,), generator=draw)
    owner = torch.arange(images).repeat_interleave(counts)
    owner = owner[torch.randperm(len(owner), generator=draw)]

    def features(text_width: int) -> PairFeatures:
        u = torch.randn(images, width, generator=draw) + 0.3
        t = torch.randn(len(owner), text_width, generator=draw)
        t[:, : min(width, text_width)] += u[owner][:, : min(width, text_width)]
        unit = [torch.nn.functional.normalize(side, dim=1).to(dtype) for side in (u, t)]
        return PairFeatures(unit[0], unit[1], owner)

    own = [np.flatnonzero(owner.numpy() == image) for image in range(images)]
    return Made(owner, own, features(width + 3), features(width), torch.randint(0, 3, (len(owner),), generator=draw))


def chosen(name: str, candidates: Made, count: int, seed: int = 0, **options: Any) -> list[int]:
    rows = SELECTORS.find(name).choose(cast(Candidates, candidates), count, seed, replace(SelectConfig(), **options))
    assert rows.dtype == torch.int64 and len(rows) == count
    return rows.tolist()


def joined(features: PairFeatures) -> np.ndarray:
    """Every pair's joined vector in float64."""
    images, texts = features.images.double().numpy(), features.texts.double().numpy()
    return np.concatenate([images[features.caption_image.numpy()], texts], axis=1)


def free(candidates: Made, picked: list[int]) -> list[int]:
    """Rows of images that are not taken."""
    owner = candidates.caption_image.tolist()
    taken = {owner[row] for row in picked}
    return [row for row in range(len(owner)) if owner[row] not in taken]


# --- each selector against brute force ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_herding_follows_the_mean(seed: int) -> None:
    candidates = made(seed)
    x = joined(candidates.student)
    expected: list[int] = []
    for _ in range(23):
        expected.append(
            min(free(candidates, expected), key=lambda r: np.linalg.norm(x.mean(0) - x[[*expected, r]].mean(0)))
        )
    assert chosen("herding", candidates, 23) == expected


@pytest.mark.parametrize("seed", range(4))
def test_kcenter_takes_the_farthest(seed: int) -> None:
    candidates = made(seed)
    features = candidates.student
    z = (features.images[features.caption_image].double() + features.texts.double()).numpy()
    expected = [int(np.linalg.norm(z - z.mean(0), axis=1).argmin())]
    while len(expected) < 23:
        expected.append(
            max(free(candidates, expected), key=lambda r: min(np.linalg.norm(z[r] - z[c]) for c in expected))
        )
    assert chosen("kcenter", candidates, 23) == expected


@pytest.mark.parametrize("seed", range(4))
def test_similarity_keeps_the_best_agreeing_pairs(seed: int) -> None:
    candidates = made(seed)
    features = candidates.student
    cosine = (features.images[features.caption_image].double() * features.texts.double()).sum(1).tolist()
    expected: list[int] = []
    while len(expected) < 15:
        expected.append(max(free(candidates, expected), key=lambda row: cosine[row]))
    assert chosen("similarity", candidates, 15) == expected


@pytest.mark.parametrize("seed", range(4))
def test_facility_is_the_plain_greedy_choice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facility_location, "BLOCK", 7)
    monkeypatch.setattr(facility_location, "REFRESH", 2)
    candidates = made(seed, images=40, dtype=torch.float16)
    found = chosen("facility", candidates, 12, seed, ground_set=30)
    ground = chosen("random", candidates, 30, seed)
    x = joined(candidates.student)[ground]
    likeness = (x @ x.T / 2).astype(np.float16).astype(np.float64)
    picked: list[int] = []
    for _ in range(12):
        values = [likeness[[*picked, row]].max(0).sum() if row not in picked else -np.inf for row in range(30)]
        best = int(np.argmax(values))
        if ground[best] != found[len(picked)]:  # float32 sums may part a tie: the value decides then
            best = ground.index(found[len(picked)])
            assert values[best] == pytest.approx(max(values), abs=1e-4)
        picked.append(best)
    assert set(found) <= set(ground) and len(set(found)) == 12


@pytest.mark.parametrize("refresh", [2, 32])
def test_facility_ends_where_all_gains_are_the_same(refresh: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    real = facility_location._gains

    def counted(rows: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
        rounds.append(len(rows))
        assert len(rounds) < 5_000, "goes round in circles"
        return real(rows, covered)

    monkeypatch.setattr(facility_location, "REFRESH", refresh)
    monkeypatch.setattr(facility_location, "_gains", counted)
    groups = torch.eye(3).repeat_interleave(100, 0)  # a hundred copies of each of three pairs
    found = facility_location.lazy_greedy(groups @ groups.T, 40)
    assert len(set(found.tolist())) == 40 and {row // 100 for row in found[:3].tolist()} == {0, 1, 2}


def test_facility_refreshes_fewer_gains_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    real = facility_location._gains
    monkeypatch.setattr(facility_location, "REFRESH", 4)
    monkeypatch.setattr(facility_location, "_gains", lambda rows, c: (computed.append(len(rows)), real(rows, c))[1])
    draw = torch.Generator().manual_seed(0)
    centre = torch.randn(12, 8, generator=draw).repeat_interleave(20, 0)
    x = torch.nn.functional.normalize(centre + 0.2 * torch.randn(240, 8, generator=draw), dim=1)
    picks = facility_location.lazy_greedy((x @ x.T).half(), 12)
    assert sorted((picks // 20).tolist()) == list(range(12))  # one of each cluster
    assert sum(computed) < 0.5 * 12 * 240


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_takes_the_nearest_pair_of_each_centre(seed: int) -> None:
    candidates = made(seed, images=30)
    x = joined(candidates.towers)
    centres = MiniBatchKMeans(25, random_state=seed, batch_size=4096, n_init="auto").fit(x.astype(np.float32))
    expected: list[int] = []
    for centre in centres.cluster_centers_:
        expected.append(min(free(candidates, expected), key=lambda row: ((x[row] - centre) ** 2).sum()))
    assert chosen("kmeans", candidates, 25, seed) == expected


def test_kmeans_looks_on_when_a_shortlist_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from vldistill.selection.selectors import kmeans

    candidates = made(1, images=30)
    wide = chosen("kmeans", candidates, 29, 1)
    monkeypatch.setattr(kmeans, "SHORTLIST", 1)
    monkeypatch.setattr(kmeans, "PAIRS_AT_ONCE", 10)
    assert chosen("kmeans", candidates, 29, 1) == wide


def test_kmeans_fits_its_centres_to_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []
    real = MiniBatchKMeans.fit
    monkeypatch.setattr(MiniBatchKMeans, "fit", lambda self, x: (fitted.append(len(x)), real(self, x))[1])
    candidates = made(0, images=30)
    first, other = (chosen("kmeans", candidates, 10, seed, cluster_sample=20) for seed in (0, 1))
    assert fitted == [20, 20] and first != other


def test_forgetting_takes_the_most_forgotten_and_draws_among_equals() -> None:
    candidates = made(3)
    counts, owner = candidates.forgotten.tolist(), candidates.caption_image.tolist()
    most = [max(counts[row] for row in own) for own in candidates.image_captions]
    drawn = [chosen("forgetting", candidates, 12, seed) for seed in range(20)]
    for rows in drawn:
        assert sorted((counts[row] for row in rows), reverse=True) == sorted(most, reverse=True)[:12]
        assert [counts[row] for row in rows] == sorted((counts[row] for row in rows), reverse=True)
    assert len({tuple(rows) for rows in drawn}) > 10
    last = {owner[row] for rows in drawn for row in rows[-3:]}
    assert len(last) > 5  # not the same ones each time


@pytest.mark.parametrize("name", OF_FEATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_images_are_distinct_up_to_all_of_them(name: str, dtype: torch.dtype) -> None:
    candidates = made(5, images=17, dtype=dtype)
    for count in (2, 17):
        rows = chosen(name, candidates, count, 3)
        assert len({int(candidates.caption_image[row]) for row in rows}) == count
        assert chosen(name, candidates, count, 3) == rows


@pytest.mark.parametrize("name", OF_FEATURES)
def test_the_seed_matters_where_it_is_said_to(name: str) -> None:
    candidates = made(6, images=40)
    picks = {tuple(chosen(name, candidates, 10, seed, ground_set=20)) for seed in range(4)}
    assert (len(picks) > 1) == SELECTORS.find(name).drawn


# --- features -----------------------------------------------------------------------------------------------------


def test_projections_are_those_of_the_joined_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vldistill.selection.features.ROWS_AT_ONCE", 5)
    features = made(0, dtype=torch.float16).towers
    x, draw = joined(features), torch.Generator().manual_seed(1)
    direction = torch.randn(x.shape[1], generator=draw)
    np.testing.assert_allclose(features.project(*features.split(direction)), x @ direction.numpy(), atol=1e-5)
    np.testing.assert_allclose(torch.cat(features.mean()), x.mean(0), atol=1e-6)
    np.testing.assert_allclose(features.square_norms(), (x**2).sum(1), atol=1e-5)
    rows = torch.tensor([7, 0, 7])
    np.testing.assert_allclose(features.joined(rows), x[rows.numpy()], atol=1e-7)


def test_first_of_each_image_by_hand() -> None:
    order, owner = torch.tensor([4, 1, 0, 3, 2]), torch.tensor([0, 2, 1, 0, 2])
    assert first_of_each_image(order, owner, 3).tolist() == [4, 0, 2]
    assert first_of_each_image(order, owner, 2).tolist() == [4, 0]


# --- forgetting ---------------------------------------------------------------------------------------------------


def test_forgetting_is_counted_by_hand() -> None:
    seen = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
    assert count_forgotten(seen).tolist() == [2, 0, 0, 1]


def test_galleries_share_out_every_caption_with_distinct_images() -> None:
    candidates = made(2, images=50)
    groups = galleries(candidates.image_captions, 8, 0)
    assert sorted(torch.cat(groups).tolist()) == list(range(len(candidates.caption_image)))
    for rows in groups:
        assert len(rows) <= 8 and len(set(candidates.caption_image[rows].tolist())) == len(rows)
    again, other = (torch.cat(galleries(candidates.image_captions, 8, seed)).tolist() for seed in (0, 1))
    assert torch.cat(groups).tolist() == again != other


def test_found_means_first_both_ways_and_a_tie_does_not_count() -> None:
    images = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    texts = torch.tensor([[1.0, 0.2, 0], [1.1, 1, 0], [0, 0, 1], [0, 0.1, 0.9]])
    features = PairFeatures(images, texts, torch.arange(4))
    # 0: caption 1 scores higher on image 0; 1: image 0 scores higher on caption 1; 2 and 3 share an image
    assert found(features, [torch.arange(4)]).tolist() == [False, False, False, False]
    assert found(features, [torch.tensor([0, 2]), torch.tensor([1, 3])]).tolist() == [True] * 4


# --- the warm-up --------------------------------------------------------------------------------------------------


def watched_fit(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs: list[int] = []
    real = warming.fit
    monkeypatch.setattr(warming, "fit", lambda *args, **named: (runs.append(1), real(*args, **named))[1])
    return runs


def test_a_warm_up_is_the_embeddings_of_a_trained_student(bench: Workbench) -> None:
    student = _TrainingCandidates(bench, OPTIONS).student
    assert student.images.shape == (40, 16) and student.texts.shape == (200, 16)
    assert student.images.dtype == student.texts.dtype == torch.float16
    torch.testing.assert_close(student.square_norms(), torch.full((200,), 2.0), rtol=0, atol=2e-3)
    own = float(student.agreement().mean())
    fresh = bench.student(0)
    data = bench.split("train").data
    with torch.no_grad():
        u = fresh.embed("image", data.images.rows(data.caption_image))
        t = fresh.embed("text", data.texts.rows(torch.arange(200)))
    assert own > float((u * t).sum(1).mean()) + 0.2  # pairs agree more than before


@pytest.mark.parametrize("setting", ["heads", "full"])
def test_a_warm_up_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    runs = watched_fit(monkeypatch)
    own = make_bench(tmp_path, setting)
    few, many = (choose_pairs(own, "herding", count, 0, OPTIONS)[1] for count in (4, 8))
    assert torch.equal(few, many[:4])
    choose_pairs(own, "kcenter", 4, 0, OPTIONS)
    choose_pairs(make_bench(tmp_path, setting), "forgetting", 4, 1, replace(OPTIONS, ground_set=7))
    assert len(runs) == 1
    choose_pairs(own, "herding", 4, 0, replace(OPTIONS, warmup_epochs=1))
    choose_pairs(own, "herding", 4, 0, replace(OPTIONS, warmup_epochs=3))
    assert len(runs) == 3


def test_a_warm_up_is_computed_as_the_bench_computes_and_kept_apart_where_that_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, seen, embedded = watched_fit(monkeypatch), list[ComputeOptions](), list[int]()
    real, embed = warming.fit, DualEncoder.embed
    monkeypatch.setattr(warming, "fit", lambda *a, **named: (seen.append(named["compute"]), real(*a, **named))[1])
    monkeypatch.setattr(DualEncoder, "embed", lambda *given: (embedded.append(len(given[2])), embed(*given))[1])
    plain, parts, rounded = (make_bench(tmp_path, "full") for _ in range(3))
    parts.compute, rounded.compute = ComputeOptions(micro_batch=8), ComputeOptions("bfloat16")
    choose_pairs(parts, "herding", 4, 0, OPTIONS)
    assert seen == [parts.compute] and max(embedded) == 8
    choose_pairs(plain, "herding", 4, 0, OPTIONS)
    assert len(runs) == 1
    choose_pairs(rounded, "herding", 4, 0, OPTIONS)
    assert seen[1:] == [rounded.compute] and len(list(tmp_path.glob("warm-ups/*/note.json"))) == 2


@pytest.mark.parametrize("name", ["random", "kmeans"])
def test_what_needs_no_warm_up_makes_none(bench: Workbench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(warming, "fit", lambda *args, **named: pytest.fail("warmed up"))
    images, captions = choose_pairs(bench, name, 8, 0)
    assert torch.equal(bench.split("train").data.caption_image[captions], images)


def test_a_damaged_warm_up_is_named_and_made_again(tmp_path: Path) -> None:
    own = make_bench(tmp_path)
    first = choose_pairs(own, "similarity", 4, 0, OPTIONS)
    [path] = tmp_path.glob("warm-ups/*/texts.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    again = choose_pairs(own, "similarity", 4, 0, OPTIONS)
    assert all(torch.equal(left, right) for left, right in zip(first, again)) and path.read_bytes() == whole
    assert isinstance(own.reporter, Recorder)
    assert any("texts.npy cannot be read" in line and "recomputed" in line for line in own.reporter.warnings)


def test_a_stopped_warm_up_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_pairs(make_bench(tmp_path / "straight"), "forgetting", 4, 0, OPTIONS)
    asked, ends = 0, [3, 9]

    def due(self: Any) -> bool:
        nonlocal asked
        asked += 1
        if asked in ends:
            signal.raise_signal(signal.SIGTERM)
        return asked in ends

    monkeypatch.setattr(warming._Keeper, "due", due)
    for _ in ends:
        with pytest.raises(
            Stopped, match=r"stopped after step \d+ of the warm-up; everything is saved\. Run the same command"
        ):
            choose_pairs(make_bench(tmp_path / "stopped"), "forgetting", 4, 0, OPTIONS)
    choose_pairs(make_bench(tmp_path / "stopped"), "forgetting", 4, 0, OPTIONS)

    def made(cache: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in cache.glob("warm-ups/*/*")}

    assert made(tmp_path / "stopped") == made(tmp_path / "straight")
    assert sorted(made(tmp_path / "stopped")) == ["forgotten.npy", "images.npy", "note.json", "texts.npy"]


def test_what_a_killed_warm_up_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(warming._Keeper, "remove", lambda self: None)
        patch.setattr(warming._Keeper, "due", lambda self: True)
        choose_pairs(make_bench(tmp_path), "herding", 4, 0, OPTIONS)
    assert len(list(tmp_path.glob("warm-ups/*/unfinished/*"))) == 2
    choose_pairs(make_bench(tmp_path), "herding", 4, 0, OPTIONS)
    assert not list(tmp_path.glob("warm-ups/*/unfinished"))


def test_a_diverged_warm_up_names_its_rates(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"select\.warmup_image_rate"):
        choose_pairs(make_bench(tmp_path), "herding", 4, 0, replace(OPTIONS, warmup_image_rate=1e30))


def test_the_towers_features_are_standardised_unit_rows(bench: Workbench) -> None:
    towers = _TrainingCandidates(bench, OPTIONS).towers
    data = bench.split("train").data
    for found_rows, inputs in ((towers.images, data.images), (towers.texts, data.texts)):
        raw = inputs.rows(torch.arange(len(inputs)))
        torch.testing.assert_close(found_rows.float(), raw / raw.norm(dim=1, keepdim=True), rtol=0, atol=1e-3)


# --- where a choice is used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_choice_is_judged_like_random_pairs(bench: Workbench, name: str) -> None:
    judged = subject(bench, f"{name}:6", OPTIONS)
    first, again, other = (judged.draw(seed).images.rows(torch.arange(6)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != SELECTORS.find(name).drawn
    assert (judged.kind, judged.pairs, judged.own) == ("subset", 6, None)
    assert judged.stored_floats == subject(bench, "random:6").stored_floats
    assert section(judged.details, "select").keys() == set(SELECTORS.find(name).reads)


def test_pairs_that_do_not_depend_on_the_seed_are_chosen_once(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vldistill.evaluation import subjects

    made_choices: list[str] = []
    real = subjects.choose_pairs
    monkeypatch.setattr(subjects, "choose_pairs", lambda *args: (made_choices.append(args[1]), real(*args))[1])
    result = evaluate_set(bench, "kcenter:6", QUICK, OPTIONS)
    assert made_choices == ["kcenter"]
    assert result.own is None and result.details["new_pairs_for_each_student"] is False
    assert section(result.details, "select")["warmup_epochs"] == 4


@pytest.mark.parametrize("name", [name for name in OF_FEATURES if name != "random"])
def test_a_choice_is_a_start(bench: Workbench, name: str) -> None:
    start = make_start(bench, name, 6, 2, OPTIONS)
    images, captions = choose_pairs(bench, name, 6, 2, OPTIONS)
    split, tower = bench.split("train"), bench.image_tower
    pixels = torch.from_numpy(split.pixels.array[images.numpy()])
    assert torch.equal(start.images, to_float(pixels, tower.mean, tower.std))
    assert start.captions == [split.pairs.captions[int(row)] for row in captions]


def test_a_coreset_is_a_set_of_real_pairs(bench: Workbench, tmp_path: Path) -> None:
    options = replace(OPTIONS, method="herding", pairs=6)
    choose_coreset(bench, options).save(tmp_path)
    coreset = DistilledSet.load(tmp_path)
    assert coreset.name == "herding-6-s0" and coreset.is_coreset and coreset.setting == "heads"
    record = json.loads((tmp_path / "pairs.json").read_text())
    pairs = bench.pixels("train").pairs
    for row, image in zip(record["pairs"], coreset.pixels()):
        index = list(pairs.images.names).index(row["image"])
        assert row["caption"] in [pairs.captions[int(own)] for own in pairs.image_captions[index]]
        np.testing.assert_allclose(image * 255, bench.pixels("train").array[index], atol=0.01)
    card = (tmp_path / "README.md").read_text()
    assert "6 real image-caption pairs chosen" in card and "distilled" not in card.split("```")[0]
    assert not re.search("iteration|Learned", card)
    result = evaluate_set(bench, coreset, QUICK)
    same = evaluate_set(bench, "herding:6", QUICK, OPTIONS)
    assert result.own is None and result.stored_floats == same.stored_floats
    for column in ("mean", "std"):  # the same pairs, by way of their pixels
        assert getattr(result.scores()["generic"].mean_recall, column) == pytest.approx(
            getattr(same.scores()["generic"].mean_recall, column), abs=3
        )
    assert result.scores()["generic"].recipe["epochs"] == 2  # chosen as for real pairs
    with pytest.raises(ConfigError, match="herding-6-s0 has no recipe of its own"):
        check_target(bench, coreset, replace(QUICK, recipes=("own",)))


# --- wrong use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("hording:6", "unknown selector 'hording'. Did you mean herding"),
        ("k-center:6", "Did you mean kcenter"),
        ("herding:1", "random:N with N of 2 or more.* or full"),
        ("herding:41", "41 pairs.*has 40 images.*Ask for 40 or fewer"),
        ("facility:31", "select.ground_set is 30, fewer than the 31 pairs"),
        ("kmeans:31", "select.cluster_sample is 30, fewer than the 31 pairs"),
    ],
)
def test_wrong_choices_are_refused_before_work(bench: Workbench, target: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_target(bench, target, QUICK, replace(OPTIONS, ground_set=30, cluster_sample=30))


@pytest.mark.parametrize("values", [{"pairs": 1}, {"warmup_epochs": 0}, {"warmup_text_rate": 0.0}])
def test_impossible_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"select.{next(iter(values))} is"):
        SelectConfig(**values)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SELECTORS, "_entries", dict(SELECTORS))


def test_a_selector_is_registered_with_what_a_user_needs(registry: None) -> None:
    assert sorted(SELECTORS) == NAMES
    for entry in SELECTORS.values():
        assert entry.summary.endswith(".") and 20 < len(entry.summary) < 150

    def anything(candidates: Any, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
        """Nothing."""
        return torch.arange(count)

    for name, reads, said in (
        ("herding", (), "registered twice"),
        ("Half", (), "expected lower-case letters"),
        ("full", (), "none of full, real, noise"),
        ("fresh", ("warmup_epoch",), "Did you mean warmup_epochs"),
    ):
        with pytest.raises(ConfigError, match=said):
            register(name, drawn=True, reads=reads)(anything)
    assert set(WARMUP) == set(SELECTORS.find("forgetting").reads)


def test_the_starts_of_the_configuration_are_the_selectors(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match=r"unknown distill.start 'kmean'. Did you mean kmeans"):
        make_start(bench, "kmean", 6, 0)
