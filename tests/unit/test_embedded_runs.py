"""Runs on pairs that are given by their vectors: every method, evaluation, students, reports, and what needs pixels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.tiny import Recorder

import vldistill as vd
from vldistill.commands.cross import main as cross
from vldistill.commands.inspect import describe
from vldistill.config import Config
from vldistill.distillation.method import METHODS
from vldistill.distillation.start import make_start
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.precomputed import PRECOMPUTED
from vldistill.errors import ConfigError, DataError, VldistillError
from vldistill.evaluation import subjects
from vldistill.evaluation.measures import title_of
from vldistill.evaluation.protocol import evaluate_set
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.subjects import subject
from vldistill.evaluation.tables import evaluation_text
from vldistill.options.words import parse
from vldistill.reporting.write import ReportOptions, write_report
from vldistill.selection.choose import choose_pairs
from vldistill.selection.coreset import choose_coreset
from vldistill.stages.curve import CurveRequest, curve
from vldistill.stages.distill import distill
from vldistill.stages.encode import encode
from vldistill.stages.evaluate import evaluate
from vldistill.stages.experts import experts
from vldistill.stages.select import select
from vldistill.workbench import bench as benches
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run

ROWS = 240
IN_HEADS = sorted(name for name, entry in METHODS.items() if "heads" in entry.settings)
SIDES = "--data.sides=audio,text"
QUICK = [
    *("--encoder.dim=8", "--distill.pairs=6", "--distill.iterations=2", "--distill.validate_every=2"),
    *("--evaluate.generic_epochs=1", "--evaluate.head_rates=0.1", "--ptm.straighten=0,0,0", "--dd.steps=3"),
    *("--experts.count=2", "--experts.epochs=3", "--evaluate.seeds=1", "--evaluate.trials=1", "--evaluate.max_steps=5"),
    *("--bitraj.expert_epochs=1", "--bitraj.max_start_epoch=1", "--bilevel.steps=3", "--select.pairs=6"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data/audio.npy`` and ``data/text.npy``, whose rows have something in common, and a table."""
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "data").mkdir()
    draw = np.random.default_rng(0)
    common = draw.normal(size=(ROWS, 4))
    for name, width in (("audio", 12), ("text", 10)):
        rows = common @ draw.normal(size=(4, width)) + 0.2 * draw.normal(size=(ROWS, width))
        np.save(folder / f"data/{name}.npy", rows.astype(np.float16))
    lines = [f"clip {row},said {row}\n" for row in range(ROWS)]
    (folder / "data/about.csv").write_text("key,caption\n" + "".join(lines))
    return folder


def words(place: Path, *more: str) -> list[str]:
    source = f"--data.source=embeddings:{place / 'data'}?val=0.2&test=0.2"
    return [f"--run={place / 'run'}", source, f"--data.cache={place / 'cache'}", SIDES, *QUICK, *more]


@pytest.fixture(scope="module")
def config(place: Path) -> Config:
    return parse("distill", words(place))[0]


@pytest.fixture
def bench(config: Config) -> Workbench:
    return open_bench(config, Recorder())


def test_towers_and_space_are_those_of_the_vectors(config: Config, bench: Workbench) -> None:
    assert (config.encoder.image.name, config.encoder.text.name, config.distill.space) == (PRECOMPUTED,) * 2 + (
        "features",
    )
    assert (bench.image_tower.name, bench.image_tower.width) == ("audio", 12)
    assert (bench.text_tower.name, bench.text_tower.width) == ("text", 10)
    assert bench.sides == ("audio", "text")
    assert bench.encodings("train") == []
    assert bench.check_towers() is None
    assert bench.towers["image"]["kind"] == PRECOMPUTED


def test_features_are_the_vectors_standardised(place: Path, bench: Workbench) -> None:
    split = bench.split("train")
    vectors = split.pairs.vectors
    assert vectors is not None
    raw = torch.from_numpy(np.load(place / "data/audio.npy").astype(np.float32))[torch.from_numpy(vectors.image.chosen)]
    rows = split.data.images.rows(torch.arange(len(raw)))
    assert torch.allclose(rows, (raw - raw.mean(0)) / raw.std(0, correction=0), atol=1e-4)
    assert not list(bench.cache.glob("features-*")), "no second copy is made"


def test_tables_larger_than_memory_give_the_same(
    config: Config, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = bench.unit_features()
    chosen = {name: choose_pairs(bench, name, 5, 0)[1].tolist() for name in ("kmeans", "random")}
    rows = torch.tensor([3, 1, 100])
    inputs = bench.split("train").data.images.rows(rows)
    monkeypatch.setattr(benches, "IN_MEMORY_BYTES", 0)
    large = open_bench(config, Recorder())
    for one, two in zip(own, large.unit_features()):
        assert one.shape == two.shape
        assert torch.equal(one[rows], two[rows])
        assert torch.equal(one, torch.cat(list(two.split(50))))
    assert {name: choose_pairs(large, name, 5, 0)[1].tolist() for name in chosen} == chosen
    assert torch.allclose(large.split("train").data.images.rows(rows), inputs)


QUICK_ONES = ("bilevel", "canonical")


@pytest.mark.parametrize(
    "method", [m if m in QUICK_ONES else pytest.param(m, marks=pytest.mark.slow) for m in IN_HEADS]
)
def test_every_method_distils_vectors(method: str, place: Path, config: Config) -> None:
    config = replace(config, distill=replace(config.distill, method=method))
    run = Run(place / "run")
    if METHODS[method].needs_experts:
        experts(run, config, Recorder())
    folder = distill(run, config, Recorder())
    made = DistilledSet.load(folder)
    assert (made.space, tuple(made.images.shape), tuple(made.texts.shape)) == ("features", (6, 12), (6, 10))
    card = (folder / "README.md").read_text()
    assert "6 distilled audio-text pairs" in card
    assert "vectors of `audio` (audio, 12 wide) and vectors of `text` (text, 10 wide)" in card


@pytest.mark.parametrize("kind", ["real", "noise", "kmeans"])
def test_starts_are_vectors(kind: str, bench: Workbench) -> None:
    start = make_start(bench, kind, 5, 0, space="features")
    assert tuple(start.images.shape) == (5, 12)
    if start.rows is not None:
        data = bench.split("train").data
        assert torch.equal(start.images, data.images.rows(data.caption_image[start.rows]))


def test_a_coreset_holds_vectors(bench: Workbench, config: Config, tmp_path: Path) -> None:
    coreset = choose_coreset(bench, replace(config.select, method="random"))
    coreset.save(tmp_path / "set")
    made = DistilledSet.load(tmp_path / "set")
    assert made.is_coreset
    assert made.stored_floats == 6 * (12 + 10)
    assert "6 real audio-text pairs" in (tmp_path / "set/README.md").read_text()
    data = subject(bench, made).draw(0)
    assert torch.equal(data.images.rows(torch.arange(6)).cpu(), made.images)


def test_evaluations_name_the_sides_and_the_part_that_full_is(
    bench: Workbench, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "MOST_OF_VECTORS", 50)
    monkeypatch.chdir(bench.cache.parent)
    results = [evaluate_set(bench, target, config.evaluate) for target in ("random:6", "full")]
    assert (results[1].pairs, results[1].stored_floats) == (50, 50 * 22)
    assert results[1].details["of_pairs"] == bench.pairs("train").count_captions
    assert results[0].stored_floats == 6 * 22
    again = [Evaluation.from_json(result.to_json()) for result in results]
    text = evaluation_text(again)
    assert "| text R@1 " in text
    assert "| audio R@10 " in text
    assert "text R@K: audio asks and text is found" in text
    assert "full is 50 of " in text
    assert [check.name for check in again[0].checks] == [
        "test size", "recall ceiling", "equal captions across splits", "near-duplicate photos across splits",
    ]  # fmt: skip
    assert [title_of(name) for name in ("tr1", "ir5")] == ["TR@1", "IR@5"]


def test_all_pairs_are_full_where_they_are_few(bench: Workbench) -> None:
    full = subject(bench, "full")
    assert (full.pairs, full.details) == (bench.pairs("train").count_captions, {})


def test_copies_between_splits_are_flagged(tmp_path: Path, place: Path) -> None:
    from vldistill.data.load import read_collection
    from vldistill.evaluation.data_checks import check_vectors

    rows = np.load(place / "data/audio.npy")
    np.save(tmp_path / "audio.npy", np.concatenate([rows, rows]))
    np.save(tmp_path / "text.npy", np.load(place / "data/text.npy")[np.arange(2 * ROWS) % ROWS])
    collection = read_collection(f"{tmp_path}")
    check = check_vectors({split: collection.pairs(split) for split in ("train", "val", "test")})
    assert check is not None
    assert check.flag
    assert check.score > 50
    assert "test: row-" in " ".join(check.examples) or "val: row-" in " ".join(check.examples)


def canonical(place: Path, config: Config) -> vd.DistilledSet:
    """A set in closed form."""
    config = replace(config, distill=replace(config.distill, method="canonical"))
    return vd.DistilledSet.load(distill(Run(place / "run"), config, Recorder()))


def test_students_take_vectors(place: Path, tmp_path: Path, config: Config) -> None:
    made = canonical(place, config)
    student = made.train(quiet=True)
    audio, text = (np.load(place / f"data/{name}.npy") for name in ("audio", "text"))
    scores = student.similarity(audio[:7], text[:9])
    mean, scale = (made.standardisation[f"image_{part}"] for part in ("mean", "scale"))
    inputs = (torch.from_numpy(audio[:7].astype(np.float32)) - mean) / scale
    expected = student.encoder.embed("image", inputs) @ student.encode_text(text[:9]).T
    assert torch.allclose(scores, expected.detach(), atol=1e-6)
    assert tuple(student.encode_image(audio[0]).shape) == (8,)
    assert torch.equal(
        student.encode_image(str(place / "data/audio.npy"))[:7], student.encode_image(audio[:7].tolist())
    )
    found = student.search(text[3], audio, top=2)
    assert [hit.path for hit in found] == [f"row {row}" for row in (audio_scores(student, text[3], audio))[:2]]
    student.save(tmp_path / "student")
    assert "audio | vectors of `audio`, 12 wide" in (tmp_path / "student/README.md").read_text()
    moved = shutil.move(place / "data", tmp_path / "elsewhere")
    try:
        again = vd.Student.load(tmp_path / "student")
        assert torch.equal(again.similarity(audio[:7], text[:9]), scores)
    finally:
        shutil.move(moved, place / "data")
    assert student.score(quiet=True) == vd.Student.load(tmp_path / "student").score(quiet=True)


@pytest.fixture(scope="module")
def student(place: Path, config: Config) -> vd.Student:
    return canonical(place, config).train(quiet=True)


def audio_scores(student: vd.Student, question: np.ndarray, audio: np.ndarray) -> list[int]:
    return (student.encode_image(audio) @ student.encode_text(question)).argsort(descending=True).tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 11)), r"the audio vectors have the shape \(3, 11\); expected vectors of audio"),
        (np.full((3, 12), np.nan), r"row 0 is not finite"),
        ("photo.jpg", "the audio vectors are str"),
        ([[1.0], [1.0, 2.0]], "rows of several lengths"),
        (np.zeros((0, 12)), r"the shape \(0, 12\)"),
    ],
)
def test_vectors_that_a_student_refuses(given: object, message: str, student: vd.Student) -> None:
    with pytest.raises(DataError, match=message):
        student.encode_image(given)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "what",
    [
        lambda student: student.classify(np.zeros((1, 12)), ["a", "b"]),
        lambda student: student.export("x"),
        lambda student: student.to_transformers(),
        lambda student: student.score("scenes:train=4,val=2,test=2"),
        lambda student: student.encode_text("a dog"),
    ],
)
def test_what_needs_pixels_of_a_student_says_so_in_a_line(what: Callable[[vd.Student], object], student) -> None:
    with pytest.raises(VldistillError) as caught:
        what(student)
    assert "vectors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "--encoder.image.name=resnet18", "--encoder.text.name=bert", "--encoder.setting=full", "--data.views=2",
        "--data.prompts=a {}", "--distill.augment=flip", "--distill.size=16", "--distill.pixels=fourier",
    ],
)  # fmt: skip
def test_options_that_need_pixels_are_refused_in_a_line(option: str, place: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("distill", words(place, option))
    name = option.removeprefix("--").partition("=")[0]
    assert str(caught.value).startswith(f"{name} is ")
    assert "vectors" in str(caught.value) or "features" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zero_shot_and_other_towers_are_refused(bench: Workbench, config: Config, place: Path) -> None:
    with pytest.raises(ConfigError, match="zero-shot classification needs pixels"):
        evaluate_set(bench, "random:6", replace(config.evaluate, zero_shot=("digits",)))
    with pytest.raises(ConfigError, match=r"data.sides is"):
        parse("distill", words(place, "--data.sides=audio"))
    photos = replace(config, data=replace(config.data, source="scenes:train=8,val=4,test=4"))
    with pytest.raises(ConfigError, match=r"encoder.image.name is precomputed, which is for sources of vectors"):
        open_bench(photos, Recorder()).check_towers()
    with pytest.raises(DataError, match="holds vectors and no pixels"):
        bench.pixels("train").array[[0]]


def test_a_set_of_other_vectors_does_not_fit(place: Path, config: Config) -> None:
    made = canonical(place, config)
    source = f"{config.data.source}&image_tower=clap"
    other = open_bench(replace(config, data=replace(config.data, source=source)), Recorder())
    with pytest.raises(VldistillError, match="audio"):
        evaluate_set(other, made, config.evaluate)


@pytest.mark.slow
def test_select_evaluate_curve_and_report(place: Path, config: Config) -> None:
    run, reporter = Run(place / "run"), Recorder()
    encode(run, config, reporter)
    select(run, replace(config, select=replace(config.select, method="kmeans")), reporter)
    evaluate(run, config, reporter, "kmeans-6-s0")
    text = curve(run, config, reporter, CurveRequest(budgets=(6, 12), selectors=("random",)))
    assert "12" in text
    assert "The full data reach" in text
    path = write_report([place / "run"], None, ReportOptions(queries=3), reporter)
    page = path.read_text()
    assert "text R@1" in page
    assert "clip 1" in page
    assert "text → audio" in page
    found = describe(f"embeddings:{place / 'data'}", reporter)
    assert found["broken"] == []
    assert "audio: 12 wide, float16" in str(found["understood"])


def test_cross_on_other_towers_is_refused(place: Path, tmp_path: Path, config: Config) -> None:
    canonical(place, config)
    towers = tmp_path / "towers.yaml"
    towers.write_text("small: {image: {name: mobilenetv2_050}}\n")
    with pytest.raises(ConfigError, match=r"encoder\.image\.name is 'mobilenetv2_050', but .* holds vectors"):
        cross([*words(place), "--set=canonical-6-s0", f"--towers={towers}"])
