"""Which queries of the test split a student answered: kept as text beside its recalls, for intervals of any difference.

A query's level is 0, 1 or 2 where its match is within the first 1, 5 or 10, and 3 otherwise: two bits a query.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from vldistill.errors import ArtefactError
from vldistill.evaluation.retrieval import CUTOFFS, QueryRanks


@dataclass(frozen=True)
class Hits:
    """The hits of one student.

    Args:
        images: (N, 3) 1 where an image found one of its captions within the first 1, 5, 10.
        captions: (N, 3) how many captions of each image found it within the first 1, 5, 10.
        counts: (N,) captions of each image.
    """

    images: np.ndarray
    captions: np.ndarray
    counts: np.ndarray

    def recalls(self, weights: np.ndarray) -> np.ndarray:
        """The six recalls in percent, (B, 6), where image n counts ``weights`` (B, N) times with its captions."""
        found = weights @ np.concatenate([self.images, self.captions], axis=1)
        queries = np.stack([weights.sum(1)] * 3 + [weights @ self.counts] * 3, axis=1)
        return 100.0 * found / queries


def encoded_hits(ranks: QueryRanks, caption_image: torch.Tensor) -> str:
    """The levels of all queries as text: images, then captions in the order of their images.

    Args:
        ranks: of N images and M captions.
        caption_image: (M,) int64, the image of every caption.
    """
    order = caption_image.cpu().argsort(stable=True)
    return _packed(torch.cat([ranks.image_to_text.cpu(), ranks.text_to_image.cpu()[order]]))


def _packed(ranked: torch.Tensor) -> str:
    """The levels of ranks as text."""
    levels = torch.bucketize(ranked, torch.tensor(CUTOFFS), right=True).to(torch.uint8).numpy()
    quads = np.pad(levels, (0, -len(levels) % 4)).reshape(-1, 4)
    return _text((quads << np.array([0, 2, 4, 6], np.uint8)).sum(1).astype(np.uint8).tobytes())


def encoded_class_hits(ranks: torch.Tensor) -> str:
    """The levels of images as text, from the ranks (N,) of their classes."""
    return _packed(ranks.cpu())


def decoded_class_hits(hits: str, images: int) -> np.ndarray:
    """(N, 3), whether the class of each image is within the first 1, 5, 10. Raises ArtefactError."""
    return _levels(hits, images)[:, None] <= np.arange(len(CUTOFFS))


def encoded_counts(caption_image: torch.Tensor) -> str:
    """The number of captions of each image, as text."""
    return _text(torch.bincount(caption_image.cpu()).numpy().astype("<u2").tobytes())


def decoded(hits: str, counts: str) -> Hits:
    """The opposite of :func:`encoded_hits` and :func:`encoded_counts`. Raises ArtefactError for damaged texts."""
    captions_of = _numbers(counts, "<u2").astype(np.int64)
    images = len(captions_of)
    levels = _levels(hits, images + int(captions_of.sum()))
    within = levels[:, None] <= np.arange(len(CUTOFFS))
    ends = np.concatenate([[0], captions_of.cumsum()])
    running = np.concatenate([np.zeros((1, len(CUTOFFS)), np.int64), within[images:].cumsum(0)])
    return Hits(within[:images].astype(np.int64), running[ends[1:]] - running[ends[:-1]], captions_of)


def _levels(hits: str, queries: int) -> np.ndarray:
    """The levels (Q,) in a text of :func:`_packed`. Raises ArtefactError."""
    quads = _numbers(hits, "u1")
    if len(quads) != -(-queries // 4):
        raise ArtefactError(f"the hits of a student are not those of {queries} queries.")
    return (quads[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1)[:queries]


def _numbers(text: str, kind: str) -> np.ndarray:
    try:
        return np.frombuffer(_bytes(text), kind)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ArtefactError(f"the hits of a student are damaged ({error}); evaluate again.") from None


def _text(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def _bytes(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))
