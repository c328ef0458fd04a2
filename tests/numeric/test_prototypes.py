"""prototypes: the matching against every permutation, the nearest pairs and the means against loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from double import ENCODER

from vldistill.config import DataConfig, DistillConfig
from vldistill.distillation.method import Context
from vldistill.distillation.methods.prototypes import (
    MatchedPrototypes,
    PrototypesOptions,
    match_clusters,
    nearest_pairs,
)
from vldistill.distillation.start import starting_pairs
from vldistill.errors import ConfigError
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Reporter
from vldistill.workbench.bench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    data = DataConfig(source="scenes:train=40,val=20,test=20", cache=str(tmp_path_factory.mktemp("cache")))
    return Workbench(data, ENCODER, torch.device("cpu"), Reporter(quiet=True))


@pytest.mark.parametrize("seed", range(3))
def test_the_matching_shares_most_pairs_of_all_matchings(seed: int) -> None:
    draw = np.random.default_rng(seed)
    images, texts = draw.integers(0, 4, 30), draw.integers(0, 4, 30)
    found = match_clusters(images, texts, 4)
    assert sorted(found[0]) == sorted(found[1]) == [0, 1, 2, 3]

    def shared(matched: list[tuple[int, int]]) -> int:
        return sum((a, b) in matched for a, b in zip(images.tolist(), texts.tolist()))

    best = max(shared(list(zip(range(4), order))) for order in itertools.permutations(range(4)))
    assert shared(list(zip(found[0].tolist(), found[1].tolist()))) == best


def test_the_nearest_pairs_are_nearest_and_have_distinct_images() -> None:
    draw = np.random.default_rng(0)
    images, texts, mapping = draw.normal(size=(6, 3)), draw.normal(size=(12, 2)), np.arange(12) // 2
    centres = draw.normal(size=(4, 3)), draw.normal(size=(4, 2))
    chosen = nearest_pairs(images, texts, mapping, *centres)
    distance = np.array(
        [
            [
                ((images[mapping[c]] - centres[0][k]) ** 2).sum() + ((texts[c] - centres[1][k]) ** 2).sum()
                for k in range(4)
            ]
            for c in range(12)
        ]
    )
    taken: set[int] = set()
    for k in sorted(range(4), key=lambda k: distance[:, k].min()):
        free = [c for c in range(12) if mapping[c] not in taken]
        assert chosen[k] == min(free, key=lambda c: distance[c, k])
        taken.add(int(mapping[chosen[k]]))
    assert len(taken) == 4
    twins = nearest_pairs(images, texts, mapping, np.repeat(centres[0][:1], 3, 0), np.repeat(centres[1][:1], 3, 0))
    assert len({int(mapping[c]) for c in twins}) == 3


def context_of(bench: Workbench, **config: object) -> Context[Any]:
    settings = {"method": "prototypes", "pairs": 5, "validate_every": 0, **config}
    return Context(bench, resolve_distill(DistillConfig(**settings), bench.setting), PrototypesOptions())


def test_the_set_is_made_of_real_pairs(bench: Workbench) -> None:
    method, context = MatchedPrototypes(), context_of(bench)
    method.check(context)
    start = starting_pairs(method, context)
    distilled = method.export(method.setup(start, context), context)
    split = bench.split("train")
    images = set()
    for number, caption in enumerate(start.captions):
        rows = [row for row, text in enumerate(split.pairs.captions) if text == caption]
        fits = [
            row for row in rows if torch.equal(split.data.texts.rows(torch.tensor([row]))[0], distilled.texts[number])
        ]
        owners = {int(split.data.caption_image[row]) for row in fits}
        pixels = [(torch.from_numpy(np.array(split.pixels.array[owner])), owner) for owner in owners]
        shown = (distilled.pixels()[number] * 255).round().to(torch.uint8)
        own = [
            owner for array, owner in pixels if torch.equal(array.reshape(-1).sort()[0], shown.reshape(-1).sort()[0])
        ]
        assert own
        images.update(own)
    assert len(images) == 5
    assert not hasattr(method, "step") and distilled.similarity is None


def test_in_feature_space_the_set_is_the_means_of_matched_clusters(bench: Workbench) -> None:
    method, context = MatchedPrototypes(), context_of(bench, space="features")
    state = method.setup(starting_pairs(method, context), context)
    _, _, image_members, text_members = method._prototypes(context)
    data = bench.split("train").data
    assert sum(map(len, image_members)) == len(data.images) and sum(map(len, text_members)) == len(data)
    for number, (images, texts) in enumerate(zip(image_members, text_members)):
        rows = torch.stack([data.images.rows(row.view(1))[0] for row in images])
        torch.testing.assert_close(state.variables["images"][number], rows.sum(0) / len(rows))
        rows = torch.stack([data.texts.rows(row.view(1))[0] for row in texts])
        torch.testing.assert_close(state.variables["texts"][number], rows.sum(0) / len(rows))


def test_matched_prototypes_share_more_pairs_than_unmatched_ones(bench: Workbench) -> None:
    method, context = MatchedPrototypes(), context_of(bench)
    _, _, images, texts = method._prototypes(context)
    mapping = bench.split("train").data.caption_image

    def shared(order: list[int]) -> int:
        return sum(int(torch.isin(mapping[texts[b]], images[a]).sum()) for a, b in enumerate(order))

    assert shared([0, 1, 2, 3, 4]) == max(shared(list(order)) for order in itertools.permutations(range(5)))


def test_more_prototypes_than_images_are_refused(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match="train split has 40 images"):
        MatchedPrototypes().check(context_of(bench, pairs=41))
    with pytest.raises(ConfigError, match="restarts is 0"):
        PrototypesOptions(restarts=0)


def test_clusters_that_nothing_is_in_are_refused(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    method, context = MatchedPrototypes(), context_of(bench, space="features")
    found = method._prototypes(context)
    members = [found[2], [*found[3][:-1], found[3][-1][:0]]]
    monkeypatch.setattr(MatchedPrototypes, "_prototypes", lambda *given: (*found[:2], *members))
    with pytest.raises(ConfigError, match=f"Ask for {context.config.pairs - 1} pairs or fewer"):
        method.setup(starting_pairs(method, context), context)
