"""Setting ``both``: text towers that are trained, texts as input embeddings, sets that hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SCENES, make_bench

from tiny_bert import write_bert
from vldistill.cli import main
from vldistill.config import DistillConfig, EvaluateConfig, TextTowerConfig
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.start import make_start, nearest_captions, starting_pairs
from vldistill.distilled.distilled_set import DistilledSet, one_line
from vldistill.encoders.tokens import TokenTower, require_trainable
from vldistill.errors import ArtefactError, ConfigError
from vldistill.evaluation.protocol import evaluate_set
from vldistill.evaluation.subjects import check_target
from vldistill.options.resolve import resolve_distill
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

QUICK = EvaluateConfig(
    generic="generic-v1", seeds=1, generic_epochs=1, subset_epochs=(1,), head_rates=(0.1,), tower_rates=(0.01, 0.001)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def bench(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    text = TextTowerConfig(name=str(folder), pooling="mean", max_tokens=12)
    return make_bench(tmp_path_factory.mktemp("cache"), "both", text=text)


@pytest.fixture(scope="module")
def distilled(bench: Workbench) -> DistilledSet:
    entry = METHODS.find("covmatch")
    method: Any = entry.build()
    context = Context(
        bench,
        resolve_distill(DistillConfig(method="covmatch", pairs=5, validate_every=0), bench.setting),
        entry.options(),
    )
    return method.export(method.setup(starting_pairs(method, context), context), context)


def test_token_inputs_give_the_towers_own_sentence_vectors(bench: Workbench) -> None:
    split = bench.split("train")
    index = torch.tensor([3, 50, 7, 120])
    tower = TokenTower(require_trainable(bench.text_tower))
    found = tower(split.data.texts.rows(index)).detach()
    expected = bench.text_tower.encode([split.pairs.captions[int(i)] for i in index])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    cls = TextTowerConfig(name=bench.encoder_config.text.name, pooling="cls", max_tokens=12)
    other = make_bench(bench.cache, "both", text=cls)
    found = TokenTower(require_trainable(other.text_tower))(split.data.texts.rows(index)).detach()
    torch.testing.assert_close(found, other.text_tower.encode([split.pairs.captions[int(i)] for i in index]))


def test_padding_changes_nothing(bench: Workbench) -> None:
    rows = bench.split("train").data.texts.rows(torch.tensor([0, 1]))
    longer = torch.cat([rows, torch.zeros(2, 3, rows.shape[-1])], dim=1)
    longer[:, -3:, :-1] = 7.0
    tower = TokenTower(require_trainable(bench.text_tower))
    torch.testing.assert_close(tower(longer), tower(rows), rtol=1e-4, atol=1e-5)


def test_everything_is_trained_but_the_table_and_the_pooler(bench: Workbench) -> None:
    student = bench.student(0)
    names = set(student.trained()["text"])
    assert {name.partition(".")[0] for name in names} == {"tower", "head"}
    assert not any("word_embeddings" in name or "pooler" in name for name in names)
    everything = {name for name, _ in student.text.named_parameters()}
    assert all("word_embeddings" in name or "pooler" in name for name in everything - names)
    assert student.train() and not student.text.get_submodule("tower").training
    table = require_trainable(bench.text_tower).model.get_input_embeddings()
    assert not any(p.requires_grad and p.grad is not None for p in table.parameters())


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_heads_learn_faster_by_their_factor(bench: Workbench, factor: float) -> None:
    data = bench.split("train").data
    index = torch.arange(0, 40, 5)
    rows = TensorInputs(data.images.rows(data.caption_image[index])), TensorInputs(data.texts.rows(index))
    recipe = Recipe(
        rates={"image": (0.01,), "text": (0.02,)},
        epochs=1,
        momentum=0.0,
        weight_decay=0.0,
        dropout=0.0,
        head_factor=factor,
    )
    student, start = bench.student(1), bench.student(1)
    fit(student, TrainingData(*rows, torch.arange(8)), recipe, seed=0, device=bench.device)
    loss = torch.nn.functional.cross_entropy
    logits = start(rows[0].tensor, rows[1].tensor)
    ((loss(logits, torch.arange(8)) + loss(logits.T, torch.arange(8))) / 2).backward()
    for side, rate in (("image", 0.01), ("text", 0.02)):
        for name, before in start.trained()[side].items():
            moved = rate * (factor if name.startswith("head.") else 1.0) * (0 if before.grad is None else before.grad)
            torch.testing.assert_close(student.trained()[side][name], before - moved, rtol=1e-3, atol=1e-6)


def test_a_set_of_tokens_is_saved_loaded_and_judged(bench: Workbench, distilled: DistilledSet, tmp_path: Path) -> None:
    assert distilled.text_space == "tokens" and distilled.texts.ndim == 3 and distilled.text_mask is not None
    distilled.save(tmp_path)
    loaded = DistilledSet.load(tmp_path)
    assert loaded.text_mask is not None and torch.equal(loaded.text_mask, distilled.text_mask)
    assert torch.equal(loaded.text_inputs, distilled.text_inputs)
    assert loaded.stored_floats == distilled.images.numel() + distilled.texts.numel() + distilled.text_mask.numel() + 2
    assert "input embeddings" in (tmp_path / "README.md").read_text()
    assert not loaded.standardisation
    result = evaluate_set(bench, loaded, QUICK)
    own = Recipe.from_dict(result.scores()["own"].recipe)
    assert result.setting == "both" and own.rates["image"][0] * own.head_factor == pytest.approx(0.1)
    trials = result.scores()["generic"].trials or ()
    assert [trial.rates for trial in trials] == [{"towers": 0.01, "heads": 0.1}, {"towers": 0.001, "heads": 0.1}]
    best = max(trials, key=lambda trial: trial.val_mean_recall).rates
    recipe = result.scores()["generic"].recipe
    assert recipe["rates"] == {"image": [best["towers"]], "text": [best["towers"]]}
    assert recipe.get("head_factor", 1.0) == pytest.approx(0.1 / best["towers"])


def test_real_pairs_are_judged_in_the_same_setting(bench: Workbench) -> None:
    found = evaluate_set(bench, "random:4", replace(QUICK, recipes=("generic",)))
    assert found.stored_floats == 4 * (3 * 16 * 16 + 12) and found.scores()["generic"].mean_recall.mean >= 0


def test_tokens_and_sentence_vectors_are_not_mixed_up(bench: Workbench, distilled: DistilledSet) -> None:
    heads = make_bench(bench.cache, "heads", text=bench.encoder_config.text)
    with pytest.raises(ConfigError, match="holds texts as tokens, which setting 'heads' cannot train on"):
        check_target(heads, distilled, QUICK)
    with pytest.raises(ArtefactError, match="no tokens"):
        replace(distilled, text_mask=torch.ones(5, 2))
    with pytest.raises(ArtefactError, match="no tokens"):
        replace(distilled, text_mask=torch.full(distilled.texts.shape[:2], 0.5))
    assert distilled.text_mask is not None
    with pytest.raises(ArtefactError, match="no tokens"):
        replace(distilled, text_mask=distilled.text_mask * 0)


def test_a_text_tower_without_weights_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'hashing' has no parameters"):
        make_bench(tmp_path, "both").check_towers()


def test_noise_has_no_tokens(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match="noise has no tokens"):
        make_start(bench, "noise", 5, 0)
    assert make_start(bench, "kmeans", 5, 0).text_mask is not None


def test_the_nearest_caption_of_real_tokens_has_their_sentence_vector(bench: Workbench) -> None:
    start = make_start(bench, "real", 6, 0)
    assert start.text_mask is not None
    inputs = torch.cat([start.texts, start.text_mask.unsqueeze(-1)], dim=-1)
    found = bench.text_tower.encode(nearest_captions(bench, inputs))
    told = list(map(one_line, start.captions))
    torch.testing.assert_close(found, bench.text_tower.encode(told), rtol=1e-3, atol=1e-3)


def test_the_command_line_distils_and_judges_in_setting_both(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    towers = [
        f"--data.source={SCENES}",
        f"--data.cache={tmp_path / 'cache'}",
        "--encoder.setting=both",
        "--encoder.image.name=convnet",
        "--encoder.image.weights=random",
        "--encoder.image.size=16",
        "--encoder.image.options={width: 8}",
        f"--encoder.text.name={folder}",
        "--encoder.text.max_tokens=12",
        "--encoder.dim=16",
        "--quiet",
    ]
    options = ["--pairs=4", "--iterations=2", "--distill.validate_every=0", "--covmatch.real_batch=8"]
    assert main(["distill", "--run", run, *towers, "--method=bitraj", *options]) == 2
    assert "bitraj works in setting" in capsys.readouterr().err
    assert main(["distill", "--run", run, *towers, "--method=covmatch", *options]) == 0
    made = DistilledSet.load(capsys.readouterr().out.strip())
    assert made.text_space == "tokens" and all(caption["nearest"] for caption in made.captions)
