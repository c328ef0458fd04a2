from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DISTILL, make_bench, start_of

from vldistill.config import EvaluateConfig, TextTowerConfig
from vldistill.config.plain import entry, section
from vldistill.distillation.method import Context
from vldistill.distillation.methods.bitraj import BiTrajectoryMatching, BitrajOptions
from vldistill.distilled.distilled_set import DistilledSet, one_line
from vldistill.encoders.features import FeatureTable
from vldistill.errors import ArtefactError
from vldistill.evaluation import text_map as spaces
from vldistill.evaluation.protocol import evaluate_set
from vldistill.evaluation.subjects import check_target, subject
from vldistill.evaluation.text_map import fit_ridge, mapped_texts
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Mute
from vldistill.workbench.bench import Workbench

QUICK = EvaluateConfig(
    generic="generic-v1", seeds=1, generic_epochs=2, head_rates=(0.1,), recipes=("generic",), text_map="ridge"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def distilled(cache: Path) -> DistilledSet:
    """Six real pairs of the 32-dimensional hashing tower."""
    bench = make_bench(cache)
    context = Context(bench, resolve_distill(DISTILL, bench.setting), BitrajOptions())
    method = BiTrajectoryMatching()
    return method.export(method.setup(start_of(bench), context), context)


@pytest.fixture(scope="module")
def other(cache: Path) -> Workbench:
    """The same data with a text tower of another width."""
    return make_bench(cache, text=TextTowerConfig(name="hashing", width=48))


def test_ridge_is_the_closed_form_and_finds_a_linear_map() -> None:
    draw = np.random.default_rng(0)
    source, val = draw.normal(size=(400, 6)), draw.normal(size=(50, 6))
    true, shift = draw.normal(size=(6, 3)), draw.normal(size=3)
    ridge, alpha, score = fit_ridge(source, source @ true + shift, val, val @ true + shift)
    assert score > 0.9999 and alpha == 1.0
    centred, wanted = source - source.mean(0), (source @ true + shift) - (source @ true + shift).mean(0)
    closed = np.linalg.solve(centred.T @ centred + alpha * np.eye(6), centred.T @ wanted)
    np.testing.assert_allclose(ridge.coef_.T, closed, atol=1e-8)
    noisy = draw.normal(size=(400, 3))  # nothing to learn: the strongest regularisation is best
    assert fit_ridge(source, noisy, val, draw.normal(size=(50, 3)))[1] == 10_000.0


def test_mapped_texts_lie_nearer_to_their_own_captions_than_to_others(
    distilled: DistilledSet, other: Workbench
) -> None:
    """The set's texts are real captions here, so the other tower says what their vectors should be."""
    mapped, about = mapped_texts(distilled, other)
    assert mapped.shape == (6, 48) and about["kind"] == "ridge" and about["captions"] == 200
    captions = list(map(one_line, start_of(make_bench(other.cache)).captions))
    truth = other.text_standardisation(other.text_tower.encode(captions))
    found = torch.nn.functional.normalize(mapped, dim=1) @ torch.nn.functional.normalize(truth, dim=1).T
    assert (found.argmax(1) == torch.arange(6)).all()


def test_a_map_reads_the_rows_it_needs_in_the_number_format_of_the_data(
    distilled: DistilledSet, other: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(spaces, "CAPTIONS", 30)
    real = FeatureTable.all
    monkeypatch.setattr(FeatureTable, "all", lambda table: asked.append(len(table)) or real(table))
    half = Workbench(
        replace(other.data_config, features="float16", cache=str(tmp_path)), other.encoder_config, other.device, Mute()
    )
    assert mapped_texts(distilled, half)[1]["captions"] == 30
    assert asked == [100, 100]  # of val alone
    shards = [np.load(path, mmap_mode="r") for path in tmp_path.glob("features-*/*.npy")]
    assert len(shards) == 4 and {shard.dtype for shard in shards} == {np.dtype("float16")}


def test_another_text_tower_is_refused_unless_a_map_is_asked_for(distilled: DistilledSet, other: Workbench) -> None:
    with pytest.raises(ArtefactError, match="text_map ridge"):
        check_target(other, distilled, replace(QUICK, text_map="none"))
    result = evaluate_set(other, distilled, QUICK)
    assert section(result.details, "text_map")["from"] == "hashing"
    r2 = entry(section(result.details, "text_map"), "r2_val", float)
    assert r2 is not None and r2 < 1
    assert result.scores()["generic"].mean_recall.mean > 0


def test_the_own_text_tower_needs_no_map(cache: Path, distilled: DistilledSet) -> None:
    judged = subject(make_bench(cache), distilled)
    assert "text_map" not in judged.details
    assert torch.equal(judged.draw(0).texts.rows(torch.arange(6)), distilled.texts)


def test_a_set_that_does_not_say_how_its_text_tower_is_built_cannot_be_mapped(
    distilled: DistilledSet, other: Workbench
) -> None:
    with pytest.raises(ArtefactError, match="does not record how its text tower"):
        mapped_texts(replace(distilled, info={"name": "x"}), other)
    encoder = {"text": {"name": "hashing", "width": 40}}
    with pytest.raises(ArtefactError, match="other weights"):
        mapped_texts(replace(distilled, info={"config": {"encoder": encoder}}), other)
