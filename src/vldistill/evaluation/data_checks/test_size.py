"""How many images the test split has, and what a random ranking scores on it."""

from __future__ import annotations

import numpy as np
import torch

from vldistill.data.classes import shown
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


def check_class_sizes(test: Pairs) -> Check:
    """Score: test images of a class set. Flagged where they are few, or a class has none."""
    assert test.classes is not None
    images, classes = test.count_images, len(test.classes)
    counts = np.bincount(test.classes.labels, minlength=classes)
    none = [name for name, count in zip(test.classes.names, counts.tolist()) if not count]
    summary = (
        f"{images:,} test images of {classes:,} classes, {counts.min():,} to {counts.max():,} each; a random guess has "
        f"a top-1 of {100 / classes:.2f}, the largest class alone {100 * counts.max() / images:.2f}."
    )
    if none:
        summary += f" {len(none):,} classes have no test image ({shown(none)}) and are not measured."
    if images < FEW:
        summary += f" That is few: one image is {100 / images:.1f} percentage points of top-1. Use {FEW} or more."
    return Check("test size", images, images < FEW or bool(none), summary)
