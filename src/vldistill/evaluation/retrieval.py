"""Image-caption retrieval: exact ranks in both directions, recalls, and the level of chance.

Tensor suffixes: N images, M captions, D embedding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vldistill.errors import DataError, DivergedError
from vldistill.evaluation.measures import Recalls
from vldistill.runtime.devices import fetched

CUTOFFS = (1, 5, 10)
"""The K of TR@K and IR@K."""


class QueryRanks(NamedTuple):
    """The 0-based rank of every query's best match, int64, on the device of the embeddings."""

    image_to_text: Tensor
    """(N,): how many captions of other images score at least as high as the image's best own caption."""
    text_to_image: Tensor
    """(M,): how many other images score at least as high as the caption's own image."""


@torch.no_grad()
def retrieval_ranks(
    images: Tensor, captions: Tensor, caption_image: Tensor, *, chunk_bytes: int = 3 * 2**20
) -> QueryRanks:
    """Rank all captions for every image, and all images for every caption, by inner product.

    A tie counts against the match, so a student that maps everything to one point ranks last, not first.
    Equal embeddings tie exactly, however the matrix product rounds; a cosine ranking needs normalised
    embeddings. Scores have the embeddings' precision, and at least float32 (on a GPU with the
    precision set by ``torch.set_float32_matmul_precision``).

    Two images with two captions each, and these scores:

        ==========  =========  =========  =========  =========
        caption     0 (of 0)   1 (of 0)   2 (of 1)   3 (of 1)
        ==========  =========  =========  =========  =========
        image 0     0.9        0.1        0.8        0.2
        image 1     0.3        0.4        0.2        0.4
        ==========  =========  =========  =========  =========

    Image 0 finds its caption 0 first: rank 0. The best caption of image 1 is 3, but caption 1 scores as much:
    rank 1. Captions 0 and 3 find their image first, 1 and 2 find the other one: TR@1 = 50, IR@1 = 50.

    >>> captions = torch.tensor([[0.9, 0.3], [0.1, 0.4], [0.8, 0.2], [0.2, 0.4]])
    >>> ranks = retrieval_ranks(torch.eye(2), captions, torch.tensor([0, 0, 1, 1]))
    >>> ranks.image_to_text.tolist(), ranks.text_to_image.tolist()
    ([0, 1], [0, 1, 1, 0])

    Args:
        images: (N, D) floating point.
        captions: (M, D) floating point, on the same device.
        caption_image: (M,) int64, the image of every caption, each of 0..N-1 at least once. Captions that
            stand in the order of their images are fastest.
        chunk_bytes: memory for scores, in bytes; the whole N x M matrix never exists.

    Raises:
        ValueError: a wrong shape, dtype, device or chunk size.
        DataError: a caption of no image, or an image without a caption.
        DivergedError: embeddings that are not finite, or so large that a score could overflow.
    """
    images, captions, caption_image = _checked(images, captions, caption_image, chunk_bytes)
    image_twin, image_weight = twins(images)
    caption_twin, caption_weight = twins(captions)
    # Equal embeddings are one gallery item, weighted by their number: ties do not depend on rounding.
    pair_row = torch.cat([caption_image, image_twin[caption_image]])
    pair_column = torch.cat([caption_twin, torch.arange(len(captions), device=captions.device)])
    tiles = _Tiles(images, captions, pair_row, pair_column, chunk_bytes)
    own = images.new_empty(len(pair_row))
    own_caption, own_image = own.chunk(2)
    best = own.new_full((len(images),), -torch.inf)
    above_best = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    above_own = torch.zeros(len(captions), dtype=torch.int64, device=images.device)

    def count(rows: slice, columns: slice, scores: Tensor, hits: Tensor) -> None:
        torch.ge(scores, best[rows, None], out=hits)
        if caption_weight is not None:
            hits.mul_(caption_weight[columns])
        above_best[rows] += hits.sum(1).long()
        torch.ge(scores, own_image[columns], out=hits)
        if image_weight is not None:
            hits.mul_(image_weight[rows, None])
        above_own[columns] += hits.sum(0).long()

    captions_of = torch.bincount(caption_image, minlength=len(images))
    whole: set[tuple[int, int]] = set()
    for corner, here, tile in tiles.with_pairs(own):
        rows, _, scores, _ = tile
        to_text = here[here < len(captions)]
        best.scatter_reduce_(0, caption_image[to_text], own_caption[to_text], "amax")
        # Every pair of these rows and columns is in this tile: it can be counted without computing it again.
        if len(to_text) == int(captions_of[rows].sum()) and len(here) - len(to_text) == scores.shape[1]:
            count(*tile)
            whole.add(corner)
    for tile in tiles.except_for(whole, own):
        count(*tile)
    matches = torch.zeros_like(above_best)
    matches.scatter_add_(0, caption_image, (own_caption >= best[caption_image]).long())
    return QueryRanks(above_best - matches, above_own - 1)


def retrieval_metrics(
    images: Tensor, captions: Tensor, caption_image: Tensor, *, chunk_bytes: int = 3 * 2**20
) -> Recalls:
    """Recalls in percent: ``tr1, tr5, tr10, ir1, ir5, ir10`` and their mean, ``mean_recall``.

    TR@K is the share of images with any own caption among their first K captions, IR@K the share of captions
    with their image among the first K images. Arguments and errors are those of ``retrieval_ranks``.
    """
    return metrics_of(retrieval_ranks(images, captions, caption_image, chunk_bytes=chunk_bytes))


def metrics_of(ranks: QueryRanks) -> Recalls:
    """:func:`retrieval_metrics` of queries that are ranked already."""
    ways = {"tr": ranks.image_to_text, "ir": ranks.text_to_image}
    counts = fetched([(found < k).sum() for found in ways.values() for k in CUTOFFS])
    queries = [(f"{way}{k}", len(found)) for way, found in ways.items() for k in CUTOFFS]
    return Recalls.of({name: 100.0 * int(hits) / of for (name, of), hits in zip(queries, counts)})


def chance_level(caption_image: Tensor, n_images: int) -> Recalls:
    """The expected recalls of a uniformly random ranking of the same gallery.

    An image with c of M captions is hit in its first K with probability 1 - C(M - c, K) / C(M, K); a caption
    with probability K / N. The values are exact expectations, in percent.

    Args:
        caption_image: (M,) int64, the image of every caption, each of 0..n_images-1 at least once.
        n_images: N.

    Raises:
        ValueError: a wrong shape or dtype.
        DataError: a caption of no image, or an image without a caption.
    """
    _check_caption_image(caption_image, n_images)
    n_captions = len(caption_image)
    images_with = Counter(torch.bincount(caption_image, minlength=n_images).tolist())
    recalls: dict[str, float] = {}
    for k in CUTOFFS:
        drawn = min(k, n_captions)
        draws = math.comb(n_captions, drawn)
        hits = sum(n * (draws - math.comb(n_captions - own, drawn)) for own, n in images_with.items())
        recalls[f"tr{k}"] = 100 * hits / (n_images * draws)  # exact integers up to this division
    recalls |= {f"ir{k}": 100.0 * min(k, n_images) / n_images for k in CUTOFFS}
    return Recalls.of(recalls)


_Tile = tuple[slice, slice, Tensor, Tensor]
"""Rows, columns, scores, and scratch of that shape; valid until the next tile is computed."""


class _Tiles:
    """The N x M score matrix as a grid of products, each computed by the same call wherever it is needed.

    A product of another shape may round differently, and then a nearly collapsed student would win or lose
    everything by the last bit; so a pair takes its score from the very tile that its rivals' rank uses.
    """

    def __init__(
        self, images: Tensor, captions: Tensor, pair_row: Tensor, pair_column: Tensor, chunk_bytes: int
    ) -> None:
        self.images, self.captions = images, captions
        self.pair_row, self.pair_column = pair_row, pair_column
        n, m = len(images), len(captions)
        # Tiles of the matrix's own aspect: the pairs of captions in image order lie in the diagonal tiles.
        budget = max(1, chunk_bytes // (2 * images.element_size()))
        self.height = max(1, min(n, budget, math.isqrt(budget * n // m)))
        self.width = max(1, min(budget // self.height, math.ceil(self.height * m / n)))
        # One pair of small buffers that stay in the processor's cache: faster than fresh memory per tile.
        self.buffers = images.new_empty(2, self.height * self.width)
        self.pairs_in = self._pairs_by_tile()

    def with_pairs(self, known: Tensor) -> Iterator[tuple[tuple[int, int], Tensor, _Tile]]:
        """Every tile with pairs: its corner, their indices, and the tile; their scores are written to ``known``."""
        for (top, left), here in self.pairs_in.items():
            tile = self._product(top, left)
            known[here] = tile[2][self.pair_row[here] - top, self.pair_column[here] - left]
            yield (top, left), here, tile

    def except_for(self, done: set[tuple[int, int]], known: Tensor) -> Iterator[_Tile]:
        """Every tile whose corner is not ``done``, with ``known`` at the pairs."""
        for top in range(0, len(self.images), self.height):
            for left in range(0, len(self.captions), self.width):
                if (top, left) in done:
                    continue
                rows, columns, scores, scratch = self._product(top, left)
                here = self.pairs_in.get((top, left))
                if here is not None:  # the same numbers already, unless a library rounds from call to call
                    scores[self.pair_row[here] - top, self.pair_column[here] - left] = known[here]
                yield rows, columns, scores, scratch

    def _pairs_by_tile(self) -> dict[tuple[int, int], Tensor]:
        """The indices of the pairs in each tile that has any, by the tile's (top, left)."""
        across = math.ceil(len(self.captions) / self.width)
        tile = self.pair_row // self.height * across + self.pair_column // self.width
        order = tile.argsort()
        tiles, counts = tile[order].unique_consecutive(return_counts=True)
        corners = [(t // across * self.height, t % across * self.width) for t in tiles.tolist()]
        return dict(zip(corners, order.split(counts.tolist())))

    def _product(self, top: int, left: int) -> _Tile:
        """(rows, columns, scores, scratch) of the tile with this corner, valid until the next call."""
        rows, columns = slice(top, top + self.height), slice(left, left + self.width)
        some_images, some_captions = self.images[rows], self.captions[columns]
        shape = (len(some_images), len(some_captions))
        scores, scratch = (buffer[: shape[0] * shape[1]].view(shape) for buffer in self.buffers)
        torch.mm(some_images, some_captions.T, out=scores)
        return rows, columns, scores, scratch


def twins(embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
    """For every row the first row equal to it, and how many rows each stands for (0 unless it is the first).

    The weights are None when all rows differ.
    """
    n = len(embeddings)
    twin = torch.arange(n, device=embeddings.device)
    # Comparing whole rows is slow: only rows that share their first number with another can be equal.
    _, inverse, counts = embeddings[:, 0].unique(return_inverse=True, return_counts=True)
    suspects = (counts[inverse] > 1).nonzero()[:, 0]
    distinct, group = torch.unique(embeddings[suspects], dim=0, return_inverse=True)
    if len(distinct) == len(suspects):
        return twin, None
    first = twin.new_full((len(distinct),), n).scatter_reduce_(0, group, suspects, "amin")
    twin[suspects] = first[group]
    return twin, torch.bincount(twin, minlength=n).to(embeddings.dtype)


def _checked(
    images: Tensor, captions: Tensor, caption_image: Tensor, chunk_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments, in one precision on one device; raises the errors of ``retrieval_ranks``."""
    for name, embeddings in (("images", images), ("captions", captions)):
        if embeddings.ndim != 2 or 0 in embeddings.shape:
            raise ValueError(f"{name} must be (rows, D), neither empty; got shape {tuple(embeddings.shape)}.")
        if not embeddings.is_floating_point():
            raise ValueError(f"{name} must be floating point, not {embeddings.dtype}.")
    if images.shape[1] != captions.shape[1] or images.device != captions.device:
        raise ValueError(
            f"images and captions must have one D and one device; got D {images.shape[1]} on {images.device} "
            f"and {captions.shape[1]} on {captions.device}."
        )
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1, not {chunk_bytes}.")
    if caption_image.shape != captions.shape[:1]:
        raise ValueError(
            f"caption_image must have one entry for each of the {len(captions)} captions; "
            f"got shape {tuple(caption_image.shape)}."
        )
    _check_caption_image(caption_image, len(images))
    precision = torch.promote_types(torch.promote_types(images.dtype, captions.dtype), torch.float32)
    images, captions = images.to(precision), captions.to(precision)
    check_scores_finite(images, captions)
    return images, captions, caption_image.to(images.device)


def _check_caption_image(caption_image: Tensor, n_images: int) -> None:
    if caption_image.dtype != torch.int64 or caption_image.ndim != 1:
        raise ValueError(
            f"caption_image must be a vector of int64; got {caption_image.dtype} of shape {tuple(caption_image.shape)}."
        )
    outside = (caption_image < 0) | (caption_image >= n_images)
    if outside.any():
        raise DataError(
            f"{int(outside.sum())} of {len(caption_image)} captions belong to no image: caption_image must be "
            f"0..{n_images - 1}; the first wrong value is {int(caption_image[outside][0])}."
        )
    alone = (torch.bincount(caption_image, minlength=n_images) == 0).nonzero()[:, 0]
    if len(alone):
        raise DataError(
            f"{len(alone)} of {n_images} images have no caption (the first is image {int(alone[0])}): "
            f"leave them out of the gallery."
        )


def check_scores_finite(images: Tensor, captions: Tensor) -> None:
    """Refuse embeddings whose scores are not, or might not be, finite."""
    largest: list[float] = []
    for name, embeddings in (("image", images), ("caption", captions)):
        low, high = embeddings.amin(1), embeddings.amax(1)
        broken = int((~(low.isfinite() & high.isfinite())).sum())
        if broken:
            raise DivergedError(
                f"{broken} of {len(embeddings)} {name} embeddings are not finite, so they have no rank. "
                f"The student diverged: lower its learning rates."
            )
        largest.append(max(-float(low.min()), float(high.max())))
    limit = torch.finfo(images.dtype).max / images.shape[1]
    if largest[0] * largest[1] > limit:
        raise DivergedError(
            f"embeddings as large as {largest[0]:.3g} (images) and {largest[1]:.3g} (captions) overflow the "
            f"scores of {images.dtype}. Normalise them, or lower the student's learning rates."
        )
