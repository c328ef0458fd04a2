"""What a search finds, photos with scores and those that could not be read; and what a classification finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import torch

from vldistill.config.plain import Plain


@dataclass(frozen=True)
class Hit:
    """A photo and the cosine similarity of its embedding with the question's."""

    path: str
    score: float


@dataclass(frozen=True, repr=False)
class SearchResult(Sequence[Hit]):
    """The best photos of a search, the best first.

    Args:
        question: what was asked.
        hits: the photos.
        photos: number of photos that were ranked.
        left_out: photos that could not be read, and why.
    """

    question: str
    hits: tuple[Hit, ...]
    photos: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    @property
    def paths(self) -> list[str]:
        """The paths alone."""
        return [hit.path for hit in self.hits]

    def __repr__(self) -> str:
        lines = [f"{hit.score:7.3f}  {hit.path}" for hit in self.hits]
        return "\n".join([f"{self.question!r} among {self.photos:,} photos{self._left_out()}", *lines])

    def _left_out(self) -> str:
        if not self.left_out:
            return ""
        names = ", ".join(list(self.left_out)[:3]) + (", ..." if len(self.left_out) > 3 else "")
        return f", {len(self.left_out):,} left out ({names})"

    def to_dict(self) -> dict[str, Plain]:
        """Plain values for JSON."""
        hits: list[Plain] = [{"path": hit.path, "score": round(hit.score, 6)} for hit in self.hits]
        return {"question": self.question, "hits": hits, "photos": self.photos, "left_out": dict(self.left_out)}


@dataclass(frozen=True, repr=False, eq=False)
class Classification(Sequence[str]):
    """The class of each picture, in their order.

    Args:
        classes: that were asked for.
        scores: (N, K) cosine similarities of the pictures with the mean prompt of each class.
    """

    classes: tuple[str, ...]
    scores: torch.Tensor

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        best = self.scores[index].argmax(-1)
        return [self.classes[label] for label in best.tolist()] if isinstance(index, slice) else self.classes[int(best)]

    def __repr__(self) -> str:
        best = self.scores.max(-1).values.tolist()
        return "\n".join(f"{score:7.3f}  {name}" for score, name in zip(best, self))
