from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import OWN, make_bench, make_set, start_of

from vldistill.config import EvaluateConfig, ImageTowerConfig
from vldistill.distilled.distilled_set import DistilledSet, one_line
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import ArtefactError, ConfigError, DivergedError
from vldistill.evaluation import protocol, students
from vldistill.evaluation.fixed_grid import choose_from_grid
from vldistill.evaluation.measures import MEASURES, Figure, Recalls
from vldistill.evaluation.protocol import evaluate_set, quick_score
from vldistill.evaluation.results import Evaluation, Scores
from vldistill.evaluation.retrieval import QueryRanks, chance_level, retrieval_metrics
from vldistill.evaluation.students import embed_split, score_student, train_student
from vldistill.evaluation.subjects import subject
from vldistill.evaluation.tables import evaluation_rows, evaluation_text, markdown
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

QUICK = EvaluateConfig(
    generic="generic-v1",
    seeds=3,
    generic_epochs=3,
    subset_epochs=(2, 4),
    full_epochs=(1,),
    head_rates=(0.03, 0.3),
    tower_rates=(0.01,),
    max_validations=4,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bench(cache: Path) -> Workbench:
    return make_bench(cache)


def weights(student: DualEncoder) -> bytes:
    return b"".join(tensor.detach().numpy().tobytes() for tensor in student.state_dict().values())


class Looks:
    """Watches which split is scored with which weights; ``val`` and ``test`` can be scripted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **script: list[float]) -> None:
        self.seen: list[tuple[str, bytes, float]] = []
        self.script = {split: iter(values) for split, values in script.items()}
        self.real: Callable[..., QueryRanks] = students.rank_split
        self.metrics = students.metrics_of
        self.split = ""
        for module in (students, protocol):
            monkeypatch.setattr(module, "rank_split", self.rank)
            monkeypatch.setattr(module, "metrics_of", self.score)

    def rank(self, bench: Workbench, student: DualEncoder, split: str) -> QueryRanks:
        self.split, self.student = split, weights(student)
        return self.real(bench, student, split)

    def score(self, ranks: QueryRanks) -> Recalls:
        figures = self.metrics(ranks)
        if self.split in self.script:
            figures = replace(figures, mean_recall=next(self.script[self.split]))
        self.seen.append((self.split, self.student, figures.mean_recall))
        return figures

    def splits(self) -> list[str]:
        return [split for split, _, _ in self.seen]


# --- what is judged -----------------------------------------------------------------------------------------------


def test_random_pairs_are_new_for_each_seed_and_distinct(bench: Workbench) -> None:
    judged = subject(bench, "random:6")
    first, again, other = (judged.draw(seed).images.rows(torch.arange(6)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(torch.unique(first, dim=0)) == 6
    assert (judged.pairs, judged.own, len(judged.draw(0))) == (6, None, 6)
    assert judged.stored_floats == 6 * (3 * 16 * 16 + 32)


def test_random_pairs_belong_together(bench: Workbench) -> None:
    real, drawn = bench.split("train").data, subject(bench, "random:40").draw(2)
    images, texts = (side.rows(torch.arange(40)) for side in (drawn.images, drawn.texts))
    all_images, all_texts = real.images.rows(torch.arange(40)), real.texts.rows(torch.arange(len(real)))
    for row in range(40):
        image = int((all_images == images[row]).all(1).nonzero()[0])
        captions = (all_texts == texts[row]).all(1).nonzero()[:, 0]
        assert image in real.caption_image[captions].tolist()


def test_full_is_every_caption_with_its_image(bench: Workbench) -> None:
    judged, train = subject(bench, "full"), bench.split("train")
    assert judged.draw(0) is judged.draw(1) is train.data
    assert judged.pairs == train.pairs.count_captions == 200
    assert judged.stored_floats == 40 * 3 * 16 * 16 + 200 * 32


@pytest.mark.parametrize(
    "target", ["random", "random:", "random:1", "random:-3", "random:1.5", "random:²", "everything"]
)
def test_an_unknown_target_is_refused(bench: Workbench, target: str) -> None:
    with pytest.raises(ConfigError, match=r"random:N with N of 2 or more.* or full"):
        subject(bench, target)


def test_more_random_pairs_than_images_are_refused_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = make_bench(cache)
    monkeypatch.setattr(fresh, "split", lambda name: pytest.fail("encoded before the refusal"))
    with pytest.raises(ConfigError, match="Ask for 40 or fewer"):
        evaluate_set(fresh, "random:41", QUICK)


def test_pixels_of_a_set_pass_this_tower(bench: Workbench) -> None:
    distilled = make_set(bench)
    data = subject(bench, distilled).draw(0)
    with torch.no_grad():
        raw = bench.image_tower(distilled.images)
    standard = bench.image_standardisation
    expected = (raw - standard.mean) / standard.scale
    torch.testing.assert_close(data.images.rows(torch.arange(6)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(data.texts.rows(torch.arange(6)), distilled.texts)


def test_another_image_tower_is_told_in_the_result(bench: Workbench, cache: Path) -> None:
    tower = ImageTowerConfig(name="convnet", weights="random", size=24, options={"width": 8}, mean=(0.1, 0.2, 0.3))
    other = make_bench(cache, image=tower)
    judged = subject(other, make_set(bench))
    assert judged.details["made_with_image_tower"] == "convnet"
    assert judged.draw(0).images.rows(torch.arange(6)).shape == (6, 8 * 3 * 3)


def test_a_set_from_other_data_is_moved_to_this_datas_standardisation(bench: Workbench, cache: Path) -> None:
    other = make_bench(cache, source="scenes:seed=5,train=30,val=20,test=20")
    distilled = make_set(bench)
    judged = subject(other, distilled)
    assert judged.details["made_from_data"] == distilled.info["data"]
    captions = list(map(one_line, start_of(bench).captions))
    raw = other.text_tower.encode(captions)
    found = judged.draw(0).texts.rows(torch.arange(6))
    torch.testing.assert_close(found, other.text_standardisation(raw), rtol=1e-4, atol=1e-4)
    assert "made_from_data" not in subject(bench, distilled).details


def test_a_set_of_another_text_tower_is_refused(bench: Workbench, cache: Path) -> None:
    from vldistill.config import TextTowerConfig

    other = make_bench(cache, text=TextTowerConfig(name="hashing", width=48))
    with pytest.raises(ArtefactError, match=r"width 32.*width 48.*Use the tower it was made with"):
        evaluate_set(other, make_set(bench), QUICK)


def features_set(bench: Workbench) -> DistilledSet:
    distilled = make_set(bench)
    return replace(distilled, images=bench.encode_in_batches(distilled.images), space="features")


def test_features_train_the_same_students_as_the_pixels_they_come_from(bench: Workbench) -> None:
    config = replace(QUICK, recipes=("own",))
    by_pixels, by_features = (evaluate_set(bench, made, config) for made in (make_set(bench), features_set(bench)))
    assert by_pixels.scores()["own"].students == by_features.scores()["own"].students
    assert by_pixels.stored_floats == 6 * (3 * 16 * 16 + 32) + 2
    assert by_features.stored_floats == 6 * (32 + 32) + 2


def test_features_do_not_train_a_tower(bench: Workbench, cache: Path) -> None:
    with pytest.raises(ConfigError, match="not setting 'full'"):
        evaluate_set(make_bench(cache, setting="full"), features_set(bench), QUICK)


# --- protocols ----------------------------------------------------------------------------------------------------


def test_last_looks_at_test_once_per_student_at_the_end(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    result = evaluate_set(bench, make_set(bench), replace(QUICK, protocol="last"))
    assert looks.splits() == ["test"] * 3 + ["val"] * 2 + ["test"] * 3  # own; rates on val; generic
    tested = [score for split, _, score in looks.seen if split == "test"]
    assert [student.mean_recall for student in result.scores()["own"].students] == tested[:3]
    assert [student.mean_recall for student in result.scores()["generic"].students] == tested[3:]
    last = train_student(bench, subject(bench, make_set(bench)).draw(0), OWN, 0)
    assert weights(last) == looks.seen[0][1]


def test_val_best_tests_the_epoch_that_did_best_on_val(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, val=[10.0, 30.0, 30.0, 20.0])
    config = replace(QUICK, protocol="val-best", seeds=1, recipes=("own",))
    result = evaluate_set(bench, make_set(bench), config)
    assert looks.splits() == ["val"] * 4 + ["test"]
    assert looks.seen[4][1] == looks.seen[1][1]  # a tie goes to the earlier epoch
    assert len({seen[1] for seen in looks.seen[:4]}) == 4
    assert result.scores()["own"].mean_recall.mean == looks.seen[4][2]


def test_the_legacy_protocol_chooses_on_test_and_says_so(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    config = replace(QUICK, protocol="test-best-legacy", seeds=1, recipes=("own",))
    result = evaluate_set(bench, make_set(bench), config)
    assert looks.splits() == ["test"] * 5
    scores = [score for _, _, score in looks.seen]
    assert result.scores()["own"].mean_recall.mean == scores[4] == max(scores[:4])
    assert result.protocol == "test-best-legacy"
    assert "biased" in evaluation_text([result])


def test_the_protocols_differ_as_they_should(bench: Workbench) -> None:
    recipe = replace(OWN, epochs=12, rates={"image": (0.3,), "text": (0.3,)})
    distilled = replace(make_set(bench), recipe=recipe)
    config = replace(QUICK, seeds=4, recipes=("own",), max_validations=12)
    found = {
        name: [
            student.mean_recall
            for student in evaluate_set(bench, distilled, replace(config, protocol=name)).scores()["own"].students
        ]
        for name in ("last", "val-best", "test-best-legacy")
    }
    for last, val_best, legacy in zip(*found.values()):
        assert legacy >= max(last, val_best)
    assert found["test-best-legacy"] != found["last"] != found["val-best"] != found["test-best-legacy"]


@pytest.mark.parametrize("looks, expected", [(1, [5]), (2, [3, 5]), (3, [2, 4, 5]), (99, [1, 2, 3, 4, 5])])
def test_there_are_no_more_looks_than_asked_for_and_the_last_epoch_is_one(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, looks: int, expected: list[int]
) -> None:
    watch = Looks(monkeypatch)
    distilled = replace(make_set(bench), recipe=replace(OWN, epochs=5))
    evaluate_set(
        bench, distilled, replace(QUICK, protocol="val-best", seeds=1, recipes=("own",), max_validations=looks)
    )
    assert watch.splits() == ["val"] * len(expected) + ["test"]


def test_val_and_test_wait_until_they_are_needed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = make_bench(cache)
    opened: list[str] = []
    real = fresh.split
    monkeypatch.setattr(fresh, "split", lambda name: (opened.append(name), real(name))[1])
    evaluate_set(fresh, "random:6", replace(QUICK, protocol="val-best", seeds=1))
    assert opened[0] == "train" and opened.count("val") >= 4
    assert set(opened[opened.index("test") :]) == {"test"}


# --- the result ---------------------------------------------------------------------------------------------------


def test_the_result_of_a_set(bench: Workbench) -> None:
    result = evaluate_set(bench, make_set(bench), QUICK)
    assert (result.set, result.setting, result.pairs, result.seeds) == ("bitraj-6-s0", "heads", 6, 3)
    for scores in result.scores().values():
        assert len(scores.students) == 3
        for metric in MEASURES:
            values = [getattr(student, metric) for student in scores.students]
            assert scores.figures[metric].mean == pytest.approx(statistics.mean(values))
            assert scores.figures[metric].std == pytest.approx(statistics.stdev(values))  # n - 1 in the denominator
        six = [scores.figures[metric].mean for metric in MEASURES if metric != "mean_recall"]
        assert scores.mean_recall.mean == pytest.approx(statistics.mean(six))
    assert result.scores()["own"].recipe == OWN.to_dict()
    assert result.peak_memory_bytes and 50e6 < result.peak_memory_bytes < 1e12 and result.seconds
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(plain) == [
        *("set", "kind", "setting", "protocol", "pairs", "stored_floats", "seeds", "own", "generic", "chance"),
        *("image_tower", "text_tower", "data", "details", "seconds", "peak_memory_bytes", "test_captions", "checks"),
    ]
    assert Evaluation.from_json(plain) == result


def test_students_are_the_same_again_and_differ_by_seed(bench: Workbench) -> None:
    config = replace(QUICK, recipes=("own",))
    first, again = (evaluate_set(bench, make_set(bench), config).scores()["own"].students for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    more = evaluate_set(bench, make_set(bench), replace(config, seeds=2)).scores()["own"].students
    assert more == first[:2]


def test_one_student_has_no_spread(bench: Workbench) -> None:
    result = evaluate_set(bench, make_set(bench), replace(QUICK, seeds=1, recipes=("own",)))
    assert result.scores()["own"].mean_recall.std == 0.0 and result.generic is None


@pytest.mark.parametrize("target", ["random:6", "full"])
def test_real_pairs_have_no_recipe_of_their_own(bench: Workbench, target: str) -> None:
    result = evaluate_set(bench, target, replace(QUICK, seeds=2))
    assert result.own is None and result.scores()["generic"].mean_recall.mean > 0
    with pytest.raises(ConfigError, match="no recipe of its own"):
        evaluate_set(bench, target, replace(QUICK, recipes=("own",)))


def test_chance_is_that_of_the_test_gallery(bench: Workbench) -> None:
    result = evaluate_set(bench, make_set(bench), replace(QUICK, seeds=1, recipes=("own",)))
    test = bench.split("test")
    assert result.chance == chance_level(test.data.caption_image, 20)
    assert result.chance.ir1 == pytest.approx(5.0) and result.chance.ir10 == pytest.approx(50.0)


def test_an_untrained_student_is_near_chance(bench: Workbench) -> None:
    chance = chance_level(bench.split("test").data.caption_image, 20).mean_recall
    scores = [score_student(bench, bench.student(seed), "test").mean_recall for seed in range(40)]
    error = statistics.stdev(scores) / len(scores) ** 0.5
    assert abs(statistics.mean(scores) - chance) < 4 * error < 6


def test_scores_come_from_the_whole_split_in_its_order(bench: Workbench) -> None:
    student = bench.student(0, dropout=0.5).train()
    test = bench.split("test")
    images, captions = embed_split(bench, student, test, batch=7)
    assert not student.training
    whole = student.embed("image", test.data.images.rows(torch.arange(20)))
    torch.testing.assert_close(images, whole)
    assert captions.shape == (100, 16)
    assert score_student(bench, student, "test") == retrieval_metrics(images, captions, test.data.caption_image)


def test_a_diverging_student_is_an_error_with_its_rates(bench: Workbench) -> None:
    wild = replace(make_set(bench), recipe=replace(OWN, rates={"image": (1e20,), "text": (2e20,)}))
    with pytest.raises(DivergedError, match=r"bitraj-6-s0: student 0 by the own recipe.*1e\+20.*2e\+20.*diverged"):
        evaluate_set(bench, wild, replace(QUICK, recipes=("own",)))


def test_a_student_that_breaks_in_its_very_last_step_names_its_rates_too(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Recalls:
        raise DivergedError("embeddings are not finite.")

    monkeypatch.setattr(protocol, "rank_split", broken)
    with pytest.raises(DivergedError, match=r"student 0 by the own recipe, rates \{'image': 0.1, 'text': 0.2\}"):
        evaluate_set(bench, make_set(bench), replace(QUICK, recipes=("own",)))


# --- the generic recipe and the search ----------------------------------------------------------------------------


def test_the_generic_rates_are_those_that_do_best_on_val(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, val=[1.0, 3.0, 2.0])
    config = replace(QUICK, head_rates=(0.01, 0.03, 0.1))
    recipe, trials = choose_from_grid(bench, subject(bench, make_set(bench)), config)
    assert looks.splits() == ["val"] * 3
    assert [trial.rates["image"] for trial in trials] == [0.01, 0.03, 0.1]
    assert recipe.rates == {"image": (0.03,), "text": (0.03,)} and recipe.epochs == 3
    published = (recipe.batch, recipe.momentum, recipe.weight_decay, recipe.schedule, recipe.dropout)
    assert published == (128, 0.9, 5e-4, "cosine", 0.1)


def test_real_pairs_choose_their_epochs_too(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    Looks(monkeypatch, val=[1.0, 3.0, 2.0, 9.0])
    config = replace(QUICK, subset_epochs=(1, 2, 4))
    recipe, trials = choose_from_grid(bench, subject(bench, "random:6"), config)
    assert [(trial.rates["text"], trial.epochs) for trial in trials] == [(0.03, 2), (0.3, 2), (0.3, 1), (0.3, 4)]
    assert (recipe.epochs, recipe.rates["image"]) == (4, (0.3,))


def test_a_trained_tower_has_a_rate_of_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(cache, setting="full")
    Looks(monkeypatch, val=[1.0, 5.0, 4.0, 6.0, 2.0])
    config = replace(QUICK, tower_rates=(0.001, 0.01), head_rates=(0.01, 0.03, 0.1, 0.3), generic_epochs=1)
    recipe, trials = choose_from_grid(bench, subject(bench, make_set(bench)), config)
    pairs = [(trial.rates["image"], trial.rates["text"]) for trial in trials]
    assert pairs == [(0.001, 0.03), (0.01, 0.03), (0.01, 0.01), (0.01, 0.1), (0.01, 0.3)]
    assert recipe.rates == {"image": (0.01,), "text": (0.1,)}


def test_a_rate_that_diverges_is_not_chosen(bench: Workbench) -> None:
    config = replace(QUICK, head_rates=(1e20, 0.1))
    recipe, trials = choose_from_grid(bench, subject(bench, make_set(bench)), config)
    assert trials[0].val_mean_recall == 0.0 and recipe.rates["image"] == (0.1,)


def test_the_quick_score_is_the_best_of_the_grid_on_val(bench: Workbench) -> None:
    _, trials = choose_from_grid(bench, subject(bench, make_set(bench)), QUICK)
    assert quick_score(bench, make_set(bench), QUICK) == max(trial.val_mean_recall for trial in trials)


def test_the_quick_score_of_a_trained_tower_is_one_student(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(cache, setting="full")
    looks = Looks(monkeypatch)
    assert quick_score(bench, make_set(bench), QUICK) == looks.seen[0][2]
    assert looks.splits() == ["val"]


def test_a_trained_tower_is_evaluated(cache: Path) -> None:
    bench = make_bench(cache, setting="full")
    config = replace(QUICK, seeds=1, head_rates=(0.03,), subset_epochs=(1,))
    result = evaluate_set(bench, "random:6", config)
    assert result.setting == "full" and len(result.scores()["generic"].students) == 1
    assert evaluate_set(bench, make_set(bench), replace(config, recipes=("own",))).own


# --- similarity ---------------------------------------------------------------------------------------------------


def test_a_similarity_matrix_is_used(bench: Workbench, tmp_path: Path) -> None:
    config = replace(QUICK, seeds=1, recipes=("own",))
    soft = replace(OWN, loss="soft_infonce")
    plain = evaluate_set(bench, make_set(bench), config).scores()["own"].students
    identity = replace(make_set(bench, similarity=torch.eye(6)), recipe=soft)
    rolled = replace(make_set(bench, similarity=torch.eye(6).roll(1, 0)), recipe=soft)
    rolled.save(tmp_path)
    assert DistilledSet.load(tmp_path).stored_floats == identity.stored_floats == make_set(bench).stored_floats + 36
    assert evaluate_set(bench, identity, config).scores()["own"].students[0].to_json() == pytest.approx(
        plain[0].to_json()
    )
    data = subject(bench, DistilledSet.load(tmp_path)).draw(0)
    assert torch.equal(data.similarity if data.similarity is not None else torch.zeros(()), torch.eye(6).roll(1, 0))
    student = train_student(bench, data, replace(soft, epochs=20), 0)
    images, texts = data.images, data.texts
    assert isinstance(images, TensorInputs) and isinstance(texts, TensorInputs)
    with torch.no_grad():
        found = student(images.tensor, texts.tensor).softmax(1)
    asked, opposite = found.roll(-1, 0).diagonal(), found.roll(1, 0).diagonal()  # image i with text i - 1, i + 1
    assert float(asked.mean()) > 2 * max(float(opposite.mean()), float(found.diagonal().mean()))


def test_soft_targets_need_a_similarity(bench: Workbench) -> None:
    distilled = replace(make_set(bench), recipe=replace(OWN, loss="soft_infonce"))
    with pytest.raises(ConfigError, match="no similarity matrix"):
        evaluate_set(bench, distilled, replace(QUICK, recipes=("own",)))


# --- tables -------------------------------------------------------------------------------------------------------


def row(**changes: Any) -> Evaluation:
    generic = Scores({name: Figure(12.34, 0.56) for name in MEASURES})
    return replace(
        Evaluation(
            set="random:6",
            kind="subset",
            setting="heads",
            protocol="last",
            pairs=6,
            stored_floats=4802,
            seeds=3,
            own=None,
            generic=generic,
            chance=Recalls(*[0.0] * 6, mean_recall=2.086),
            image_tower="convnet",
            text_tower="hashing",
            data={},
            details={},
            seconds=1.0,
            peak_memory_bytes=None,
        ),
        **changes,
    )


def test_a_table_says_beneath_what_its_rows_share() -> None:
    text = evaluation_text([row(), row(set="full", pairs=30000, own=row().generic)])
    lines = text.splitlines()
    assert len(lines) == 2 + 3 + 1
    assert [cell.strip() for cell in lines[2].split("|")[1:6]] == ["random:6", "generic", "6", "4,802", "12.3 ± 0.6"]
    assert lines[3].split("|")[2].strip() == "own"
    assert lines[-1] == ("setting heads, protocol last, 3 students, mean ± standard deviation in percent; chance 2.09")
    assert len({len(line) for line in lines[:5]}) == 1


def test_rows_of_different_settings_and_protocols_say_which() -> None:
    text = evaluation_text([row(), row(setting="full", protocol="test-best-legacy")])
    lines = text.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:4]] == ["set", "setting", "protocol"]
    assert [cell.strip() for cell in lines[3].split("|")[1:4]] == ["random:6", "full", "test-best-legacy"]
    assert "setting" not in lines[-1] and "3 students" in lines[-1]
    assert lines[-1].endswith("biased, only to compare with published rows")


def test_a_table_that_is_too_wide_for_a_terminal_is_one_block_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from vldistill.evaluation import tables

    header, rows = ["set", "mean recall", "TR@1"], [["a-long-name-of-a-set", "27.3 ± 0.2", "11.5"], ["b", "6.5", "1.9"]]
    assert tables.fitted(header, rows) == markdown(header, rows)  # a pipe has no width
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    text = tables.fitted(header, rows)
    assert text.splitlines()[:3] == ["a-long-name-of-a-set", "  mean recall  27.3 ± 0.2", "  TR@1         11.5"]
    assert max(map(len, text.splitlines())) <= 40
    monkeypatch.setenv("COLUMNS", "100")
    assert tables.fitted(header, rows) == markdown(header, rows)


def test_markdown_is_aligned() -> None:
    assert markdown(["a", "long"], [["wide", "b"]]) == "| a    | long |\n|------|------|\n| wide | b    |"
    assert evaluation_rows([row(generic=None)]) == []
