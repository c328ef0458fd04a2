"""Zero-shot classification against brute force, and class sets through training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.test_classes import class_folder
from tests.unit.tiny import ENCODER, EXPERTS, Recorder, make_bench

import vldistill as vd
from vldistill.api.student import Student
from vldistill.comparison.rows import Row
from vldistill.comparison.table import comparison_csv, comparison_markdown
from vldistill.config import Config, DataConfig, DistillConfig, EvaluateConfig
from vldistill.distillation.loop import Loop
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.start import make_start
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.distilled.pair_classes import PairClasses
from vldistill.errors import ArtefactError, ConfigError, DataError, DivergedError
from vldistill.evaluation.bootstrap import Bootstrap
from vldistill.evaluation.data_checks import check_pairs
from vldistill.evaluation.fixed_grid import choose_from_grid
from vldistill.evaluation.hits import decoded_class_hits, encoded_class_hits
from vldistill.evaluation.measures import Figure
from vldistill.evaluation.protocol import evaluate_set, quick_score
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.students import embed_split, train_student
from vldistill.evaluation.subjects import set_data, subject
from vldistill.evaluation.tables import evaluation_text
from vldistill.evaluation.zero_shot import accuracy_of, class_embeddings, class_ranks, classify_split, mean_prompts
from vldistill.experts.record import record_experts
from vldistill.options.resolve import resolve_distill
from vldistill.options.words import parse
from vldistill.selection.choose import choose_pairs
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench
from vldistill.workbench.class_sets import check_told_apart, class_bench, prompt_inputs
from vldistill.workbench.run_folder import to_plain

SHAPES = "scenes:classes=shape,train=160,val=40,test=60"
COLOURS = "scenes:classes=colour,train=16,val=8,test=30"
QUICK = EvaluateConfig(seeds=2, trials=2, max_steps=20)


def counts(labels: Sequence[int | None]) -> list[int]:
    """How many of each class."""
    return np.bincount([label for label in labels if label is not None]).tolist()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return make_bench(tmp_path_factory.mktemp("cache"), source=SHAPES)


def test_ranks_and_accuracies_are_those_of_brute_force() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(50, 5, generator=draw), dim=1)
    classes = torch.nn.functional.normalize(torch.randn(9, 5, generator=draw), dim=1)
    classes[4] = classes[7]
    labels = torch.randint(0, 8, (50,), generator=draw)
    rows = classes.tolist()

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other))

    expected = [
        sum(cosine(x, c) >= cosine(x, rows[y]) for k, c in enumerate(rows) if k != y)
        for x, y in zip(images.tolist(), labels.tolist())
    ]
    ranks = class_ranks(images, classes, labels)
    assert ranks.tolist() == expected
    found = accuracy_of(ranks, labels)
    hits = np.array(expected) < 1
    own = [hits[labels.numpy() == label].mean() for label in np.unique(labels.numpy())]
    assert found.top1 == pytest.approx(100 * hits.mean()) and found.balanced == pytest.approx(100 * np.mean(own))
    assert found.top5 == pytest.approx(100 * (np.array(expected) < 5).mean())
    levels = decoded_class_hits(encoded_class_hits(ranks), 50)
    assert (levels == (np.array(expected)[:, None] < np.array([1, 5, 10]))).all()


def test_one_point_for_everything_is_never_right() -> None:
    same = torch.nn.functional.normalize(torch.ones(6, 3), dim=1)
    assert class_ranks(same, same[:4], torch.tensor([0, 1, 2, 3, 0, 1])).tolist() == [3] * 6
    with pytest.raises(DivergedError, match="not finite"):
        class_ranks(same * torch.nan, same, torch.zeros(6, dtype=torch.int64))


def test_prompts_are_normalised_averaged_and_normalised_again() -> None:
    prompts = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0], [1.0, 0.0]])
    half = 0.5**0.5
    assert torch.allclose(mean_prompts(prompts, 2), torch.tensor([[half, half], [1.0, 0.0]]))


def test_many_classes_are_encoded_in_parts(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    student = bench.student(0)
    whole = class_embeddings(bench, student)
    assert bench.prompts is not None
    for part, limit in ((3, 10**9), (3, 0)):
        bench.prompts = None
        monkeypatch.setattr("vldistill.workbench.class_sets.CLASSES_AT_ONCE", part)
        monkeypatch.setattr("vldistill.workbench.class_sets.PROMPT_BYTES", limit)
        assert torch.allclose(class_embeddings(bench, student), whole, atol=1e-6)
        assert (bench.prompts is None) == (limit == 0)
    images, captions = embed_split(bench, student, bench.split("test"))
    classes = bench.split("test").pairs.classes
    assert classes is not None and torch.allclose(captions, whole[classes.labels], atol=1e-6)
    found = classify_split(bench, student, "test")
    assert found == accuracy_of(class_ranks(images, whole, torch.tensor(classes.labels)), torch.tensor(classes.labels))


def test_every_training_leaves_pairs_of_one_class_out_of_the_negatives(bench: Workbench, tmp_path: Path) -> None:
    (expert, *_) = record_experts(bench, replace(EXPERTS, count=1, epochs=1), tmp_path)
    assert expert.note.recipe is not None and expert.note.recipe["negatives"] == "distinct"
    recipe, trials = choose_from_grid(bench, subject(bench, "random:16"), replace(QUICK, subset_epochs=(2,)))
    assert recipe.negatives == "distinct" and trials[0].to_json().keys() == {"rates", "epochs", "val_top1"}
    assert any("pairs of one class are no negatives" in line for line in bench.reporter.infos)  # pyright: ignore
    config = resolve_distill(DistillConfig(method="bilevel", pairs=16, iterations=1, validate_every=0), "heads")
    context = Context(bench, config, METHODS.find("bilevel").options())
    equal = context.equal_real(torch.arange(12))
    labels = torch.tensor(bench.split("train").pairs.caption_keys[:12])
    assert equal is not None and torch.equal(equal, (labels[:, None] == labels) & ~torch.eye(12, dtype=torch.bool))


def test_a_distilled_set_knows_the_classes_of_its_pairs(bench: Workbench, tmp_path: Path) -> None:
    config = resolve_distill(DistillConfig(method="bilevel", pairs=16, iterations=2, validate_every=2), "heads")
    start = make_start(bench, "real", 16, 0)
    context = Context(bench, config, replace(METHODS.find("bilevel").options(), steps=2))
    method = METHODS.find("bilevel").build()
    made = Loop(method, context, tmp_path, lambda found: quick_score(bench, found, QUICK), lambda *_: None, bool).run(
        start
    )
    assert made.classes is not None and made.recipe.negatives == "distinct"
    assert [made.classes.names[label or 0] in text for label, text in zip(made.classes.labels, start.captions)] == [
        True
    ] * 16
    assert counts(made.classes.labels) == [2] * 8, "as many of each class"
    assert made.info["selection"].keys() >= {"val_top1"} and "val_mean_recall" not in made.info["selection"]
    looks = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [one["iteration"] for one in looks if "val_top1" in one] == [0, 2]
    data, _ = set_data(bench, made)
    keys = torch.tensor(made.classes.keys)
    equal = data.equal(torch.arange(16))
    assert equal is not None and torch.equal(equal, (keys[:, None] == keys) & ~torch.eye(16, dtype=torch.bool))
    made.save(tmp_path / "set")
    assert DistilledSet.load(tmp_path / "set").classes == made.classes
    assert "| classes | 8 (circle, square, triangle" in (tmp_path / "set" / "README.md").read_text()
    broken = replace(made, info={**made.info, "classes": {"names": ["a"], "labels": [1] * 16}})
    with pytest.raises(ArtefactError, match=r"info\.classes is .*expected names, and the class of each of 16 pairs"):
        _ = broken.classes
    assert PairClasses(("a", "b"), (1, None, 1, None)).keys == [1, -2, 1, -4]


def test_random_pairs_are_as_many_of_each_class_and_nested(bench: Workbench) -> None:
    labels = bench.split("train").pairs.classes.labels  # pyright: ignore[reportOptionalMemberAccess]
    images, _ = choose_pairs(bench, "random", 24, 3)
    assert np.bincount(labels[images]).tolist() == [3] * 8
    fewer, _ = choose_pairs(bench, "random", 11, 3)
    assert fewer.tolist() == images[:11].tolist() and np.bincount(labels[fewer]).max() == 2


def test_an_evaluation_has_accuracies_and_other_sources(bench: Workbench) -> None:
    found = evaluate_set(bench, "random:16", replace(QUICK, zero_shot=(COLOURS,)))
    assert found.generic is not None and found.classes == 8 and found.chance_headline == 12.5
    values = [one.top1 for one in found.generic.accuracies]
    assert found.generic.headline.mean == pytest.approx(np.mean(values))
    assert found.measures == ("top1", "top5", "balanced", "tr10", "ir10"), "no class has more than ten test images"
    assert found.generic.headline.std == pytest.approx(np.std(values, ddof=1))
    assert [trial.measure for trial in found.generic.trials or ()] == ["top1", "top1"]
    again = Evaluation.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    text = evaluation_text([found])
    assert "| top-1 " in text and "TR@1 " not in text.splitlines()[0] and "chance 12.50" in text
    assert f"zero-shot on {COLOURS} (8 classes, chance 12.5): random:16, generic: top-1" in text
    assert "Left out, because equal prompts tie: mean recall, TR@1, TR@5, IR@1, IR@5" in text
    draws = Bootstrap(60, 500).means([found])
    assert draws is not None and abs(draws.mean() - found.generic.headline.mean) < 1.5


def test_students_of_pairs_classify_a_source_they_were_not_made_for(tmp_path: Path) -> None:
    pairs = make_bench(tmp_path / "cache")
    folder = class_folder(tmp_path / "data", splits=("test",))
    source = f"classes:{folder}"
    config = replace(QUICK, zero_shot=(source,), zero_shot_prompts=("{}", "a {} on white"), recipes=("generic",))
    found = evaluate_set(pairs, "random:10", config)
    plain = evaluate_set(pairs, "random:10", QUICK)
    assert found.generic is not None and plain.generic is not None
    assert found.generic.students == plain.generic.students, "the recalls are as without it"
    (accuracies,) = found.generic.zero_shot.values()
    assert len(accuracies) == 2 and found.zero_shot_classes == {source: 3}
    assert "classes" not in plain.to_json() and "zero_shot" not in plain.to_json()["generic"]  # pyright: ignore
    other = class_bench(pairs, source, ("{}", "a {} on white"))
    assert other.image_tower is pairs.image_tower
    assert torch.equal(other.image_standardisation.mean, pairs.image_standardisation.mean)
    student = train_student(pairs, subject(pairs, "random:10").draw(0), Recipe(epochs=1), 0)
    vectors = student.embed(
        "text",
        pairs.text_inputs([text for name in ("dog", "grey cat", "red fox") for text in (name, f"a {name} on white")]),
    )
    assert torch.allclose(class_embeddings(other, student), mean_prompts(vectors.detach(), 2), atol=1e-6)


def test_what_cannot_be_classified_is_refused_before_anything_is_trained(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scenes:train=4 has captions and no classes"):
        evaluate_set(bench, "random:16", replace(QUICK, zero_shot=("scenes:train=4",)))
    with pytest.raises(ConfigError, match=r"evaluate\.zero_shot_prompts is 'a cat'; expected a template with"):
        replace(QUICK, zero_shot_prompts=("a cat",))
    folder = class_folder(tmp_path, splits=("train",))
    for path in (tmp_path / "train" / "dog").iterdir():
        (tmp_path / "val" / "dog").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "val" / "dog" / path.name)
    with pytest.raises(DataError, match=r"1 of 3 classes have no training image \(dog\)"):
        make_bench(tmp_path / "cache", source=f"classes:{folder}?test=0").pairs("train")
    broken = class_folder(tmp_path / "broken", splits=("train",))
    for path in (broken / "train" / "dog").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 classes have no training image \(dog\)"):
        make_bench(tmp_path / "cache", source=f"classes:{broken}?val=0&test=0").pixels("train")
    prompted = DataConfig(source="scenes:train=40,val=20,test=20", cache=str(tmp_path), prompts=("a {}",))
    with pytest.raises(ConfigError, match=r"data\.prompts is \['a {}'\], but scenes.* has captions and no classes"):
        Workbench(prompted, ENCODER, torch.device("cpu"), Recorder()).pairs("train")


def test_classes_that_nobody_can_name_are_refused(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder(tmp_path)
    for split in ("train", "val", "test"):
        for number, name in enumerate(("dog", "grey_cat", "red fox")):
            (folder / split / name).rename(folder / split / str(number))
    with pytest.raises(DataError, match="which are numbers or ids, and prompts need names"):
        evaluate_set(bench, "random:16", replace(QUICK, zero_shot=(f"classes:{folder}",)))
    other = class_bench(bench, COLOURS)
    check_told_apart(other)
    rows = torch.cat(list(prompt_inputs(other)))
    monkeypatch.setattr(other, "prompts", [rows[[0, 1, 0, 3, 4, 5, 6, 7]]])
    monkeypatch.setattr(other, "reporter", said := Recorder())
    check_told_apart(other)
    assert "2 of 8 classes (red, yellow) like those of others" in said.warnings[-1]
    monkeypatch.setattr(other, "prompts", [rows[:1].expand(8, -1)])
    with pytest.raises(ConfigError, match=r"encodes the prompts of all 8 classes .* alike"):
        check_told_apart(other)


def test_templates_and_sources_may_hold_commas_on_the_command_line() -> None:
    words = [
        "--run",
        "run",
        "--data.source",
        "digits",
        "--data.prompts",
        "a photo of a {}, a type of pet",
        "--zero_shot",
        COLOURS,
    ]
    config, _ = parse("evaluate", words)
    assert config.data.prompts == ("a photo of a {}, a type of pet",) and config.evaluate.zero_shot == (COLOURS,)
    config, _ = parse(
        "evaluate", ["--run", "run", "--data.source", "digits", "--data.prompts", '["a {}", "{}, small"]']
    )
    assert config.data.prompts == ("a {}", "{}, small")
    assert "prompts" not in to_plain(Config())["data"] and to_plain(config)["data"]["prompts"] == ["a {}", "{}, small"]


def test_a_comparison_of_a_class_set_is_by_top1() -> None:
    figures = {name: Figure(40.0, 1.0) for name in ("own", "generic", "top5", "balanced")}
    row = Row(
        "bilevel",
        "own",
        "heads",
        "last",
        20,
        own=figures["own"],
        generic=figures["generic"],
        measure="top1",
        chosen_by="generic-v2",
        recalls={"top5": figures["top5"], "balanced": Figure(39.0, 1.0), "tr1": Figure(0.0, 0.0)},
        chance=10.0,
    )
    text = comparison_markdown([row])
    assert "| top-5 " in text and "39.0" in text and "TR@1" not in text and "own, generic: zero-shot top-1 by" in text
    assert "balanced_mean" in comparison_csv([row]) and Row.from_json(row.to_json()) == row
    assert "balanced" not in comparison_csv([replace(row, measure="mean_recall")])


def test_checks_of_a_class_set_speak_of_classes(bench: Workbench) -> None:
    size, ceiling = check_pairs({split: bench.pairs(split) for split in ("train", "val", "test")})
    assert size.summary.startswith("60 test images of 8 classes") and not ceiling.flag


def test_a_student_classifies_pictures_and_scores_class_sources(bench: Workbench, tmp_path: Path) -> None:
    config = Config(data=bench.data_config, encoder=bench.encoder_config)
    student = Student(bench.student(0), bench, config, Recipe())
    names = ("circle", "square", "star")
    images = [bench.pairs("test").images.read(row) for row in range(5)]
    found = student.classify(images, names, ["{}", "a drawing of a {}"])
    texts = student.encode_text([text for name in names for text in (name, f"a drawing of a {name}")])
    expected = student.encode_image(images) @ mean_prompts(texts, 2).T
    assert torch.allclose(found.scores, expected, atol=1e-6) and len(found) == 5
    assert list(found) == [names[row] for row in expected.argmax(1).tolist()] == found[0:5]
    assert repr(found).splitlines()[0].endswith(found[0])
    assert student.classify(images[0], names)[0] in names
    for wrong, message in ((("circle",), "two or more different names"), ("circle", "two or more different names")):
        with pytest.raises(ConfigError, match=message):
            student.classify(images, wrong)
    with pytest.raises(ConfigError, match="prompts is 'a circle'; expected a template with"):
        student.classify(images, names, "a circle")
    assert student.score(SHAPES, quiet=True) == classify_split(bench, student.encoder, "test")


@pytest.mark.slow
def test_the_verbs_of_python_on_digits(tmp_path: Path) -> None:
    encoder = {"setting": "heads", "dim": 16, "image": {"name": "convnet", "weights": "random", "size": 16}}
    sections = {"encoder": {**encoder, "text": {"name": "hashing", "width": 32}}, "data": {"cache": str(tmp_path)}}
    run = tmp_path / "run"
    pairs = vd.select("digits", 30, method="random", config=sections, run=run, quiet=True)
    assert pairs.classes is not None and counts(pairs.classes.labels) == [3] * 10
    quick = {"seeds": 1, "trials": 1, "max_steps": 60, "recipes": ["generic"]}
    found = vd.evaluate(pairs, run=run, quiet=True, zero_shot="scenes:classes=shape,train=9,val=9,test=20", **quick)
    assert found.generic is not None and found.recalls["generic"]["top1"] > 40
    assert found.to_pandas()["top1"].tolist() == [found.recalls["generic"]["top1"]]
    assert list(found.generic.zero_shot) == ["scenes:classes=shape,train=9,val=9,test=20"]
    assert "zero_shot" not in (run / "config.yaml").read_text(), "what one evaluation classifies is not the run's"
    page = vd.report(run, quiet=True).read_text()
    assert "zero-shot top-1" in page and "a photo of the digit three" in page
