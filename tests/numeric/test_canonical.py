"""canonical: directions against the generalised eigenproblem, the rotation against scipy, gradients against values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from double import ENCODER

from vldistill.config import DataConfig, DistillConfig
from vldistill.distillation import covariances
from vldistill.distillation.loop import Loop
from vldistill.distillation.method import Context
from vldistill.distillation.methods.canonical import (
    CanonicalOptions,
    CanonicalPairs,
    canonical_directions,
    nearest_rotation,
)
from vldistill.distillation.start import starting_pairs
from vldistill.errors import ConfigError
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Reporter
from vldistill.training.data import TrainingData
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

CONFIG = DistillConfig(method="canonical", pairs=6, iterations=4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    data = DataConfig(source="scenes:train=40,val=20,test=20", cache=str(tmp_path_factory.mktemp("cache")))
    return Workbench(data, ENCODER, torch.device("cpu"), Reporter(quiet=True))


def pairs_of(seed: int = 0, images: int = 30, width: int = 7, text_width: int = 5) -> TrainingData:
    """Correlated pairs; images have one to four captions, in no order."""
    draw = np.random.default_rng(seed)
    mapping = draw.permutation(np.repeat(np.arange(images), draw.integers(1, 5, images)))
    x = draw.normal(size=(images, width))
    y = x[mapping] @ draw.normal(size=(width, text_width)) + draw.normal(size=(len(mapping), text_width))
    return TrainingData(TensorInputs(torch.from_numpy(x)), TensorInputs(torch.from_numpy(y)), torch.from_numpy(mapping))


def by_the_generalised_eigenproblem(data: TrainingData, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlations and directions, the rows of which have unit length in the metric of the covariance and its ridge."""
    x = data.images.rows(data.caption_image).numpy()
    y = data.texts.rows(torch.arange(len(data))).numpy()
    cx, cy = (side.T @ side / len(x) + ridge * np.eye(side.shape[1]) for side in (x, y))
    cxy = x.T @ y / len(x)
    zero = np.zeros
    left = np.block([[zero(cx.shape), cxy], [cxy.T, zero(cy.shape)]])
    right = scipy.linalg.block_diag(cx, cy)
    values, vectors = scipy.linalg.eigh(left, right)
    order = np.argsort(-values)[: min(cxy.shape)]
    both = vectors[:, order].T * np.sqrt(2)
    return values[order], both[:, : len(cx)], both[:, len(cx) :]


@pytest.mark.parametrize("rank", [1, 3, 5, 9])
@pytest.mark.parametrize("chunk", [4, 8192])
def test_directions_solve_the_generalised_eigenproblem(rank: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariances, "IMAGES_AT_ONCE", chunk)
    data = pairs_of()
    strength, x, y = by_the_generalised_eigenproblem(data, ridge=0.7)
    images, texts = canonical_directions(data, rank, 0.7)
    assert len(images) == len(texts) == min(rank, 5)
    wanted = (x[:rank].T * strength[:rank]) @ y[:rank]
    found = (images.T @ texts).numpy()
    assert np.allclose(found / np.linalg.norm(found), wanted / np.linalg.norm(wanted), atol=1e-9)
    for side, rows in ((x, images), (y, texts)):  # each row a multiple of its direction, by the root of its strength
        weighted = side[:rank] * np.sqrt(strength[:rank, None])
        ratios = np.abs(rows.numpy()) / np.abs(weighted)
        assert np.allclose(ratios, ratios[0, 0], rtol=1e-6)


def test_directions_are_as_large_as_real_features() -> None:
    data = pairs_of(1)
    images, texts = canonical_directions(data, 3, 1.0)
    x, y = data.images.rows(data.caption_image), data.texts.rows(torch.arange(len(data)))
    for rows, real in ((images, x), (texts, y)):
        assert torch.allclose(rows.square().sum(1).mean(), real.square().sum(1).mean())


def test_the_rotation_is_the_nearest_and_changes_nothing_that_pairs_teach() -> None:
    draw = torch.Generator().manual_seed(0)
    features, directions = (torch.randn(n, 6, dtype=torch.float64, generator=draw) for n in (9, 4))
    turn = nearest_rotation(features, directions)
    assert torch.allclose(turn.T @ turn, torch.eye(4, dtype=torch.float64), atol=1e-12)
    best = (features - turn @ directions).square().sum()
    for _ in range(200):
        other = torch.linalg.qr(turn + 0.1 * torch.randn(9, 4, dtype=torch.float64, generator=draw))[0]
        assert (features - other @ directions).square().sum() > best
    square = nearest_rotation(features[:4], directions)
    wanted = scipy.linalg.orthogonal_procrustes(directions.T.numpy(), features[:4].T.numpy())[0].T
    assert np.allclose(square.numpy(), wanted, atol=1e-9)
    texts = torch.randn(4, 3, dtype=torch.float64, generator=draw)
    assert torch.allclose((turn @ directions).T @ (turn @ texts), directions.T @ texts, atol=1e-12)


def test_the_gradient_is_that_of_the_distance_to_the_nearest_canonical_pairs(bench: Workbench) -> None:
    config = replace(CONFIG, space="features")
    context = Context(bench, resolve_distill(config, bench.setting), CanonicalOptions(rank=3))
    method = CanonicalPairs()
    state = method.setup(starting_pairs(method, context), context)
    draw = torch.Generator().manual_seed(0)
    state.variables["images"] = torch.randn(state.variables["images"].shape, generator=draw, dtype=torch.float64)
    state.carried["image_directions"] = state.carried["image_directions"].double()
    update = method.step(state, context)
    way = torch.randn(state.variables["images"].shape, generator=draw, dtype=torch.float64)
    values, at = [], state.variables["images"]
    for sign in (-1, 1):
        state.variables["images"] = at + sign * 1e-6 * way
        values.append(method.step(state, context).value)
    slope = float((update.gradients["images"] * way).sum())
    assert slope == pytest.approx((values[1] - values[0]) / 2e-6, rel=1e-6)


def test_images_move_towards_the_directions_and_texts_follow(bench: Workbench) -> None:
    context = Context(bench, resolve_distill(CONFIG, bench.setting), CanonicalOptions())
    method = CanonicalPairs()
    start = starting_pairs(method, context)
    state = method.setup(start, context)
    first = method.step(state, context)
    state.variables["images"] = state.variables["images"] - 1e-2 * first.gradients["images"].sign()
    second = method.step(state, context)
    assert second.value < 0.9 * first.value and second.logs["cosine"] > first.logs["cosine"]
    made = method.export(state, context)
    turn = nearest_rotation(bench.encode_in_batches(made.images), state.carried["image_directions"])
    assert torch.allclose(made.texts, turn @ state.carried["text_directions"], atol=1e-4)
    assert not torch.allclose(made.texts, start.texts, atol=0.1)


def test_in_feature_space_the_pairs_are_the_directions_at_once(bench: Workbench) -> None:
    context = Context(
        bench, resolve_distill(replace(CONFIG, space="features"), bench.setting), CanonicalOptions(rank=4)
    )
    method = CanonicalPairs()
    state = method.setup(starting_pairs(method, context), context)
    assert method.step(state, context).value < 1e-10
    made = method.export(state, context)
    found = made.images.T @ made.texts
    wanted = state.carried["image_directions"].T @ state.carried["text_directions"]
    assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_in_feature_space_nothing_is_trained(bench: Workbench, tmp_path: Path) -> None:
    context = Context(
        bench,
        resolve_distill(replace(CONFIG, space="features", iterations=12), bench.setting),
        CanonicalOptions(rank=4),
    )
    method = CanonicalPairs()
    start = starting_pairs(method, context)
    loop = Loop(method, context, tmp_path, lambda found: 0.0, lambda *kept: None, lambda: False)
    made = loop.run(start)
    assert loop.progress.iteration == 0
    assert torch.equal(made.images, method.setup(start, context).variables["images"])


def test_what_cannot_be() -> None:
    for options in (
        {"ridge": 0.0}, {"ridge": float("inf")}, {"rank": 0}, {"student_epochs": 0}, {"student_batch": 1},
        {"student_rate": 0.0}, {"student_decay": -1.0}, {"student_temperature": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"canonical\.\w+ is .*expected"):
            CanonicalOptions(**options)  # pyright: ignore[reportArgumentType]


def test_one_side_alone_is_refused(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match=r"learn is image.*both"):
        CanonicalPairs().check(
            Context(bench, resolve_distill(replace(CONFIG, learn="image"), bench.setting), CanonicalOptions())
        )
