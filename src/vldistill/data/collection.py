"""What every reader returns, and the one place where it becomes Pairs: what is unusable is left out and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vldistill.data.pairs import ImageStore, Pairs, choose, in_order
from vldistill.errors import DataError

if TYPE_CHECKING:
    from vldistill.data.photos import PhotoLimits

WORDS_KEPT = 30  # of a caption, by the field's cleaning
LONGEST_CAPTION = 10_000  # characters; longer texts are no captions, and some tokenizers take quadratic time on them
LEFT_OUT = {
    "endless": ("caption", f"over {LONGEST_CAPTION:,} characters left out"),
    "empty": ("empty caption", "left out"),
    "bare": ("image", "without a caption left out"),
    "lost": ("missing image", "left out"),
}
"""What is unusable: its noun, and the rest of the note that counts it."""


@dataclass(frozen=True)
class Collection:
    """All images of a source with what is said about them, before anything is left out.

    Attributes:
        source: the source, as the user wrote it.
        images: every image, in the source's order.
        captions: the raw captions of each image; may be empty.
        splits: the split of each image, one of train, val, test.
        missing: index -> where it was looked for, for images that cannot be found.
        about: what the reader understood, for ``vldistill inspect``: format, columns, files.
        made: split -> how it was made, for splits that the source does not have of its own.
        reader: the reader's name.
        clean: captions pass :func:`clean_caption` on the way out.
    """

    source: str
    images: ImageStore
    captions: Sequence[Sequence[str]]
    splits: Sequence[str]
    missing: Mapping[int, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    reader: str = ""
    clean: bool = False

    def limited(self, limits: PhotoLimits) -> Collection:
        """The same with ``limits`` for its photos, where they are files: drawings have none."""
        images: Any = self.images
        return replace(self, images=replace(images, limits=limits)) if hasattr(images, "limits") else self

    def splits_present(self) -> list[str]:
        """The splits that have an image, in the order train, val, test."""
        return in_order(self.splits)

    def pairs(self, split: str, *, strict: bool = False) -> Pairs:
        """One split as Pairs; with ``strict`` anything left out is an error. Raises DataError."""
        members = [index for index, name in enumerate(self.splits) if name == split]
        if not members:
            raise DataError(self._no_split(split))
        names = self.images.names
        kept: list[int] = []
        captions: list[str] = []
        counts: list[int] = []
        left: dict[str, list[int]] = {what: [] for what in LEFT_OUT}
        for index in members:
            texts = [text.strip() for text in self.captions[index]]
            _require_encodable(texts, self.source, names[index])
            short = [text for text in texts if len(text) <= LONGEST_CAPTION]
            if self.clean:
                short = [clean_caption(text) for text in short]
            full = [text for text in short if text]
            left["endless"] += [index] * (len(texts) - len(short))
            left["empty"] += [index] * (len(short) - len(full))
            if not full:
                left["bare"].append(index)
            if index in self.missing:
                left["lost"].append(index)
            elif full:
                kept.append(index)
                captions += full
                counts.append(len(full))
        notes = [_note(what, [names[index] for index in those]) for what, those in left.items() if those]
        where = f"{self.source}, split {split!r}"
        lost = left["lost"]
        looked = f" Looked for {names[lost[0]]} in {self.missing[lost[0]]}." if lost else ""
        if strict and notes:
            raise DataError(
                f"{where}: {'; '.join(notes)}.{looked} Correct the source, or leave out --strict (data.strict)."
            )
        if not kept:
            raise DataError(f"{where}: none of its {len(members):,} images can be used: {'; '.join(notes)}.{looked}")
        return Pairs(
            source=self.source,
            split=split,
            images=choose(self.images, kept),
            captions=captions,
            caption_image=np.repeat(np.arange(len(kept)), counts),
            notes=(*notes, *(note for name, note in self.made.items() if name == split)),
        )

    def summary(self) -> dict[str, Any]:
        """See :func:`vldistill.data.load.source_summary`."""
        splits = {}
        for split in self.splits_present():
            try:
                pairs = self.pairs(split)
                splits[split] = {
                    "images": pairs.count_images,
                    "captions": pairs.count_captions,
                    "notes": list(pairs.notes),
                }
            except DataError as error:  # a split without one usable image is a finding here, not the end
                splits[split] = {"images": 0, "captions": 0, "notes": [str(error)]}
        return {"source": self.source, "reader": self.reader, "understood": dict(self.about), "splits": splits}

    def _no_split(self, split: str) -> str:
        """The message for a split without images: which there are, and how large."""
        images = Counter(self.splits)
        captions: Counter[str] = Counter()
        for name, texts in zip(self.splits, self.captions, strict=True):
            captions[name] += len(texts)
        known = [f"{name} ({images[name]:,} images, {captions[name]:,} captions)" for name in self.splits_present()]
        hint = ""
        if split in self.made:
            hint = f" It was {self.made[split]}: too few images for one. Ask for a larger share, e.g. ?{split}=0.2."
        elif f"{split}=0" in self.source:
            hint = f" Leave out {split}=0, and a share of train becomes {split}."
        return f"{self.source} has no split {split!r}. It has: {', '.join(known) or 'no images at all'}.{hint}"


def clean_caption(caption: str) -> str:
    """The caption cleaning of the field: lower case, ``.!"()*#:;~`` become spaces, at most 30 words. May be empty."""
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", caption.lower()).split()[:WORDS_KEPT])


def _note(what: str, names: Sequence[str]) -> str:
    """``3 images without a caption left out (a.jpg, b.jpg, c.jpg)``."""
    noun, tail = LEFT_OUT[what]
    distinct = list(dict.fromkeys(names))
    shown = ", ".join(distinct[:3]) + (", ..." if len(distinct) > 3 else "")
    return f"{len(names):,} {noun}{'s' if len(names) > 1 else ''} {tail} ({shown})"


def _require_encodable(texts: Sequence[str], source: str, name: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell but no file or tokenizer can take."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(f"{source}: image {name}: the caption {text!r} is not valid Unicode. Correct it.") from None
