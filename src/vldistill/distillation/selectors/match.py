"""The real pairs nearest to those of a distilled set, one to one (Kuhn, "The Hungarian method", 1955)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from vldistill.config import SelectConfig, expand
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError
from vldistill.selection.features import PairFeatures
from vldistill.selection.selector import Candidates, register
from vldistill.workbench.bench import Workbench

SHORTLIST = 64  # nearest images of each distilled pair that it may be assigned to, and twice as many if they do not do
PAIRS_AT_ONCE = 4096  # real pairs compared with all distilled ones at a time


def _check(pairs: int, options: SelectConfig) -> None:
    """Refuse a set that is not named, is none, or has another number of pairs. Raises ConfigError or ArtefactError."""
    if not options.match:
        raise ConfigError("the selector match needs the folder of a distilled set: --method match:RUN/sets/NAME.")
    found = DistilledSet.load(Path(expand(options.match)))
    if len(found) != pairs:
        raise ConfigError(
            f"the set {options.match} has {len(found)} pairs, but {pairs} were requested; match gives one real pair "
            f"for each. Ask for {len(found)}."
        )
    if found.text_space == "tokens":
        raise ConfigError(
            f"the set {options.match} holds texts as tokens; match compares sentence vectors. Use another."
        )


@register("match", drawn=False, reads=("match",), check=_check)
def match(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """The real pairs nearest to a distilled set, one to one: the assignment whose distances have the smallest sum.

    Pairs are joined features of the frozen towers, standardised, of length 1 on each side, as in ``kmeans``; of several
    texts of a distilled image their mean is taken.
    """
    wanted = set_features(candidates.workbench, DistilledSet.load(Path(expand(options.match))))[:count]
    return assigned(candidates.towers, wanted)


def set_features(bench: Workbench, distilled: DistilledSet) -> torch.Tensor:
    """Joined unit features (N, D + d) of a set's pairs in this workbench's towers. Raises ArtefactError."""
    distilled.check_fits(bench.towers)
    standard = bench.image_standardisation
    if distilled.space == "features":
        images = distilled.restandardised("image", standard.mean, standard.scale)
    else:
        tower = bench.image_tower
        images = distilled.images_for(tower.size, tower.mean, tower.std).to(bench.device)
        parts = [bench.encoding_tower(part.to(memory_format=torch.channels_last)) for part in images.split(64)]
        images = standard(torch.cat(parts)).cpu()
    texts = distilled.restandardised("text", bench.text_standardisation.mean, bench.text_standardisation.scale)
    if texts.ndim == 3:
        texts = texts.mean(1)
    return torch.cat([F.normalize(images.float(), dim=1), F.normalize(texts.float().cpu(), dim=1)], dim=1)


def assigned(features: PairFeatures, wanted: torch.Tensor) -> torch.Tensor:
    """One row of ``features`` for each of ``wanted`` (K, D + d), of distinct images, with the smallest sum of squares.

    Each wanted pair has its nearest images as candidates: a shortlist that is doubled until all can be assigned. An
    image stands for the one of its captions that is nearest.
    """
    from scipy.optimize import linear_sum_assignment

    images = int(features.caption_image.max()) + 1
    size = max(SHORTLIST, 2)
    while True:
        cost, rows = _shortlist(features, wanted, images, min(size, images))
        real = features.caption_image[rows]
        columns, place = real.flatten().unique(return_inverse=True)
        if len(columns) >= len(wanted):
            table = torch.full((len(wanted), len(columns)), 1e6, dtype=torch.float64)
            table.scatter_(1, place.view(real.shape), cost.double())
            first, second = linear_sum_assignment(table.numpy())
            if float(table[first, second].max()) < 1e6 or size >= images:
                chosen = torch.from_numpy(second)
                where = (place.view(real.shape) == chosen[:, None]).int().argmax(1)
                return rows[torch.arange(len(wanted)), where]
        size *= 2


def _shortlist(
    features: PairFeatures, wanted: torch.Tensor, images: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances (K, size) and rows of the nearest pair of each of the nearest images."""
    best = torch.full((len(wanted), images), torch.inf)
    rows = torch.zeros(len(wanted), images, dtype=torch.int64)
    squares = wanted.square().sum(1)[:, None]
    for part in features.chunks(PAIRS_AT_ONCE):
        joined = features.joined(part)
        distance = torch.addmm(squares + joined.square().sum(1)[None], wanted, joined.T, alpha=-2).clamp_(min=0)
        owner = features.caption_image[part].expand_as(distance)
        lowest = torch.full_like(best, torch.inf).scatter_reduce(1, owner, distance, "amin")
        better = lowest < best
        best = torch.where(better, lowest, best)
        hit = (distance == best.gather(1, owner)) & better.gather(1, owner)
        found = torch.where(hit, part.expand_as(distance), -1)
        rows = torch.where(better, torch.full_like(rows, -1).scatter_reduce(1, owner, found, "amax"), rows)
    near, place = best.topk(size, dim=1, largest=False)
    return near, rows.gather(1, place)
