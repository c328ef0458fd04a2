"""The retrieval metric against hand-made matrices, brute force, torchmetrics, and students that collapsed."""

import doctest
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalHitRate

from vldistill.errors import DataError, DivergedError
from vldistill.evaluation import retrieval
from vldistill.evaluation.measures import Recalls
from vldistill.evaluation.retrieval import CUTOFFS, chance_level, retrieval_metrics, retrieval_ranks

KEYS = ["tr1", "tr5", "tr10", "ir1", "ir5", "ir10", "mean_recall"]


def ranks_of_scores(scores: list[list[float]], caption_image: list[int], **options: int):
    """Ranks for a hand-made N x M score matrix: its columns are the captions, the unit vectors the images."""
    matrix = torch.tensor(scores)
    ranks = retrieval_ranks(torch.eye(len(scores)), matrix.T, torch.tensor(caption_image), **options)
    return ranks.image_to_text.tolist(), ranks.text_to_image.tolist()


def brute_force(images: torch.Tensor, captions: torch.Tensor, caption_image: torch.Tensor):
    """The definition, pair by pair, in pure Python."""
    owner = caption_image.tolist()
    texts = captions.tolist()
    scores = [[sum(a * b for a, b in zip(x, y)) for y in texts] for x in images.tolist()]
    tr, ir = [], []
    for i, row in enumerate(scores):
        best = max(score for score, o in zip(row, owner) if o == i)
        tr.append(sum(score >= best for score, o in zip(row, owner) if o != i))
    for j, own in enumerate(owner):
        ir.append(sum(row[j] >= scores[own][j] for i, row in enumerate(scores) if i != own))
    return tr, ir


def assert_brute_force(images: torch.Tensor, captions: torch.Tensor, owner: torch.Tensor, **options: int):
    ranks = retrieval_ranks(images, captions, owner, **options)
    expected = brute_force(images, captions, owner)
    assert (ranks.image_to_text.tolist(), ranks.text_to_image.tolist()) == expected


def random_case(seed: int, n: int = 30, m: int = 80, d: int = 16):
    generator = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.normalize(torch.randn(n, d, generator=generator))
    captions = torch.nn.functional.normalize(torch.randn(m, d, generator=generator))
    extra = torch.randint(n, (m - n,), generator=generator)
    owner = torch.cat([torch.arange(n), extra])[torch.randperm(m, generator=generator)]
    return images, captions + images[owner] * 0.4, owner


def test_worked_example():
    assert doctest.testmod(retrieval).attempted == 3
    assert doctest.testmod(retrieval).failed == 0


def test_perfect_matrix():
    scores = [[9.0, 8.0, 1.0, 0.0, 2.0], [0.0, 1.0, 5.0, 1.0, 0.0], [1.0, 2.0, 3.0, 7.0, 6.0]]
    assert ranks_of_scores(scores, [0, 0, 1, 2, 2]) == ([0, 0, 0], [0, 0, 0, 0, 0])


def test_any_own_caption_counts_for_the_image():
    # Image 1's first caption is last in its row; its second one is first.
    scores = [[5.0, 4.0, 0.0, 1.0], [2.0, 3.0, 1.0, 9.0]]
    assert ranks_of_scores(scores, [0, 0, 1, 1])[0] == [0, 0]


def test_own_captions_do_not_stand_in_each_others_way():
    # Both captions of image 0 score 5: they are no rivals of one another.
    assert ranks_of_scores([[5.0, 5.0, 4.0], [0.0, 0.0, 1.0]], [0, 0, 1])[0] == [0, 0]


def test_a_tie_counts_against_the_match():
    assert ranks_of_scores([[1.0, 1.0], [1.0, 2.0]], [0, 1]) == ([1, 0], [1, 0])


def test_recalls_of_a_hand_made_matrix():
    # A circulant: image i puts caption i + 1 first, i + 2 second, ..., its own caption i in place `rank` = 5.
    n, rank = 20, 5
    scores = torch.stack([torch.arange(n).float().roll(i + rank + 1) for i in range(n)])
    assert [int((row > row[i]).sum()) for i, row in enumerate(scores)] == [rank] * n
    measured = retrieval_metrics(torch.eye(n), scores.T.contiguous(), torch.arange(n))
    assert measured == Recalls(tr1=0.0, tr5=0.0, tr10=100.0, ir1=0.0, ir5=0.0, ir10=100.0, mean_recall=100 / 3)


def test_recalls_with_exact_fractions():
    # The 4 images' ranks are 0, 1, 4 and 10.
    owner = [0, 1, 2, 3] + [0] * 11
    scores = torch.zeros(4, 15)
    scores[0] = 20.0
    scores[0, 1:4] = 0.0
    for image, rank in ((1, 1), (2, 4), (3, 10)):
        scores[image, image] = 30.0
        scores[image, 4 : 4 + rank] = 30.0 + torch.arange(1.0, rank + 1)
    measured = retrieval_metrics(torch.eye(4), scores.T.contiguous(), torch.tensor(owner))
    assert [getattr(measured, f"tr{k}") for k in CUTOFFS] == [25.0, 75.0, 75.0]
    # Captions 4.. belong to image 0 (score 20) and lose to every image that scores 30 or more on them.
    beaten = [sum(rank > j for rank in (1, 4, 10)) for j in range(11)]
    expected = [0, 0, 0, 0, *beaten]
    assert [getattr(measured, f"ir{k}") for k in CUTOFFS] == [100 * sum(r < k for r in expected) / 15 for k in CUTOFFS]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 7),
    extra=st.integers(0, 9),
    d=st.integers(1, 3),
    spread=st.integers(0, 2),
    chunk_bytes=st.sampled_from([1, 8, 40, 100, 300, 10_000]),
)
def test_brute_force_on_integers_with_ties(seed: int, n: int, extra: int, d: int, spread: int, chunk_bytes: int):
    generator = torch.Generator().manual_seed(seed)
    images, captions = (
        torch.randint(-spread, spread + 1, (rows, d), generator=generator).float() for rows in (n, n + extra)
    )
    owner = torch.cat([torch.arange(n), torch.randint(n, (extra,), generator=generator)])
    owner = owner[torch.randperm(n + extra, generator=generator)]
    assert_brute_force(images, captions, owner, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", CUTOFFS)
def test_torchmetrics_agrees(seed: int, k: int):
    images, captions, owner = random_case(seed)
    scores = images @ captions.T
    matching = owner[None, :] == torch.arange(len(images))[:, None]
    measured = retrieval_metrics(images, captions, owner)
    for direction, table, target in (("tr", scores, matching), ("ir", scores.T, matching.T)):
        query = torch.arange(len(table))[:, None].expand(table.shape)
        oracle = RetrievalHitRate(top_k=k)(table.flatten(), target.flatten(), indexes=query.flatten())
        assert getattr(measured, f"{direction}{k}") == pytest.approx(100 * float(oracle), abs=1e-4)


@pytest.mark.parametrize("chunk_bytes", [1, 24, 1000, 4096, 2**24])
def test_chunk_size_changes_nothing(chunk_bytes: int):
    images, captions, owner = random_case(7)
    whole = retrieval_ranks(images.double(), captions.double(), owner)
    chunked = retrieval_ranks(images.double(), captions.double(), owner, chunk_bytes=chunk_bytes)
    assert torch.equal(whole.image_to_text, chunked.image_to_text)
    assert torch.equal(whole.text_to_image, chunked.text_to_image)


def test_caption_order_changes_nothing():
    images, captions, owner = random_case(8)
    order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(1))
    ranks, shuffled = (
        retrieval_ranks(images, captions[o], owner[o], chunk_bytes=2000) for o in (torch.arange(len(owner)), order)
    )
    assert torch.equal(ranks.image_to_text, shuffled.image_to_text)
    assert torch.equal(ranks.text_to_image[order], shuffled.text_to_image)


@pytest.mark.parametrize("chunk_bytes", [700, 3000, 2**24])
@pytest.mark.parametrize(("n", "each", "d"), [(37, 5, 512), (100, 1, 33), (11, 3, 1)])
def test_a_collapsed_student_ranks_last(n: int, each: int, d: int, chunk_bytes: int):
    point = torch.randn(d, generator=torch.Generator().manual_seed(n))
    owner = torch.arange(n).repeat_interleave(each)
    images, captions = point.expand(n, d), (point * 0.3).expand(n * each, d)
    ranks = retrieval_ranks(images, captions, owner, chunk_bytes=chunk_bytes)
    assert set(ranks.image_to_text.tolist()) == {n * each - each}
    assert set(ranks.text_to_image.tolist()) == {n - 1}
    measured = retrieval_metrics(images, captions, owner, chunk_bytes=chunk_bytes)
    for k in CUTOFFS:
        assert getattr(measured, f"tr{k}") <= 100 * k / (n * each)
        assert getattr(measured, f"ir{k}") <= 100 * k / n


@pytest.mark.parametrize("seed", range(4))
def test_a_nearly_collapsed_student_is_at_chance(seed: int):
    # Every embedding is one point and the last bit or two: whatever ranks first is rounding.
    generator = torch.Generator().manual_seed(seed)
    point = torch.randn(1, 96, generator=generator)
    owner = torch.arange(200).repeat_interleave(5)
    images, captions = (
        torch.nn.functional.normalize(point + 1e-7 * torch.randn(rows, 96, generator=generator)) for rows in (200, 1000)
    )
    measured = retrieval_metrics(images, captions, owner, chunk_bytes=100_000)
    assert measured.mean_recall <= 2 * chance_level(owner, 200).mean_recall


@pytest.mark.parametrize("seed", range(6))
def test_duplicates_tie_exactly_at_any_chunk_size(seed: int):
    # Each embedding occurs several times, scattered: a match ties with its copies, whatever the products round to.
    generator = torch.Generator().manual_seed(seed)
    images, captions, _ = random_case(seed, n=9, m=17, d=129)
    images = images[torch.randint(9, (40,), generator=generator)]
    captions = captions[torch.randint(17, (90,), generator=generator)]
    owner = torch.cat([torch.arange(40), torch.randint(40, (50,), generator=generator)])
    exact = brute_force(images.double(), captions.double(), owner)
    for chunk_bytes in (8, 500, 3000, 2**24):
        ranks = retrieval_ranks(images, captions, owner, chunk_bytes=chunk_bytes)
        assert (ranks.image_to_text.tolist(), ranks.text_to_image.tolist()) == exact


def test_signed_zeros_are_equal_embeddings():
    images = torch.tensor([[0.0, 1.0], [-0.0, 1.0]])
    ranks = retrieval_ranks(images, images.clone(), torch.tensor([0, 1]))
    assert ranks.image_to_text.tolist() == ranks.text_to_image.tolist() == [1, 1]


def test_a_single_image():
    ranks = retrieval_ranks(torch.ones(1, 4), -torch.ones(3, 4), torch.zeros(3, dtype=torch.int64))
    assert ranks.image_to_text.tolist() == [0]
    assert ranks.text_to_image.tolist() == [0, 0, 0]
    measured = retrieval_metrics(torch.ones(1, 4), -torch.ones(3, 4), torch.zeros(3, dtype=torch.int64))
    assert measured == Recalls(**dict.fromkeys(KEYS, 100.0))


def test_images_with_different_numbers_of_captions():
    generator = torch.Generator().manual_seed(3)
    owner = torch.tensor([2, 0, 2, 2, 1, 2, 3, 3])
    images = torch.randint(-3, 4, (4, 5), generator=generator).float()
    captions = torch.randint(-3, 4, (8, 5), generator=generator).float()
    assert_brute_force(images, captions, owner)
    assert_brute_force(images, captions, owner, chunk_bytes=16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_low_precision_is_scored_in_float32(dtype: torch.dtype):
    images, captions, owner = random_case(5)
    images, captions = images.to(dtype), captions.to(dtype)
    ranks = retrieval_ranks(images, captions, owner)
    expected = brute_force(images.double(), captions.double(), owner)
    assert (ranks.image_to_text.tolist(), ranks.text_to_image.tolist()) == expected
    assert ranks.image_to_text.dtype == ranks.text_to_image.dtype == torch.int64


def test_autocast_and_gradients_are_left_outside():
    images, captions, owner = random_case(6)
    plain = retrieval_ranks(images, captions, owner)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = retrieval_ranks(images.requires_grad_(), captions.requires_grad_(), owner)
    assert torch.equal(plain.image_to_text, mixed.image_to_text)
    assert torch.equal(plain.text_to_image, mixed.text_to_image)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_embeddings_are_an_error(value: float):
    images, captions, owner = random_case(4)
    broken = captions.clone()
    broken[[3, 9], 2] = value
    with pytest.raises(DivergedError, match="2 of 80 caption embeddings are not finite"):
        retrieval_metrics(images, broken, owner)
    with pytest.raises(DivergedError, match="30 of 30 image embeddings"):
        retrieval_ranks(images * value, captions, owner)


def test_overflowing_scores_are_an_error():
    images, captions, owner = random_case(4)
    with pytest.raises(DivergedError, match="overflow"):
        retrieval_ranks(images * 1e25, captions * 1e25, owner)
    retrieval_ranks(images.double() * 1e25, captions.double() * 1e25, owner)


def test_wrong_arguments_are_refused():
    images, captions, owner = random_case(4)
    for wrong in (
        (images[0], captions, owner),
        (images[:0], captions, owner),
        (images, captions[:, :3], owner),
        (images.long(), captions, owner),
        (images, captions, owner[:-1]),
        (images, captions, owner.int()),
        (images, captions, owner.float()),
    ):
        with pytest.raises(ValueError, match="must"):
            retrieval_ranks(*wrong)
    with pytest.raises(ValueError, match="chunk_bytes"):
        retrieval_ranks(images, captions, owner, chunk_bytes=0)
    with pytest.raises(DataError, match="1 of 80 captions belong to no image"):
        retrieval_ranks(images, captions, owner.clone().index_fill_(0, torch.tensor([5]), 30))
    with pytest.raises(DataError, match="belong to no image"):
        chance_level(torch.tensor([0, -1]), 1)
    with pytest.raises(DataError, match="1 of 31 images have no caption"):
        retrieval_ranks(torch.cat([images, images[:1]]), captions, owner)


def test_chance_level_of_the_usual_galleries():
    flickr = chance_level(torch.arange(1000).repeat_interleave(5), 1000)
    assert list(flickr.to_json()) == KEYS
    assert [getattr(flickr, f"ir{k}") for k in CUTOFFS] == [0.1, 0.5, 1.0]
    assert flickr.tr1 == 0.1
    assert flickr.tr10 == pytest.approx(0.9965, abs=1e-3)
    assert chance_level(torch.zeros(3, dtype=torch.int64), 1) == Recalls(**dict.fromkeys(KEYS, 100.0))


def test_chance_level_enumerates_all_rankings():
    owner = torch.tensor([0, 0, 0, 1, 2, 2])
    orders = list(permutations(range(6)))
    level = chance_level(owner, 3)
    for k in CUTOFFS:
        hits = sum(bool({owner[j].item() for j in order[:k]} & {i}) for order in orders for i in range(3))
        assert getattr(level, f"tr{k}") == pytest.approx(float(Fraction(100 * hits, 3 * len(orders))))
