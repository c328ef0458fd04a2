"""Where a distilled set starts: real pairs with distinct images, a selector's choice of them, or noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.data.transforms import to_float
from vldistill.errors import ConfigError, unknown
from vldistill.randomness import generator
from vldistill.select import check_count, check_ground, choose_pairs, selectors
from vldistill.select.random import draw_captions
from vldistill.workbench import Workbench

NOISE_SAMPLE = 1000  # real images whose channel moments shape the noise


@dataclass(frozen=True)
class Start:
    """Starting pairs.

    Args:
        images: (N, 3, S, S), normalised.
        texts: (N, d), standardised sentence vectors.
        captions: the N captions the texts come from; empty strings for noise.
    """

    images: torch.Tensor
    texts: torch.Tensor
    captions: list[str]


def distinct_pairs(bench: Workbench, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``count`` training pairs with distinct images: image rows (N,) and caption rows (N,), both int64.

    Raises:
        ConfigError: when there are fewer images than pairs.
    """
    pairs = bench.pixels("train").pairs
    check_count(pairs.count_images, count)
    captions = draw_captions(pairs.image_captions, count, seed)
    return torch.from_numpy(pairs.caption_image[captions.numpy()]), captions


def check_start(kind: str, count: int, select: SelectConfig) -> None:
    """Refuse a kind of start that does not exist, or a selector that cannot give ``count`` pairs."""
    if kind in ("real", "noise"):
        return
    if kind not in selectors():
        raise ConfigError(unknown("distill.start", kind, ("real", "noise", *selectors())))
    check_ground(kind, count, select)


def make_start(bench: Workbench, kind: str, count: int, seed: int, select: SelectConfig | None = None) -> Start:
    """Starting pairs: ``real``, ``noise``, or what a selector chooses; the same arguments give the same pairs."""
    select = select or SelectConfig()
    check_start(kind, count, select)
    split = bench.split("train")
    if kind != "noise":
        name = "random" if kind == "real" else kind
        images, captions = choose_pairs(bench, name, count, seed, select)
        pixels = torch.from_numpy(split.pixels.array[images.numpy()])
        tower = bench.image_tower
        texts = split.data.texts.rows(captions)
        chosen = [split.pairs.captions[int(index)] for index in captions]
        return Start(to_float(pixels, tower.mean, tower.std).to(bench.device), texts.clone(), chosen)
    return _noise(bench, count, seed)


def _noise(bench: Workbench, count: int, seed: int) -> Start:
    """Gaussian images with the real channels' moments, and standard normal texts (texts are standardised)."""
    split, tower = bench.split("train"), bench.image_tower
    draw = generator(seed, "noise")
    sample = torch.from_numpy(np.array(split.pixels.array[:NOISE_SAMPLE]))
    real = to_float(sample, tower.mean, tower.std)
    mean, std = real.mean((0, 2, 3)), real.std((0, 2, 3))
    images = torch.randn(count, 3, tower.size, tower.size, generator=draw)
    images = images * std.view(3, 1, 1) + mean.view(3, 1, 1)
    texts = torch.randn(count, bench.text_tower.width, generator=draw)
    return Start(images.to(bench.device), texts.to(bench.device), [""] * count)


@torch.no_grad()
def nearest_captions(bench: Workbench, texts: torch.Tensor) -> list[str]:
    """The training caption whose vector is nearest (cosine) to each of ``texts`` (N, d)."""
    split = bench.split("train")
    best = torch.full((len(texts),), -2.0, device=bench.device)
    found = torch.zeros(len(texts), dtype=torch.int64, device=bench.device)
    unit = torch.nn.functional.normalize(texts.to(bench.device), dim=1)
    for start in range(0, len(split.data.texts), 16_384):
        index = torch.arange(start, min(start + 16_384, len(split.data.texts)))
        real = torch.nn.functional.normalize(split.data.texts.rows(index), dim=1)
        score, where = (unit @ real.T).max(1)
        better = score > best
        best, found = torch.where(better, score, best), torch.where(better, where + start, found)
    return [split.pairs.captions[int(index)] for index in found]
