"""Where a distilled set starts: real pairs with distinct images, or noise."""

from __future__ import annotations

from collections.abc import Callable
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
        texts: (N, d), standardised sentence vectors.
        captions: the N captions the texts come from; empty strings for noise.
    """

    images: torch.Tensor
    texts: torch.Tensor
    captions: list[str]


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
    return images, _captions_of(bench, images, draw)


def _captions_of(bench: Workbench, images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """A caption row drawn for each of the image rows (N,), (N,) int64."""
    captions = []
    for image in images.tolist():
        own = bench.pixels("train").pairs.image_captions[image]
        captions.append(int(own[int(torch.randint(len(own), (), generator=draw))]))
    return torch.tensor(captions)


def make_start(bench: Workbench, kind: str, count: int, seed: int, text_kind: str = "") -> Start:
    """Starting pairs; the same arguments give the same pairs.

    Args:
        kind: a name of :data:`CHOOSERS`, or ``noise``.
        text_kind: of the texts, where it is another one. Real sides stay pairs: beside another choice, ``real``
            images are those of the chosen captions, and ``real`` captions are drawn for the chosen images.

    Raises:
        ConfigError: more pairs than images.
    """
    text_kind = text_kind or kind
    if "noise" in (kind, text_kind):
        images, texts = (
            _noise(bench, count, seed) if side == "noise" else make_start(bench, side, count, seed)
            for side in (kind, text_kind)
        )
        return Start(images.images, texts.texts, texts.captions)
    images, captions = CHOOSERS[text_kind if kind == "real" else kind](bench, count, seed)
    if text_kind == "real" != kind:
        captions = _captions_of(bench, images, generator(seed, "captions"))
    split, tower = bench.split("train"), bench.image_tower
    pixels = torch.from_numpy(split.pixels.array[images.numpy()])
    texts = split.data.texts.rows(captions)
    chosen = [split.pairs.captions[int(index)] for index in captions]
    return Start(to_float(pixels, tower.mean, tower.std).to(bench.device), texts.clone(), chosen)


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


def herded_pairs(bench: Workbench, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Real pairs chosen one by one so that their mean stays nearest to that of all pairs (herding, ICML 2009).

    In joined features, as :func:`central_pairs`; images are distinct. Nothing is drawn: ``seed`` changes nothing.
    Image rows (N,) and caption rows (N,), both int64.
    """
    check_count(bench.pixels("train").pairs.count_images, count)
    mapping = bench.split("train").data.caption_image.numpy()
    joined = bench.joined_features()
    mean, squares = joined.mean(0, dtype=np.float64).astype(np.float32), (joined**2).sum(1)
    total, free = np.zeros_like(mean), np.ones(len(joined), bool)
    rows = []
    for chosen in range(1, count + 1):
        wanted = chosen * mean - total  # the sum of `chosen` pairs should be chosen * mean: what lacks to it
        row = int(np.argmin(np.where(free, squares - 2 * joined @ wanted, np.inf)))
        rows.append(row)
        total += joined[row]
        free[mapping == mapping[row]] = False
    return torch.from_numpy(mapping[rows]), torch.tensor(rows)


CHOOSERS: dict[str, Callable[[Workbench, int, int], tuple[torch.Tensor, torch.Tensor]]] = {
    "real": distinct_pairs,
    "kmeans": central_pairs,
    "herding": herded_pairs,
}
"""How real starting pairs are chosen, by name: (workbench, count, seed) to image rows and caption rows."""


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
