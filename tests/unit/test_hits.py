"""Which queries were answered, as text and back; recalls of resampled test images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vldistill.errors import ArtefactError
from vldistill.evaluation.hits import decoded, encoded_counts, encoded_hits
from vldistill.evaluation.measures import RECALLS
from vldistill.evaluation.retrieval import metrics_of, retrieval_ranks


def ranked(images: int, seed: int, shuffled: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 6, (images,), generator=draw)
    caption_image = torch.arange(images).repeat_interleave(counts)
    if shuffled:
        caption_image = caption_image[torch.randperm(len(caption_image), generator=draw)]
    embedded = torch.randn(images, 4, generator=draw)
    captions = embedded[caption_image] + torch.randn(len(caption_image), 4, generator=draw)
    return embedded, captions, caption_image


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("images", [11, 12, 13, 40])
def test_recalls_are_read_from_the_hits(images: int, shuffled: bool) -> None:
    embedded, captions, caption_image = ranked(images, images, shuffled)
    ranks = retrieval_ranks(embedded, captions, caption_image)
    hits = decoded(encoded_hits(ranks, caption_image), encoded_counts(caption_image))
    expected = metrics_of(ranks)
    found = hits.recalls(np.ones((1, images)))[0]
    assert found == pytest.approx([getattr(expected, name) for name in RECALLS])


def test_images_that_count_twice_are_ranked_against_the_same_gallery() -> None:
    embedded, captions, caption_image = ranked(20, 3)
    ranks = retrieval_ranks(embedded, captions, caption_image)
    hits = decoded(encoded_hits(ranks, caption_image), encoded_counts(caption_image))
    weights = np.zeros((1, 20))
    weights[0, [4, 7]] = 2, 1
    tr1, ir5 = hits.recalls(weights)[0][[0, 4]]
    own = [ranks.text_to_image[caption_image == image] for image in (4, 7)]
    assert tr1 == pytest.approx(100 * (2 * int(ranks.image_to_text[4] < 1) + int(ranks.image_to_text[7] < 1)) / 3)
    asked = 2 * len(own[0]) + len(own[1])
    assert ir5 == pytest.approx(100 * (2 * int((own[0] < 5).sum()) + int((own[1] < 5).sum())) / asked)


def test_damaged_hits_are_refused() -> None:
    embedded, captions, caption_image = ranked(12, 1)
    ranks = retrieval_ranks(embedded, captions, caption_image)
    hits, counts = encoded_hits(ranks, caption_image), encoded_counts(caption_image)
    for wrong in (hits[:-8], "?" + hits[1:], encoded_counts(caption_image[:5])):
        with pytest.raises(ArtefactError, match="hits of a student"):
            decoded(wrong, counts)


def test_the_texts_are_small() -> None:
    embedded, captions, caption_image = ranked(1000, 5)
    ranks = retrieval_ranks(embedded, captions, caption_image)
    assert len(encoded_hits(ranks, caption_image)) < 1500
