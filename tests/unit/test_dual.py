"""The dual encoder: the head's formula, the one definition of the logits, and parameters by name."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vldistill.encoders.dual import DualEncoder, Head
from vldistill.experts.trajectory import clone_groups

SCALE = 1 / 0.07


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder() -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DualEncoder(Head(6, 5), Head(4, 5), SCALE).eval()


def test_the_head_is_the_published_formula():
    head = Head(6, 5, dropout=0.5).eval()
    x = normal(3, 6)
    projected = x @ head.project.weight.T + head.project.bias
    gelu = 0.5 * projected * (1 + torch.erf(projected / math.sqrt(2)))
    mixed = projected + gelu @ head.mix.weight.T + head.mix.bias
    centred = mixed - mixed.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), scaled * head.norm.weight + head.norm.bias)
    assert torch.equal(head(x), head(x))
    assert not torch.equal(head.train()(x), head(x))


def test_logits_are_cosines_times_the_one_scale(encoder: DualEncoder):
    images, texts = normal(3, 6), normal(4, 4, seed=1)
    logits = encoder(images, texts)
    expected = torch.stack([F.cosine_similarity(encoder.image(image[None]), encoder.text(texts)) for image in images])
    torch.testing.assert_close(logits, expected / 0.07)
    embedded = encoder.embed("image", images), encoder.embed("text", texts)
    assert torch.equal(encoder.logits(*embedded), logits)
    for vectors in embedded:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    same = encoder.logits(embedded[0], embedded[0]).diagonal()
    torch.testing.assert_close(same, torch.full((3,), SCALE))  # not exp(scale), not 1


def test_given_parameters_stand_in_for_its_own(encoder: DualEncoder):
    images, texts = normal(3, 6), normal(4, 4, seed=1)
    params = {
        side: {name: tensor + 0.1 for name, tensor in named.items()}
        for side, named in clone_groups(encoder.trained()).items()
    }
    before = clone_groups(encoder.trained())
    with_params = encoder(images, texts, params)
    assert not torch.allclose(with_params, encoder(images, texts), atol=1e-3)
    assert all(
        torch.equal(t, before[side][name]) for side, named in encoder.trained().items() for name, t in named.items()
    )
    with torch.no_grad():
        for side, named in encoder.trained().items():
            for name, tensor in named.items():
                tensor.copy_(params[side][name])
    assert torch.equal(encoder(images, texts), with_params)


def test_gradients_reach_given_parameters_twice(encoder: DualEncoder):
    double = encoder.double()
    inputs = normal(3, 6).double(), normal(3, 4, seed=1).double()
    params = {
        side: {n: t.detach().requires_grad_() for n, t in named.items()} for side, named in double.trained().items()
    }
    flat = [tensor for named in params.values() for tensor in named.values()]
    slopes = torch.autograd.grad(double(*inputs, params).square().sum(), flat, create_graph=True)
    curves = torch.autograd.grad(sum((s.square().sum() for s in slopes), torch.zeros(())), flat, allow_unused=True)
    assert all(curve is not None and bool(curve.isfinite().all()) for curve in curves)


def test_only_what_requires_gradients_is_trained(encoder: DualEncoder):
    assert set(encoder.trained()) == {"image", "text"}
    assert sorted(encoder.trained()["text"]) == [
        "mix.bias", "mix.weight", "norm.bias", "norm.weight", "project.bias", "project.weight",
    ]  # fmt: skip
    encoder.text.requires_grad_(False)
    assert encoder.trained()["text"] == {}
    assert encoder.trained()["image"]["mix.bias"] is encoder.side("image").get_parameter("mix.bias")


def test_zero_inputs_give_finite_logits():
    encoder = DualEncoder(nn.Identity(), nn.Identity(), SCALE)
    assert torch.equal(encoder(torch.zeros(2, 3), torch.ones(2, 3)), torch.zeros(2, 2))
