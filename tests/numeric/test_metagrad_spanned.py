"""Layers that are never written out: the gradient is that of the plain run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vldistill.distillation.inner_steps import head_spans, inner_loss, rows_of
from vldistill.distillation.metagrad import backward_sweep as metagrad
from vldistill.distillation.metagrad.backward_sweep import hypergradient
from vldistill.distillation.metagrad.inner import InnerStep
from vldistill.distillation.metagrad.input_span import Span
from vldistill.encoders.dual import SIDES, DualEncoder, Head
from vldistill.errors import ConfigError
from vldistill.runtime.randomness import generator
from vldistill.training.losses import infonce

PAIRS, IMAGE, TEXT, WIDTH = 5, 9, 7, 4
BOTH = (Span("image", "project.weight", "images"), Span("text", "project.weight", "texts"))


def normal(*shape: int, name: str) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def student() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(Head(IMAGE, WIDTH), Head(TEXT, WIDTH), 5.0).double()


def gradient(spans: tuple[Span, ...], *, minibatch: int = 0, captions: int = 0, soft: bool = False, **options: Any):
    """Of the loss of real pairs, after six steps on distilled ones."""
    encoder = student()
    texts = (PAIRS, captions, TEXT) if captions else (PAIRS, TEXT)
    distilled = {"images": normal(PAIRS, IMAGE, name="images"), "texts": normal(*texts, name="texts")}
    if soft:
        distilled["similarity"] = torch.eye(PAIRS).double() + 0.1 * normal(PAIRS, PAIRS, name="similarity")
    real = normal(8, IMAGE, name="real images"), normal(8, TEXT, name="real texts")
    draw = generator(0, "rows")
    steps = [InnerStep(t, torch.randperm(PAIRS, generator=draw)[: minibatch or PAIRS], t) for t in range(6)]
    if not minibatch:
        steps = [InnerStep(step.t, torch.arange(PAIRS), step.seed) for step in steps]
    rates = {"image": torch.linspace(0.3, 0.1, 6).double(), "text": torch.tensor(0.2).double()}
    found = hypergradient(
        lambda params, made, step: inner_loss(encoder, params, made, step, spans=spans),
        lambda params: infonce(encoder(*real, params)),
        {side: {n: p.detach() for n, p in named.items()} for side, named in encoder.trained().items()},
        distilled,
        rates,
        steps,
        spans=spans,
        **options,
    )
    params = {f"{side}.{name}": tensor for side, named in found.params.items() for name, tensor in named.items()}
    rated = {f"rate {side}": found.rates[side] for side in SIDES}
    return {"value": found.value, **found.distilled, **rated, **params}


@pytest.mark.parametrize("spans", [BOTH, BOTH[:1], BOTH[1:]], ids=["both", "images", "texts"])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.05},
        {"minibatch": 3, "momentum": 0.9, "weight_decay": 0.05},
        {"minibatch": 3, "captions": 2, "momentum": 0.5},
        {"captions": 3, "weight_decay": 0.05},
        {"minibatch": PAIRS, "captions": 2},
        {"minibatch": 4, "soft": True, "momentum": 0.9, "weight_decay": 0.05},
        {"minibatch": PAIRS, "soft": True, "momentum": 0.9},
    ],
    ids=[
        *("plain", "momentum", "minibatches", "several captions", "captions and decay", "all at once", "similarity"),
        "all at once in another order",
    ],
)
def test_the_gradient_is_that_of_the_whole_run(
    case: dict[str, Any], spans: tuple[Span, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, expected = gradient(spans, **case), gradient((), **case, estimator="unrolled")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert float(tensor.norm()) > 0, name
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12, msg=name)
    for memory in (0, 20_000):  # what is kept depends on the memory of the machine; what comes out must not
        monkeypatch.setattr(metagrad, "available_memory", lambda device, memory=memory: memory)
        again = gradient(spans, **case)
        assert all(torch.equal(again[name], tensor) for name, tensor in found.items())


@pytest.mark.parametrize(("memory", "kept"), [(0, [5]), (10, [5]), (10**9, [0, 1, 2, 3, 4, 5])])
def test_a_graph_that_is_larger_than_the_room_is_let_go(
    memory: int, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def spied(*given: Any, real: Any = metagrad._forward) -> Any:
        found = real(*given)
        seen.append(sorted(found.graphs))
        return found

    monkeypatch.setattr(metagrad, "available_memory", lambda device: memory)
    monkeypatch.setattr(metagrad, "_forward", spied)
    gradient(BOTH[1:])
    assert seen == [kept]


def test_spans_are_where_they_save_something() -> None:
    encoder = student()
    assert head_spans(encoder, 5) == BOTH
    assert head_spans(encoder, 8) == head_spans(encoder, 5, captions=2) == BOTH[:1]
    assert head_spans(encoder, 9) == ()
    trained = DualEncoder(torch.nn.Sequential(Head(IMAGE, WIDTH)), Head(TEXT, WIDTH), 5.0)
    assert head_spans(trained, 5) == BOTH[1:]


def test_spans_are_of_exact_gradients() -> None:
    with pytest.raises(ConfigError, match="not 'tesla'"):
        gradient(BOTH, estimator="tesla")


def test_the_rows_of_a_step_are_taken_as_given_also_where_they_are_all() -> None:
    order = torch.tensor([2, 0, 1])
    step = InnerStep(1, order, 0)
    images, texts, similarity = normal(3, 4, name="a"), normal(3, 2, 4, name="b"), normal(3, 3, name="c")
    found = rows_of({"images": images, "texts": texts, "similarity": similarity}, step)
    for tensor, expected in zip(found, (images[order], texts[order, 1], similarity[order][:, order])):
        assert tensor is not None and torch.equal(tensor, expected)
    taken = rows_of({"images": images, "texts": texts[:, 0]}, step, {"images"})
    assert taken[0] is images and torch.equal(taken[1], texts[order, 0]) and taken[2] is None
    rows = BOTH[0].rows(step, images)
    assert rows is not None and torch.equal(rows, order)
    rows = BOTH[1].rows(step, texts)
    assert rows is not None and torch.equal(texts.reshape(6, 4)[rows], texts[order, 1])
    assert step.rows(torch.ones(4)) is order and InnerStep(0, torch.arange(3), 0).rows(images) is None
