"""Steps of two heads that are written out: what autograd and ``torch.optim.SGD`` make of the same batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vldistill.encoders.dual import DualEncoder, Head
from vldistill.errors import MemoryShortError
from vldistill.runtime.micro_batches import ComputeOptions
from vldistill.runtime.randomness import generator, seeded
from vldistill.training import fit as training
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.head_steps import head_step, two_heads
from vldistill.training.losses import infonce
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs

CPU = torch.device("cpu")
RATES = {"image": 0.3, "text": 0.7}


def encoder(dropout: float = 0.0, scale: float = 1 / 0.07) -> DualEncoder:
    """Two heads in float64, whose layer norms are not the identity."""
    with seeded(CPU, 0, "student"):
        made = DualEncoder(Head(9, 6, dropout), Head(5, 6, dropout), scale).double()
        for head in (made.image, made.text):
            for parameter in head.get_submodule("norm").parameters():
                torch.nn.init.normal_(parameter)
    return made


def batch(pairs: int) -> tuple[Tensor, Tensor]:
    draw = generator(pairs, "batch")
    return (
        torch.randn(pairs, 9, dtype=torch.float64, generator=draw),
        torch.randn(pairs, 5, dtype=torch.float64, generator=draw),
    )


@pytest.mark.parametrize("scale", [1 / 0.07, 3.0])
@pytest.mark.parametrize("pairs", [2, 8])
def test_a_step_is_the_one_of_autograd(pairs: int, scale: float) -> None:
    ours, rival = encoder(), encoder()
    heads = two_heads(ours)
    assert heads is not None
    groups = [{"params": list(rival.side(side).parameters()), "lr": rate} for side, rate in RATES.items()]
    optimiser = torch.optim.SGD(groups)
    for step in range(3):
        images, texts = batch(pairs + step)
        loss = infonce(scale * rival.embed("image", images) @ rival.embed("text", texts).T)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        told = head_step(heads, images, texts, scale, RATES)
        torch.testing.assert_close(told, loss.detach(), rtol=1e-11, atol=1e-12)
    start, expected = encoder().state_dict(), rival.state_dict()
    for name, found in ours.state_dict().items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-11)
        assert float((found - start[name]).abs().max()) > 1e-3, f"{name} did not move"
    assert all(p.grad is None and p.requires_grad for p in ours.parameters())


def train(monkeypatch: pytest.MonkeyPatch, written: bool, **changes: Any) -> tuple[dict[str, Tensor], list[float], int]:
    """Parameters and losses after a training, and how many of its steps were written out."""
    steps: list[int] = []

    def counted(*given: Any) -> Tensor:
        steps.append(1)
        return head_step(*given)

    monkeypatch.setattr(training, "head_step", counted)
    monkeypatch.setattr(training, "two_heads", two_heads if written else lambda encoder: None)
    images, texts = batch(22)
    data = TrainingData(TensorInputs(images), TensorInputs(texts), torch.arange(22), torch.eye(22).double())
    precision, dropout = changes.pop("precision", "float32"), changes.pop("dropout", 0.0)
    plain = {"epochs": 2, "batch": 8, "momentum": 0.0, "weight_decay": 0.0, "dropout": dropout}
    recipe = Recipe(rates={"image": (0.1, 0.3), "text": (0.2,)}, **(plain | changes))
    model, losses = encoder(dropout), []
    fit(
        model,
        data,
        recipe,
        seed=1,
        device=CPU,
        compute=ComputeOptions(precision),
        on_epoch=lambda _, loss: losses.append(loss),
    )
    return {name: p.detach() for name, p in model.named_parameters()}, losses, len(steps)


@pytest.mark.parametrize("changes", [{}, {"schedule": "constant"}, {"temperature": 0.2}], ids=str)
def test_a_training_ends_where_autograd_ends(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    *ours, steps = train(monkeypatch, True, **changes)
    *rivals, none = train(monkeypatch, False, **changes)
    assert (steps, none) == (6, 0)
    torch.testing.assert_close(ours, rivals, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "changes",
    [{"momentum": 0.5}, {"weight_decay": 1e-3}, {"loss": "bce"}, {"dropout": 0.1}, {"precision": "bfloat16"}],
    ids=str,
)
def test_whatever_is_more_than_that_goes_through_autograd(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    assert train(monkeypatch, True, **changes)[2] == 0


def test_other_encoders_are_not_two_heads() -> None:
    model = encoder()
    model.image.get_submodule("mix").requires_grad_(False)
    assert two_heads(model) is None
    assert two_heads(DualEncoder(torch.nn.Linear(9, 6), Head(5, 6), 1.0)) is None


def test_a_batch_that_no_memory_holds_is_told_with_the_remedy() -> None:
    heads, pairs = (Head(1, 1), Head(1, 1)), 2**23  # whose logits take 256 TiB
    features = torch.zeros(1, 1).expand(pairs, 1)
    with pytest.raises(MemoryShortError, match="too little memory for a training step of two heads on 8388608 rows"):
        head_step(heads, features, features, 1.0, RATES)
