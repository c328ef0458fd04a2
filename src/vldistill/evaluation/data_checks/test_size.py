"""How many images the test split has, and what a random ranking scores on it."""

from __future__ import annotations

import torch

from vldistill.data.pairs import Pairs
from vldistill.evaluation.data_checks.check import Check
from vldistill.evaluation.retrieval import chance_level

FEW = 50  # test images


def check_test_size(test: Pairs) -> Check:
    """Score: test images. Flagged below :data:`FEW`, where one image is more than 2 % of a recall."""
    images = test.count_images
    chance = chance_level(torch.from_numpy(test.caption_image.copy()), images)
    summary = (
        f"{images:,} test images with {test.count_captions:,} captions; a random ranking has a mean recall of "
        f"{chance.mean_recall:.2f}, IR@10 {chance.ir10:.1f}."
    )
    few = images < FEW
    if few:
        summary += f" That is few: one image is {100 / images:.1f} percentage points of TR@1. Use {FEW} or more."
    return Check("test size", images, few, summary)
