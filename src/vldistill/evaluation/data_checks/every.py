"""All checks of a data source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from vldistill.data.cache import DecodedImages
from vldistill.data.pairs import SPLITS, Pairs
from vldistill.errors import ArtefactError
from vldistill.evaluation.data_checks.check import Check
from vldistill.evaluation.data_checks.equal_captions import check_equal_captions
from vldistill.evaluation.data_checks.near_duplicates import BATCH, Sketches, check_near_duplicates, sketch
from vldistill.evaluation.data_checks.near_vectors import check_near_vectors
from vldistill.evaluation.data_checks.recall_ceiling import check_recall_ceiling
from vldistill.evaluation.data_checks.test_size import check_class_sizes, check_test_size
from vldistill.storage.files import digest, read_json, write_record
from vldistill.workbench.bench import Workbench


def check_pairs(splits: Mapping[str, Pairs]) -> tuple[Check, ...]:
    """The checks that need no pictures."""
    test = splits["test"]
    if test.classes is not None:  # prompts repeat by design
        return check_class_sizes(test), replace(check_recall_ceiling(test), flag=False)
    return check_test_size(test), check_recall_ceiling(test), check_equal_captions(splits)


def check_vectors(splits: Mapping[str, Pairs]) -> Check | None:
    """The check for near duplicates of pairs that are given by their vectors; None of any others."""
    vectors = {split: pairs.vectors.image for split, pairs in splits.items() if pairs.vectors is not None}
    if len(vectors) < len(SPLITS):
        return None
    return check_near_vectors(vectors, {split: pairs.images.names for split, pairs in splits.items()})


def check_data(bench: Workbench) -> tuple[Check, ...]:
    """Every check of a workbench's data; what was found for the same data is kept in the cache."""
    decoded = {split: bench.pixels(split) for split in SPLITS}
    key = digest({split: found.pairs.fingerprint for split, found in decoded.items()}, bench.image_tower.size)
    path = bench.cache / f"checks-{key}.json"
    try:
        return tuple(map(Check.from_json, read_json(path, "data checks")["checks"]))
    except (ArtefactError, KeyError, TypeError):
        pass
    pairs = {split: found.pairs for split, found in decoded.items()}
    twins = check_vectors(pairs) or check_near_duplicates({split: _sketches(own) for split, own in decoded.items()})
    checks = (*check_pairs(pairs), twins)
    write_record(path, {"checks": [check.to_json() for check in checks]})
    return checks


def _sketches(decoded: DecodedImages) -> Sketches:
    array = decoded.array
    batches = (array[np.arange(at, min(at + BATCH, len(array)))] for at in range(0, len(array), BATCH))
    return sketch(batches, decoded.pairs.images.names)
