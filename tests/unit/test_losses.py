"""Contrastive losses against their formulas, pair by pair, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from vldistill.training.losses import SOFT_LOSSES, bce, infonce, siglip, soft_infonce, wbce


def random_logits(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def by_hand(logits: torch.Tensor, similarity: torch.Tensor) -> float:
    """-(1/B) sum_ij S_ij log softmax(logits)_ij, both directions, in pure Python."""
    rows, weights, count = logits.tolist(), similarity.tolist(), len(logits)
    total = 0.0
    for i in range(count):
        for j in range(count):
            by_row = math.log(sum(math.exp(rows[i][k]) for k in range(count)))
            by_column = math.log(sum(math.exp(rows[k][j]) for k in range(count)))
            total -= weights[i][j] * ((rows[i][j] - by_row) + (rows[i][j] - by_column))
    return total / (2 * count)


@pytest.mark.parametrize("count", [2, 5])
def test_infonce_is_its_formula(count: int):
    logits = random_logits(count)
    assert float(infonce(logits)) == pytest.approx(by_hand(logits, torch.eye(count)), rel=1e-12)
    assert float(infonce(logits)) == pytest.approx(float(infonce(logits.T)), rel=1e-12)


def test_soft_infonce_is_its_formula_and_infonce_at_the_identity():
    logits = random_logits(5)
    similarity = random_logits(5, seed=1).sigmoid()
    assert float(soft_infonce(logits, similarity)) == pytest.approx(by_hand(logits, similarity), rel=1e-12)
    torch.testing.assert_close(soft_infonce(logits, torch.eye(5).double()), infonce(logits))


@pytest.mark.parametrize("bias", [-10.0, 0.5])
def test_siglip_is_its_formula_pair_by_pair(bias: float):
    logits, equal = random_logits(5), torch.zeros(5, 5, dtype=torch.bool)
    equal[0, 3] = equal[3, 0] = True

    def by_pairs(left_out: torch.Tensor) -> float:
        total = 0.0
        for i in range(5):
            for j in range(5):
                sign = 1 if i == j else -1
                if not left_out[i, j]:
                    total += math.log1p(math.exp(-sign * (float(logits[i, j]) + bias)))
        return total / 5

    assert float(siglip(logits, bias=bias)) == pytest.approx(by_pairs(torch.zeros(5, 5)), rel=1e-12)
    assert float(siglip(logits, equal, bias)) == pytest.approx(by_pairs(equal), rel=1e-12)
    assert by_pairs(equal) < by_pairs(torch.zeros(5, 5))


def test_known_values():
    assert float(infonce(torch.zeros(8, 8))) == pytest.approx(math.log(8))
    assert float(infonce(100 * torch.eye(8))) == pytest.approx(0, abs=1e-6)
    assert float(infonce(torch.full((4, 4), 1e4))) == pytest.approx(math.log(4))  # no overflow


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients(check: Callable[..., bool]):
    logits, similarity = random_logits(4).requires_grad_(), random_logits(4, seed=1).sigmoid().requires_grad_()
    assert check(infonce, (logits,))
    assert check(siglip, (logits,))
    assert check(soft_infonce, (logits, similarity))
    for soft in SOFT_LOSSES.values():
        assert check(soft, (logits, similarity))


def test_binary_cross_entropies_are_their_formulas():
    logits, similarity = random_logits(5), random_logits(5, seed=1) / 2  # targets outside [0, 1] as learned ones
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for z, s in zip(logits.flatten().tolist(), similarity.flatten().tolist()):
        probability = 1 / (1 + math.exp(-z))
        kinds[s > 0.5].append(-s * math.log(probability) - (1 - s) * math.log(1 - probability))
    positives, rest = kinds[True], kinds[False]
    assert float(bce(logits, similarity)) == pytest.approx(sum(positives + rest) / 25, rel=1e-12)
    expected = (sum(positives) / len(positives) + sum(rest) / len(rest)) / 2
    assert float(wbce(logits, similarity)) == pytest.approx(expected, rel=1e-12)
    target = similarity.clamp(0, 1)
    torch.testing.assert_close(bce(logits, target), torch.nn.BCEWithLogitsLoss()(logits, target))


def test_weighted_cross_entropy_without_positives_or_without_others():
    logits = torch.full((2, 2), 0.0)
    assert float(wbce(logits, torch.zeros(2, 2))) == pytest.approx(math.log(2) / 2)
    assert float(wbce(logits, torch.ones(2, 2))) == pytest.approx(math.log(2) / 2)
    assert math.isfinite(float(wbce(torch.full((2, 2), 1e4), torch.eye(2))))
