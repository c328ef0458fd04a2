"""Features of all training pairs, stored once per image and once per caption, never joined in memory.

A pair (i, j) of image i and caption j has the joined vector [u_i; t_j]. COCO has 113,000 images and 565,000 captions:
2.3 GB joined in float32, 0.7 GB separately in float16. Selectors only need projections of all pairs, and these are sums
of a projection of the images and one of the captions.

Shapes: N images, M captions, D and d the two widths, B rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vldistill.runtime.randomness import generator

ROWS_AT_ONCE = 1024  # converted to float32 at a time: they fit in a core's cache (measured: 0.08 s per 680,000 rows)


@dataclass(frozen=True, eq=False)
class PairFeatures:
    """Features of every training pair.

    Args:
        images: (N, D), L2-normalised rows in float16 or float32; may be memory-mapped.
        texts: (M, d), in the same form.
        caption_image: (M,) int64, the image of each caption.
    """

    images: torch.Tensor
    texts: torch.Tensor
    caption_image: torch.Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def joined(self, rows: torch.Tensor) -> torch.Tensor:
        """The joined vectors of some pairs, (B, D + d) float32."""
        out = torch.empty(len(rows), self.images.shape[1] + self.texts.shape[1])
        images, texts = self.split(out)
        for into in torch.arange(len(rows)).split(ROWS_AT_ONCE):  # in parts: no large temporary beside ``out``
            part = rows[into]
            images[into] = self.images[self.caption_image[part]].float()
            texts[into] = self.texts[part].float()
        return out

    def split(self, joined: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The image part and the text part of joined vectors (..., D + d)."""
        return joined[..., : self.images.shape[1]], joined[..., self.images.shape[1] :]

    def chunks(self, size: int = ROWS_AT_ONCE) -> Iterator[torch.Tensor]:
        """All rows in order, ``size`` at a time."""
        return iter(torch.arange(len(self)).split(size))

    def project(self, image_direction: torch.Tensor, text_direction: torch.Tensor) -> torch.Tensor:
        """The scalar products u_i . a + t_j . b of all pairs, (M,) float32, with directions a (D,) and b (d,)."""
        return _project(self.images, image_direction)[self.caption_image] + _project(self.texts, text_direction)

    def mean(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The image part (D,) and text part (d,) of the mean over pairs: an image counts once per caption."""
        weights = torch.bincount(self.caption_image, minlength=len(self.images)).double()
        image = torch.zeros(self.images.shape[1], dtype=torch.float64)
        text = torch.zeros(self.texts.shape[1], dtype=torch.float64)
        for part, weight in zip(self.images.split(ROWS_AT_ONCE), weights.split(ROWS_AT_ONCE)):
            image += weight @ part.double()
        for part in self.texts.split(ROWS_AT_ONCE):
            text += part.double().sum(0)
        return (image / len(self)).float(), (text / len(self)).float()

    def agreement(self) -> torch.Tensor:
        """The scalar product u_i . t_j of each pair, (M,) float32; both sides must have the same width."""
        out = torch.empty(len(self))  # filled in place, to avoid fragmenting the heap
        for rows in self.chunks():
            out[rows] = self.images[self.caption_image[rows]].float().mul_(self.texts[rows].float()).sum(1)
        return out

    def square_norms(self) -> torch.Tensor:
        """|[u_i; t_j]|^2 of all pairs, (M,) float32: 2 up to the rounding of float16."""
        return _square_norms(self.images)[self.caption_image] + _square_norms(self.texts)


def _project(table: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """``table`` (rows, width) @ ``direction`` (width,) in float32, through one small buffer."""
    direction = direction.float()
    out = torch.empty(len(table))
    buffer = torch.empty(min(ROWS_AT_ONCE, len(table)), table.shape[1])
    for start in range(0, len(table), ROWS_AT_ONCE):
        part = table[start : start + ROWS_AT_ONCE]
        rows = buffer[: len(part)]
        rows.copy_(part)  # reuses the buffer: fresh pages would cost more than the product
        torch.mv(rows, direction, out=out[start : start + ROWS_AT_ONCE])
    return out


def _square_norms(table: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(table))
    for into, part in zip(out.split(ROWS_AT_ONCE), table.split(ROWS_AT_ONCE)):
        into.copy_(part.float().square().sum(1))
    return out


def first_of_each_image(order: torch.Tensor, caption_image: torch.Tensor, count: int) -> torch.Tensor:
    """The first ``count`` rows of ``order`` (M,), at most one per image, (count,) int64."""
    images = caption_image[order]
    first = torch.full((int(caption_image.max()) + 1,), len(order)).scatter_reduce(
        0, images, torch.arange(len(order)), reduce="amin"
    )
    return order[first.sort().values[:count]]


def draw_captions(
    image_captions: Sequence[np.ndarray], count: int, seed: int, labels: np.ndarray | None = None
) -> torch.Tensor:
    """One random caption for each of ``count`` random images: rows (count,) int64.

    Args:
        labels: (N,) int64, the class of each image; as many of each class are drawn, as far as there are images.
    """
    draw = generator(seed, "pairs")
    order = torch.randperm(len(image_captions), generator=draw)
    images = (order if labels is None else one_of_each_class(order, labels))[:count]
    captions = (image_captions[image] for image in images.tolist())
    return torch.tensor([int(own[int(torch.randint(len(own), (), generator=draw))]) for own in captions])


def one_of_each_class(order: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """``order`` (N,) of images so that the first of every class come first, then the second of every class, ..."""
    own = labels[order.numpy()]
    turn = np.empty(len(own), np.int64)
    for label in np.unique(own):
        turn[own == label] = np.arange((own == label).sum())
    return order[torch.from_numpy(np.argsort(turn, kind="stable"))]
