"""Negatives that are distinct, one drawn caption of each image, and views of chosen rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from vldistill.encoders.dual import DualEncoder, Head
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.losses import equal_pairs, infonce, numbered_texts
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs, ViewInputs, some_rows
from vldistill.training.steps import StepPlan


def test_equal_captions_and_captions_of_one_image_are_no_negatives() -> None:
    """Four pairs by hand: 0 and 2 are of one image, 1 and 3 have equal captions."""
    logits = torch.tensor([[2.0, 0.5, 1.5, -1.0], [0.1, 1.0, 0.3, 0.9], [1.1, 0.2, 1.9, 0.4], [0.0, 0.8, -0.5, 1.2]])
    equal = equal_pairs(torch.tensor([7, 1, 7, 2]), torch.tensor([0, 5, 1, 5]))
    assert equal is not None and equal.nonzero().tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]
    kept = {0: [0, 1, 3], 1: [0, 1, 2], 2: [1, 2, 3], 3: [0, 2, 3]}
    rows = [cross_entropy(logits[i, kept[i]], torch.tensor(kept[i].index(i))) for i in range(4)]
    columns = [cross_entropy(logits[kept[i], i], torch.tensor(kept[i].index(i))) for i in range(4)]
    expected = (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2
    torch.testing.assert_close(infonce(logits, equal), expected)


def test_pairs_that_all_differ_need_no_mask() -> None:
    assert equal_pairs(torch.arange(3), torch.arange(3)) is None


def data(captions: list[str]) -> TrainingData:
    draw = torch.Generator().manual_seed(0)
    images, texts = (TensorInputs(torch.randn(n, 6, generator=draw)) for n in (3, 6))
    return TrainingData(images, texts, torch.tensor([0, 0, 1, 1, 2, 2]), captions=captions)


@pytest.mark.parametrize("momentum", [0.0, 0.9])  # closed-form steps, and autograd
def test_students_with_distinct_negatives_take_the_masked_step(momentum: float) -> None:
    rates = {"image": (0.1,), "text": (0.1,)}
    recipe = Recipe(rates, epochs=1, batch=6, momentum=momentum, weight_decay=0, schedule="constant", dropout=0)
    distinct = Recipe(**{**vars(recipe), "negatives": "distinct"})
    pairs = data(["a", "b", "a", "c", "d", "e"])

    def encoder() -> DualEncoder:
        torch.manual_seed(1)
        return DualEncoder(Head(6, 4), Head(6, 4), 5.0)

    student, by_hand, other = encoder(), encoder(), encoder()
    fit(student, pairs, distinct, seed=0, device=torch.device("cpu"))
    fit(other, pairs, recipe, seed=0, device=torch.device("cpu"))
    order = torch.arange(6)
    logits = by_hand(pairs.images.rows(pairs.caption_image[order]), pairs.texts.rows(order))
    images = torch.tensor([0, 0, 1, 1, 2, 2])
    texts = torch.tensor([0, 1, 0, 2, 3, 4])
    infonce(logits, equal_pairs(images, texts)).backward()
    torch.optim.SGD(by_hand.parameters(), lr=0.1).step()
    for found, expected, plain in zip(student.parameters(), by_hand.parameters(), other.parameters()):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(found, plain)


def test_one_caption_of_each_image_is_drawn_for_every_epoch() -> None:
    recipe = Recipe(epochs=40, batch=2, one_caption=True)
    caption_image = torch.tensor([1, 0, 0, 2, 1, 2, 2])
    plan = StepPlan.of(7, recipe, caption_image=caption_image)
    assert plan.per_epoch == (1,) and plan.length == 40  # three images: a batch of two, and one alone
    whole = StepPlan.of(7, Recipe(epochs=40, batch=3, one_caption=True), caption_image=caption_image)
    seen = torch.stack([step.index for step in whole.steps(0, 0)])
    assert (caption_image[seen].sort(1).values == torch.arange(3)).all()
    assert seen.unique().tolist() == list(range(7))
    assert torch.equal(seen[5], next(iter(whole.steps(0, 5))).index)  # a resumed training draws the same


def test_chosen_rows_keep_their_views() -> None:
    views = ViewInputs([TensorInputs(torch.arange(5.0)[:, None] + 10 * number) for number in range(3)])
    chosen = some_rows(views, torch.tensor([4, 1]))
    assert chosen.rows(torch.tensor([0, 1])).flatten().tolist() == [4, 1]
    found = chosen.rows(torch.zeros(60, dtype=torch.int64), augment_seed=3).flatten()
    assert set(found.tolist()) == {4.0, 14.0, 24.0}


def test_noise_and_distinct_negatives_survive_the_record_of_a_recipe() -> None:
    recipe = Recipe(noise=0.4, views=True, negatives="distinct", one_caption=True)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert {"noise", "views", "negatives", "one_caption"}.isdisjoint(Recipe().to_dict())


def test_equal_learned_texts_have_equal_numbers() -> None:
    texts = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [5.0, 6.0]]])
    numbers = numbered_texts(texts, captions=2)
    assert numbers.shape == (3, 2)
    assert numbers[0, 0] == numbers[1, 0] != numbers[2, 0] == numbers[0, 1]
    assert len(numbered_texts(texts).unique()) == 3
