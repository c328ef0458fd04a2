"""Where a distilled set starts: real pairs with distinct images, a selector's choice of them, noise, or another set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vldistill.config import SelectConfig, expand
from vldistill.data.transforms import to_float
from vldistill.distillation.method import ChoosesStart, Context, Method, Start, T
from vldistill.distilled.distilled_set import Caption, DistilledSet, one_line
from vldistill.errors import ConfigError, unknown
from vldistill.runtime.randomness import generator
from vldistill.selection.choose import check_ground, choose_pairs
from vldistill.selection.selector import SELECTORS
from vldistill.workbench.bench import Workbench

NOISE_SAMPLE = 1000  # real images whose channel moments shape the noise


def check_start(kind: str, count: int, select: SelectConfig, space: str = "pixels") -> None:
    """Refuse a start that does not exist, a selector that cannot give ``count`` pairs, or a set of another size.

    Raises:
        ConfigError: see above.
        ArtefactError: a folder that is no set, or a damaged one.
    """
    if kind in ("real", "noise"):
        return
    if is_folder(kind):
        _check_set(DistilledSet.load(expand(kind)), count, space)
        return
    if kind not in SELECTORS:
        raise ConfigError(unknown("distill.start", kind, ("real", "noise", *SELECTORS)) + " Or a set's folder.")
    check_ground(kind, count, select)


def make_start(
    bench: Workbench,
    kind: str,
    count: int,
    seed: int,
    select: SelectConfig | None = None,
    text_kind: str = "",
    space: str = "pixels",
    size: int = 0,
) -> Start:
    """Starting pairs: ``real``, ``noise``, what a selector chooses, or the pairs of the set in a folder.

    The same arguments give the same pairs.

    Args:
        select: options of selectors.
        space: what a set that is the start has to hold.
        size: of the images of such a set; 0 is the tower's.
        text_kind: start of the texts, where it is another one. Real sides stay pairs: beside a selector, ``real``
            images are those of the chosen captions, and ``real`` captions are drawn for the chosen images.
    """
    select, text_kind = select or SelectConfig(), text_kind or kind
    for side in (kind, text_kind):
        check_start(side, count, select, space)
    if bench.setting == "both" and "noise" in (kind, text_kind):
        raise ConfigError("distill.start noise has no tokens, which setting both needs. Use real or kmeans.")
    if kind == text_kind == "noise":
        return _noise(bench, count, seed)
    if "noise" in (kind, text_kind):
        images, texts = (
            make_start(bench, side, count, seed, select, space=space, size=size) for side in (kind, text_kind)
        )
        return Start(images.images, texts.texts, texts.captions, rows=texts.rows)
    if is_folder(kind) or is_folder(text_kind):
        if kind != text_kind:
            raise ConfigError(
                f"distill starts images from {kind} and texts from {text_kind}: a set is a start of both."
            )
        return start_from(bench, DistilledSet.load(expand(kind)), count, space, size)
    name = text_kind if kind == "real" else kind
    images, captions = choose_pairs(bench, "random" if name == "real" else name, count, seed, select)
    if text_kind == "real" != kind:
        captions = _captions_of(bench, images, generator(seed, "captions"))
    split, shown = bench.split("train"), bench.start_images(images)
    texts = split.data.texts.rows(captions)
    chosen = [split.pairs.captions[int(index)] for index in captions]
    if bench.setting == "both":
        return Start(shown, texts[..., :-1].clone(), chosen, texts[..., -1].clone(), captions)
    return Start(shown, texts.clone(), chosen, rows=captions)


def is_folder(kind: str) -> bool:
    """Whether a start is a place on disk and not a word; a word wins over a folder of that name."""
    if kind in ("real", "noise") or kind in SELECTORS:
        return False
    return os.sep in kind or "/" in kind or (Path(expand(kind)) / "set.json").exists()


def _check_set(distilled: DistilledSet, count: int, space: str) -> None:
    """Refuse a set whose pairs are not ``count``, or not one of ``space`` and one sentence vector each."""
    if len(distilled) != count:
        raise ConfigError(
            f"distill.start {distilled.name} has {len(distilled)} pairs, but distill.pairs is {count}. Ask for as many."
        )
    several = distilled.captions_per_image > 1
    if distilled.space != space or distilled.text_space == "tokens" or several:
        texts = "several texts" if several else "tokens" if distilled.text_space == "tokens" else "a sentence vector"
        raise ConfigError(
            f"distill.start {distilled.name} holds {distilled.space} with {texts} each; with distill.space {space} a "
            f"start is {space} with a sentence vector each. Use another start."
        )


def start_from(bench: Workbench, distilled: DistilledSet, count: int, space: str = "pixels", size: int = 0) -> Start:
    """The pairs of a set as this workbench's towers take them; features where that is the ``space``.

    Args:
        size: of the images in pixels; 0 is the tower's. Stored images of that size stay as they are.

    Raises:
        ConfigError: a set of another size, space or kind of texts.
        ArtefactError: a set of another text tower, or features of another image tower.
    """
    _check_set(distilled, count, space)
    if bench.setting == "both":
        raise ConfigError(
            f"distill.start {distilled.name} has no tokens, which setting both needs. Use real or kmeans."
        )
    distilled.check_fits(bench.towers)
    tower = bench.image_tower
    if space == "features":
        images = distilled.restandardised("image", bench.image_standardisation.mean, bench.image_standardisation.scale)
    else:
        images = distilled.images_for(size or tower.size, tower.mean, tower.std)
    texts = distilled.restandardised("text", bench.text_standardisation.mean, bench.text_standardisation.scale)
    captions = [one_line(caption.get("start", "")) for caption in distilled.captions] or [""] * count
    return Start(images.to(bench.device), texts.to(bench.device), captions)


def with_more_captions(start: Start, bench: Workbench, count: int, seed: int) -> Start:
    """``start`` with ``count`` texts for each image, (N, count, d): its own, and other captions of the same image.

    An image with fewer captions has some of them twice. Texts that are noise get more noise.
    """
    if count == 1:
        return start
    if bench.setting == "both":
        raise ConfigError(f"distill.captions is {count}; setting both learns the tokens of 1 caption for each image.")
    split, draw = bench.split("train"), generator(seed, "captions of images")
    if start.rows is None:
        more = torch.randn(len(start.texts), count - 1, start.texts.shape[1], generator=draw).to(start.texts)
        return replace(start, texts=torch.cat([start.texts[:, None], more], dim=1))
    rows = []
    for first in start.rows.tolist():
        own = split.pairs.image_captions[int(split.pairs.caption_image[first])]
        others = [int(own[i]) for i in torch.randperm(len(own), generator=draw).tolist() if own[i] != first]
        rows.append([first, *(others or [first]) * count][:count])
    texts = split.data.texts.rows(torch.tensor(rows).flatten()).reshape(len(rows), count, -1)
    captions = [[split.pairs.captions[row] for row in own] for own in rows]
    return replace(start, texts=texts.clone(), captions=captions)


def _captions_of(bench: Workbench, images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """A caption row drawn for each of the image rows (N,), (N,) int64."""
    captions = []
    for image in images.tolist():
        own = bench.pixels("train").pairs.image_captions[image]
        captions.append(int(own[int(torch.randint(len(own), (), generator=draw))]))
    return torch.tensor(captions)


def _noise(bench: Workbench, count: int, seed: int) -> Start:
    """Gaussian images with the real channels' moments; standard normal texts and vectors, which are standardised."""
    split, tower = bench.split("train"), bench.image_tower
    draw = generator(seed, "noise")
    if not bench.has_pixels:
        images = torch.randn(count, tower.width, generator=draw)
        texts = torch.randn(count, bench.text_tower.width, generator=draw)
        return Start(images.to(bench.device), texts.to(bench.device), [""] * count)
    sample = torch.from_numpy(np.array(split.pixels.array[:NOISE_SAMPLE]))
    real = to_float(sample, tower.mean, tower.std)
    mean, std = real.mean((0, 2, 3)), real.std((0, 2, 3))
    images = torch.randn(count, 3, tower.size, tower.size, generator=draw)
    images = images * std.view(3, 1, 1) + mean.view(3, 1, 1)
    texts = torch.randn(count, bench.text_tower.width, generator=draw)
    return Start(images.to(bench.device), texts.to(bench.device), [""] * count)


def nearest_by_image(bench: Workbench, texts: torch.Tensor) -> Sequence[Caption]:
    """:func:`nearest_captions` of the texts of every image; lists where each has several, (N, C, d)."""
    if texts.ndim == 2 or bench.setting == "both":
        return nearest_captions(bench, texts)
    flat, several = nearest_captions(bench, texts.flatten(0, 1)), texts.shape[1]
    return [flat[first : first + several] for first in range(0, len(flat), several)]


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


def starting_pairs(method: Method[T], context: Context[T], select: SelectConfig | None = None) -> Start:
    """The pairs that ``method`` starts from: its own choice, or ``distill.start``, with images of ``distill.size``."""
    config = context.config
    if isinstance(method, ChoosesStart):
        return method.begin(context).resized(config.size)
    image, text = config.starts
    asked = (image, config.pairs, config.seed, select, text, config.space, config.size)
    start = make_start(context.bench, *asked).resized(config.size)
    return with_more_captions(start, context.bench, config.captions, config.seed)


def check_size(size: int, bench: Workbench) -> None:
    """Refuse learned images that are larger than the tower takes. Raises ConfigError."""
    if size > bench.image_tower.size:
        raise ConfigError(
            f"distill.size is {size}, but the image tower takes {bench.image_tower.size} pixels: more would be stored "
            f"than is seen. Use 0 or a smaller side, or a larger encoder.image.size."
        )
