"""Where a distilled set starts: real pairs with distinct images, or noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vldistill.data.transforms import to_float
from vldistill.errors import ConfigError
from vldistill.randomness import generator
from vldistill.workbench import Workbench

NOISE_SAMPLE = 1000  # real images whose channel moments shape the noise


@dataclass(frozen=True)
class Start:
    """Starting pairs.

    Args:
        images: (N, 3, S, S), normalised.
        texts: (N, d), standardised sentence vectors; in setting ``both`` (N, L, e) input embeddings.
        captions: the N captions the texts come from; empty strings for noise.
        text_mask: (N, L) 1 for a token and 0 for padding, in setting ``both``.
    """

    images: torch.Tensor
    texts: torch.Tensor
    captions: list[str]
    text_mask: torch.Tensor | None = None


def check_count(images: int, pairs: int) -> None:
    """Refuse more pairs than there are images. Raises ConfigError."""
    if pairs > images:
        raise ConfigError(
            f"{pairs} pairs were asked for, but the train split has {images} images, "
            f"and the pairs of one set have distinct images. Ask for {images} or fewer."
        )


def distinct_pairs(bench: Workbench, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``count`` training pairs with distinct images: image rows (N,) and caption rows (N,), both int64.

    Raises:
        ConfigError: when there are fewer images than pairs.
    """
    pairs = bench.pixels("train").pairs
    check_count(pairs.count_images, count)
    draw = generator(seed, "pairs")
    images = torch.randperm(pairs.count_images, generator=draw)[:count]
    captions = []
    for image in images.tolist():
        own = pairs.image_captions[image]
        captions.append(int(own[int(torch.randint(len(own), (), generator=draw))]))
    return images, torch.tensor(captions)


def make_start(bench: Workbench, kind: str, count: int, seed: int) -> Start:
    """Starting pairs of one kind; the same arguments give the same pairs."""
    split = bench.split("train")
    if kind in ("real", "kmeans"):
        choose = distinct_pairs if kind == "real" else central_pairs
        images, captions = choose(bench, count, seed)
        pixels = torch.from_numpy(split.pixels.array[images.numpy()])
        tower = bench.image_tower
        texts = split.data.texts.rows(captions)
        chosen = [split.pairs.captions[int(index)] for index in captions]
        images = to_float(pixels, tower.mean, tower.std).to(bench.device)
        if bench.setting == "both":
            return Start(images, texts[..., :-1].clone(), chosen, texts[..., -1].clone())
        return Start(images, texts.clone(), chosen)
    if bench.setting == "both":
        raise ConfigError(
            "distill.start noise has no meaning in setting both: noise has no tokens. Use real or kmeans."
        )
    return _noise(bench, count, seed)


def central_pairs(bench: Workbench, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The real pair nearest to each k-means centre of joined features, K = ``count`` (MDM, arXiv 2605.23482).

    Features of both sides are L2-normalised and concatenated; a pair whose image is taken leaves its centre to the
    next nearest one. Image rows (N,) and caption rows (N,), both int64.
    """
    from sklearn.cluster import MiniBatchKMeans

    distinct_pairs(bench, count, seed)  # the same refusal of more pairs than images
    mapping = bench.split("train").data.caption_image
    joined = bench.joined_features()
    means = MiniBatchKMeans(count, random_state=seed % 2**32, batch_size=4096, n_init="auto").fit(joined)
    images, captions = [], []
    taken: set[int] = set()
    for centre in means.cluster_centers_:
        distance = ((joined - centre) ** 2).sum(1)
        for row in np.argsort(distance, kind="stable"):
            image = int(mapping[row])
            if image not in taken:
                taken.add(image)
                images.append(image)
                captions.append(int(row))
                break
    return torch.tensor(images), torch.tensor(captions)


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
    """The training caption whose vector is nearest (cosine) to each of ``texts``, text inputs of the setting."""
    split, real_texts = bench.split("train"), bench.sentence_inputs("train")
    texts = bench.sentence_vectors(texts)
    best = torch.full((len(texts),), -2.0, device=bench.device)
    found = torch.zeros(len(texts), dtype=torch.int64, device=bench.device)
    unit = torch.nn.functional.normalize(texts.to(bench.device), dim=1)
    for start in range(0, len(real_texts), 16_384):
        index = torch.arange(start, min(start + 16_384, len(real_texts)))
        real = torch.nn.functional.normalize(real_texts.rows(index), dim=1)
        score, where = (unit @ real.T).max(1)
        better = score > best
        best, found = torch.where(better, score, best), torch.where(better, where + start, found)
    return [split.pairs.captions[int(index)] for index in found]
