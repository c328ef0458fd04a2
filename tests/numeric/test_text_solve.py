"""text_solve: texts from whose regression the best coefficients come, those by least squares over every single pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from double import ENCODER
from sklearn.kernel_ridge import KernelRidge

from vldistill.config import DataConfig, DistillConfig
from vldistill.distillation.kernels import kernel_named
from vldistill.distillation.method import Context
from vldistill.distillation.methods.text_solve import TextSolve, TextSolveOptions, solved_texts
from vldistill.distillation.start import starting_pairs
from vldistill.errors import ConfigError
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Reporter
from vldistill.training.data import TrainingData
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

CONFIG = DistillConfig(method="text_solve", pairs=6)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    data = DataConfig(source="scenes:train=40,val=20,test=20", cache=str(tmp_path_factory.mktemp("cache")))
    return Workbench(data, ENCODER, torch.device("cpu"), Reporter(quiet=True))


@pytest.mark.parametrize("name", ["linear", "rbf", "ntk"])
def test_the_regression_on_solved_texts_has_the_best_coefficients(name: str) -> None:
    draw = np.random.default_rng(0)
    mapping = draw.permutation(np.repeat(np.arange(20), draw.integers(1, 4, 20)))
    x = draw.normal(size=(20, 7))
    y = x[mapping] @ draw.normal(size=(7, 5)) + draw.normal(size=(len(mapping), 5))
    sides = TensorInputs(torch.from_numpy(x)), TensorInputs(torch.from_numpy(y))
    data = TrainingData(sides[0], sides[1], torch.from_numpy(mapping))
    photos, ridge, student_ridge = x[[3, 9, 14]], 0.7, 0.4
    kernel = kernel_named(name, 16)
    gram, cross = (kernel(torch.from_numpy(rows), torch.from_numpy(photos)).numpy() for rows in (photos, x[mapping]))
    size = np.trace(gram) / 3
    targets = np.stack([np.linalg.solve(y.T @ y / len(y) + ridge * np.eye(5), row) for row in y])
    root: Any = scipy.linalg.sqrtm(ridge * size / 7 * gram)  # least squares of all pairs and of the ridge below them
    rows = np.concatenate([cross / len(y) ** 0.5, root.real])
    best = np.linalg.lstsq(rows, np.concatenate([targets / len(y) ** 0.5, np.zeros((3, 5))]))[0]
    texts = solved_texts(data, torch.from_numpy(photos), kernel, ridge, student_ridge).numpy()
    student = KernelRidge(alpha=student_ridge * size, kernel="precomputed").fit(gram, texts)
    np.testing.assert_allclose(student.dual_coef_ * student_ridge * size, best, rtol=1e-6)


@pytest.mark.parametrize("space", ["pixels", "features"])
def test_photos_stay_and_texts_change(bench: Workbench, space: str) -> None:
    context = Context(bench, resolve_distill(replace(CONFIG, space=space), bench.setting), TextSolveOptions())
    method = TextSolve()
    state = method.setup(starting_pairs(method, context), context)
    made = method.export(state, context)
    assert torch.equal(made.images, state.variables["images"])
    assert not torch.allclose(made.texts, state.variables["texts"], atol=0.1)
    torch.testing.assert_close(made.texts.norm(), state.variables["texts"].norm())


def test_what_cannot_be(bench: Workbench) -> None:
    for options in ({"kernel": "cubic"}, {"ridge": 0.0}, {"student_ridge": -1.0}, {"student_batch": 1}):
        with pytest.raises(ConfigError, match=r"text_solve\.\w+ is .*expected"):
            TextSolveOptions(**options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"learn is image.*text or both"):
        context = Context(bench, resolve_distill(replace(CONFIG, learn="image"), bench.setting), TextSolveOptions())
        TextSolve().check(context)
