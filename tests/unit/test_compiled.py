"""Towers through ``torch.compile``: what fails falls back to the tower itself, with one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vldistill.encoders.dual import DualEncoder, Head
from vldistill.runtime.compiled import Compiled
from vldistill.runtime.micro_batches import ComputeOptions
from vldistill.training.losses import infonce
from vldistill.training.stepper import Stepper


def broken(when: str) -> Callable[..., Any]:
    """A compiler that fails: at once, at the first pass, on the way back, or at inputs of another size."""

    class Back(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Tensor) -> Tensor:
            return inputs.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("no code for the way back")

    def compiler(module: nn.Module) -> Callable[[Tensor], Tensor]:
        if when == "at once":
            raise RuntimeError("no compiler for this Python")

        def compiled(inputs: Tensor) -> Tensor:
            if when == "there":
                raise RuntimeError("\n  C++ compile error\nmany more lines")
            if when == "size" and len(inputs) < 4:
                raise ValueError("")
            return Back.apply(module(inputs)) if when == "back" else module(inputs)  # pyright: ignore

        return compiled

    return compiler


def tower() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 5))


def gradients(compute: ComputeOptions, micro_batch: int = 0) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DualEncoder(tower(), Head(4, 5), 5.0).train()
        images, texts = torch.randn(7, 6), torch.randn(7, 4)
        torch.manual_seed(3)  # of the dropout
        Stepper(model, compute).backward(images, texts, 7, infonce)
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("parts", [0, 4])
@pytest.mark.parametrize(
    ("when", "said"),
    [("at once", "no compiler"), ("there", "C++ compile error)"), ("back", "way back"), ("size", "(ValueError)")],
)
def test_a_failing_compiler_is_told_once_and_changes_nothing(
    when: str, said: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", broken(when))
    told: list[str] = []
    found = gradients(ComputeOptions(compiled=True, micro_batch=parts, tell=told.append))
    expected = gradients(ComputeOptions(micro_batch=parts))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    if when == "size" and not parts:
        assert not told  # 7 rows at once are fine
        return
    assert len(told) == 1 and told[0].startswith("torch.compile failed and is left out (") and said in told[0]


def test_frozen_passes_fall_back_too_and_a_lack_of_memory_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", broken("there"))
    told: list[str] = []
    frozen, inputs = tower().eval(), torch.ones(2, 6)
    with torch.no_grad():
        assert torch.equal(Compiled(frozen, told.append)(inputs), frozen(inputs))
    assert len(told) == 1

    def short(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "compile", lambda module: short)
    compiled = Compiled(frozen, told.append)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(inputs)
    assert len(told) == 1
