"""kip: its error against scikit-learn's kernel ridge regression, its gradients against values at moved pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from double import assert_slopes, double_bench, prepared
from sklearn.kernel_ridge import KernelRidge

from vldistill.distillation.kernels import kernel_named
from vldistill.distillation.method import Context, State
from vldistill.distillation.methods.kip import KipOptions
from vldistill.distillation.real_batches import real_batch
from vldistill.errors import ConfigError
from vldistill.workbench.bench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return double_bench(tmp_path_factory.mktemp("kip"))


def by_scikit_learn(bench: Workbench, context: Context[Any], state: State) -> float:
    """Both directions' errors at the variables of ``state``."""
    images, (captions,) = real_batch(context, context.options.real_batch, 1)
    data = bench.split("train").data
    real = [data.images.rows(images), data.texts.rows(captions)]
    learned = [bench.image_inputs(state.variables["images"]), state.variables["texts"]]
    kernel, total = kernel_named(context.options.kernel, 8), 0.0
    for one, other in ((0, 1), (1, 0)):
        gram = kernel(learned[one], learned[one]).numpy()
        ridge = context.options.ridge * np.trace(gram) / len(gram)
        fitted = KernelRidge(alpha=ridge, kernel="precomputed").fit(gram, learned[other].numpy())
        found = fitted.predict(kernel(real[one], learned[one]).numpy())
        total += float(np.mean((found - real[other].numpy()) ** 2)) / 2
    return total


@pytest.mark.parametrize("name", ["linear", "rbf", "ntk"])
def test_error_and_gradient(bench: Workbench, name: str) -> None:
    method, context, state = prepared(bench, [], "kip", KipOptions(kernel=name, ridge=0.01, real_batch=12))
    update = method.step(state, context)
    assert update.value == pytest.approx(by_scikit_learn(bench, context, state), rel=1e-9)
    assert_slopes(lambda moved: by_scikit_learn(bench, context, moved), state, update.gradients)


def test_what_cannot_be() -> None:
    for options in ({"kernel": "cubic"}, {"ridge": 0.0}, {"real_batch": 1}, {"student_rate": 0.0}):
        with pytest.raises(ConfigError, match=r"kip\.\w+ is .*expected"):
            KipOptions(**options)  # pyright: ignore[reportArgumentType]
