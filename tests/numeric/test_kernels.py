"""Kernels against quadrature, the Jacobians of wide heads and scikit-learn; ridge regression against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.gaussian_process import kernels as sklearn_kernels
from sklearn.kernel_ridge import KernelRidge
from torch.func import functional_call, grad, vmap

from vldistill.distillation.kernels import gelu_moments, head_ntk, kernel_named, linear, rbf, regression
from vldistill.encoders.dual import Head
from vldistill.errors import ConfigError


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.array(tensor.tolist())


def rows(seed: int, count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("a", "b", "c"), [(0.3, 0.3, 0.3), (0.3, 0.5, -0.2), (2.0, 0.1, 0.4), (1.0, 1.5, 0.0)])
def test_the_moments_of_gelu_are_those_of_quadrature(a: float, b: float, c: float) -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    first, second = np.meshgrid(nodes, nodes, indexing="ij")
    chance = np.outer(weights, weights) / (2 * np.pi)
    u = np.sqrt(a) * first
    v = c / np.sqrt(a) * first + np.sqrt(max(b - c**2 / a, 0.0)) * second
    value = (chance * u * norm.cdf(u) * v * norm.cdf(v)).sum()
    slope = (chance * (norm.cdf(u) + u * norm.pdf(u)) * (norm.cdf(v) + v * norm.pdf(v))).sum()
    found = gelu_moments(*(torch.tensor(x, dtype=torch.float64) for x in (a, b, c)))
    np.testing.assert_allclose([float(x) for x in found], [value, slope], rtol=1e-7)


def test_the_tangent_kernel_is_that_of_wide_heads() -> None:
    width, features = 128, rows(0, 3, 24)
    features = torch.cat([features, features[:1] + 0.2 * features[1:2]])  # two rows that are alike

    def tangent(seed: int) -> torch.Tensor:
        head = Head(24, width).double()
        params: dict[str, torch.Tensor] = dict(head.named_parameters())
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, bound in (("project", 24**-0.5), ("mix", width**-0.5)):  # as torch starts them
                for part in ("weight", "bias"):
                    params[f"{name}.{part}"].uniform_(-bound, bound, generator=draw)
        weights = rows(seed + 100, width, 1)[:, 0] / width**0.5  # <weights, embedding> has the trace's mean

        def shadow(params: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
            return weights @ torch.nn.functional.normalize(functional_call(head, params, (row[None],))[0], dim=0)

        slopes = vmap(grad(shadow), (None, 0))(params, features)
        flat = torch.cat([slope.flatten(1) for slope in slopes.values()], dim=1)
        return flat @ flat.T

    wide = torch.stack([tangent(seed) for seed in range(20)]).mean(0)
    found = head_ntk(features, features, width)
    size = float(found.diagonal().mean())
    torch.testing.assert_close(found / size, wide / size, atol=0.1, rtol=0)


def test_plain_kernels_and_regression_are_scikit_learns() -> None:
    left, right, targets = rows(1, 5, 6), rows(2, 7, 6), rows(3, 7, 3)
    theirs: Any = sklearn_kernels.DotProduct(0)
    np.testing.assert_allclose(linear(left, right), theirs(numpy(left), numpy(right)) / 6)
    theirs = sklearn_kernels.RBF(6**0.5)
    np.testing.assert_allclose(rbf(left, right), theirs(numpy(left), numpy(right)))
    gram = rbf(right, right)
    ridge: Any = KernelRidge  # its annotations want a whole number
    fitted = ridge(alpha=0.1, kernel="precomputed").fit(numpy(gram), numpy(targets))
    found = regression(rbf(left, right), gram, 0.1, targets)
    np.testing.assert_allclose(found, fitted.predict(numpy(rbf(left, right))))
    torch.testing.assert_close(kernel_named("ntk", 9)(left, right), head_ntk(left, right, 9))
    with pytest.raises(ConfigError, match="unknown kernel 'rbg'"):
        kernel_named("rbg", 1)


@pytest.mark.parametrize("name", ["linear", "rbf", "ntk"])
def test_kernels_have_gradients_and_no_negative_eigenvalue(name: str) -> None:
    kernel, left, right = kernel_named(name, 8), rows(4, 3, 5).requires_grad_(True), rows(5, 4, 5).requires_grad_(True)
    assert torch.autograd.gradcheck(kernel, (left, right))
    both = torch.cat([left, right, left[:1]]).detach()
    torch.testing.assert_close(kernel.own(both), kernel(both, both).diagonal())
    torch.testing.assert_close(kernel.of(torch.sin)(left, right), kernel(left.sin(), right.sin()))
    assert float(torch.linalg.eigvalsh(kernel(both, both)).min()) > -1e-12
