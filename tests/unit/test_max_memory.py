"""``runtime.max_memory``: what it is written as, what is sized by it, and memory counted from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from vldistill.config import RuntimeConfig
from vldistill.config.runtime import most_bytes
from vldistill.encoders.dual import DualEncoder, Head
from vldistill.errors import ConfigError
from vldistill.runtime import shapes
from vldistill.runtime.memory import GraphBytes, available_memory, limit_memory, memory_limit
from vldistill.runtime.shapes import bytes_per_row, rows_that_fit
from vldistill.training.losses import infonce
from vldistill.training.stepper import Stepper

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_limit() -> Iterator[None]:
    yield
    limit_memory(CPU, 0)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        *((0, 0), (0.0, 0), (8, 8 * 10**9), ("8", 8 * 10**9), (0.5, 5 * 10**8), ("7.5GB", 7_500_000_000)),
        *(("24 gb", 24 * 10**9), ("512MiB", 2**29), ("8G", 8 * 10**9), (".5GB", 5 * 10**8), ("100B", 100)),
    ],
)
def test_amounts_of_memory(asked: float | str, size: int) -> None:
    assert most_bytes(asked) == size
    assert RuntimeConfig(max_memory=asked).max_memory == asked


@pytest.mark.parametrize("asked", [-1, "", "much", "8 parsecs", "8GBs", True, float("nan"), float("inf"), "-2GB"])
def test_what_is_no_amount_is_refused(asked: float | str) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.max_memory is .*expected"):
        RuntimeConfig(max_memory=asked)


def test_what_is_available_stays_within_the_limit() -> None:
    free = available_memory(CPU)
    limit_memory(CPU, 10**18)
    assert memory_limit(CPU) == 10**18 and abs(available_memory(CPU) - free) < 4 * 10**9
    limit_memory(CPU, 1)
    assert available_memory(CPU) == 0
    limit_memory(CPU, 0)
    assert memory_limit(CPU) == 0 and available_memory(CPU) > 10**8


def test_bytes_of_layers_by_hand() -> None:
    """Inputs of 6, 5 hidden numbers twice, 4 outputs, float32."""
    module = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4)).requires_grad_(False)
    without, back = (bytes_per_row(module, (6,), way) for way in (False, True))
    assert 4 * (6 + 5) <= without <= 4 * (6 + 5 + 5 + 4)  # layers' inputs are freed where nothing needs them
    assert back >= 4 * (6 + 5 + 5 + 4) > without


def test_the_graph_from_shapes_is_the_graph_that_a_real_pass_keeps() -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8), nn.GELU(), nn.Flatten()]
    tower = nn.Sequential(*layers).requires_grad_(False)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    kept = GraphBytes()
    with kept:
        _ = tower(images)
    each = bytes_per_row(tower, (3, 32, 32), back=True)
    assert kept.count / 2 <= each <= 2 * kept.count / 2  # gradients on the way back come on top


def test_a_module_that_reads_numbers_is_left_to_halving() -> None:
    class Reads(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float(x.sum() > 0)

    limit_memory(CPU, 1)
    assert rows_that_fit(Reads(3, 3), torch.ones(7, 3), 0.5, back=True) == 7


def test_passes_are_as_wide_as_the_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(6, 5)
    inputs, each = torch.ones(40, 6), bytes_per_row(module, (6,), back=True)
    assert rows_that_fit(module, inputs, 0.5, back=True) == 40  # no limit
    limit_memory(CPU, 10**12)
    monkeypatch.setattr(shapes, "available_memory", lambda device: 20 * each)
    assert rows_that_fit(module, inputs, 0.5, back=True) == 10
    monkeypatch.setattr(shapes, "available_memory", lambda device: 0)
    assert rows_that_fit(module, inputs, 0.5, back=True) == 1


def test_a_training_step_takes_micro_batches_that_fit_and_gives_the_same_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gradients() -> tuple[int, list[torch.Tensor]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = DualEncoder(nn.Sequential(nn.Linear(6, 5), nn.GELU()), Head(4, 5), 5.0).double()
            images, texts = (torch.randn(12, width, dtype=torch.float64) for width in (6, 4))
        stepper = Stepper(model)
        stepper.backward(images, texts, 12, infonce)
        return stepper.sides.micro_batch, [p.grad for p in model.parameters() if p.grad is not None]

    whole, expected = gradients()
    limit_memory(CPU, 10**12)
    monkeypatch.setattr(shapes, "available_memory", lambda device: 1500)
    parts, found = gradients()
    assert whole == 0 and 1 <= parts < 12
    torch.testing.assert_close(found, expected)
