"""What every reader returns, and the one place where it becomes Pairs: what is unusable is left out and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vldistill.data.account import Account, LeftOut
from vldistill.data.classes import NONE, Classes
from vldistill.data.pairs import ImageStore, Pairs, choose, in_order
from vldistill.errors import DataError

if TYPE_CHECKING:
    from vldistill.data.photos import PhotoLimits

WORDS_KEPT = 30  # of a caption, by the field's cleaning
LONGEST_CAPTION = 10_000  # characters; longer texts are no captions, and some tokenizers take quadratic time on them
LEFT_OUT = {
    "endless": ("caption", f"over {LONGEST_CAPTION:,} characters left out"),
    "garbled": ("caption", "that is not valid Unicode left out"),
    "empty": ("empty caption", "left out"),
    "bare": ("image", "without a caption left out"),
    "classless": ("image", "of no single class left out"),
    "lost": ("missing image", "left out"),
}
"""What is unusable: its noun, and the rest of the note that counts it."""


@dataclass(frozen=True)
class Collection:
    """All images of a source with their captions and splits, before :meth:`pairs` leaves out what is unusable.

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
        accounts: what the reader saw, used and left out; see :mod:`vldistill.data.account`.
        classes: of a class set, the classes and every image's; its captions are prompts.
        shares: of images for val and test, as the options of the source name them; None: no split is made.
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
    accounts: Sequence[Account] = ()
    shares: Mapping[str, float] | None = None
    classes: Classes | None = None

    def limited(self, limits: PhotoLimits) -> Collection:
        """The same with ``limits`` for its photos, where they are files: drawings have none."""
        images: Any = self.images
        return replace(self, images=replace(images, limits=limits)) if hasattr(images, "limits") else self

    def prompted(self, prompts: Sequence[str] = ()) -> Collection:
        """The same with the captions that templates give a class set; without any, with those of the source."""
        if self.classes is None:
            return self
        classes = replace(self.classes, prompts=tuple(prompts)) if prompts else self.classes
        return replace(self, classes=classes, captions=classes.captions())

    def splits_present(self) -> list[str]:
        """The splits that have an image, in the order train, val, test."""
        return in_order(self.splits)

    def pairs(self, split: str, *, strict: bool = False) -> Pairs:
        """One split as Pairs; with ``strict`` anything left out is an error. Raises DataError."""
        notes, kept, captions, counts, accounts = self._kept(split)
        losses = [*self.losses(split), *notes]
        where = f"{self.source}, split {split!r}"
        lost = next((index for index, name in enumerate(self.splits) if name == split and index in self.missing), None)
        looked = "" if lost is None else f" Looked for {self.images.names[lost]} in {self.missing[lost]}."
        if strict and losses:
            raise DataError(
                f"{where}: {'; '.join(losses)}.{looked} Correct the source, or leave out --strict (data.strict)."
            )
        if not kept:
            images = accounts[0].seen
            raise DataError(f"{where}: none of its {images:,} images can be used: {'; '.join(notes)}.{looked}")
        return Pairs(
            source=self.source,
            split=split,
            images=choose(self.images, kept),
            captions=captions,
            caption_image=np.repeat(np.arange(len(kept)), counts),
            classes=self.classes and self.classes.select(kept),
            notes=(*losses, *(note for name, note in self.made.items() if name == split)),
            accounts=(*self.accounts, *accounts),
        )

    def losses(self, split: str) -> list[str]:
        """What the reader left out, a sentence each; with the first split only, as few readers know of which it is."""
        first = split == next(iter(self.splits_present()), None)
        return [sentence for account in self.accounts for sentence in account.losses()] if first else []

    def split_accounts(self, split: str) -> tuple[Account, Account]:
        """The accounts of the images and the captions of a split. Raises DataError."""
        return self._kept(split)[4]

    def split_losses(self, split: str) -> list[str]:
        """What is left out of a split, a sentence for each reason; the captions of missing images go without saying."""
        images, captions = self.split_accounts(split)
        return [*images.losses(), *captions.losses(but="of a missing image")]

    def _kept(self, split: str) -> tuple[list[str], list[int], list[str], list[int], tuple[Account, Account]]:
        """Notes on what is left out of a split; its images, their captions and how many each has; the accounts."""
        members = [index for index, name in enumerate(self.splits) if name == split]
        if not members:
            raise DataError(self._no_split(split))
        names = self.images.names
        kept: list[int] = []
        captions: list[str] = []
        counts: list[int] = []
        left: dict[str, list[int]] = {what: [] for what in LEFT_OUT}
        unseen: list[int] = []  # captions of missing images
        for index in members:
            texts = [text.replace("\0", " ").strip() for text in self.captions[index] if _is_unicode(text)]
            left["garbled"] += [index] * (len(self.captions[index]) - len(texts))
            short = [text for text in texts if len(text) <= LONGEST_CAPTION]
            if self.clean:
                short = [clean_caption(text) for text in short]
            full = [text for text in short if text]
            left["endless"] += [index] * (len(texts) - len(short))
            left["empty"] += [index] * (len(short) - len(full))
            if not full:
                left[self._bare(index)].append(index)
            if index in self.missing:
                left["lost"].append(index)
                unseen += [index] * len(full)
            elif full:
                kept.append(index)
                captions += full
                counts.append(len(full))
        notes = [_note(what, [names[index] for index in those]) for what, those in left.items() if those]
        pictures = {"missing": left["lost"]}
        for what, reason in (("bare", "without a caption"), ("classless", "not of exactly one class")):
            pictures[reason] = [index for index in left[what] if index not in self.missing]
        texts = {
            "too long": left["endless"],
            "not valid Unicode": left["garbled"],
            "empty": left["empty"],
            "of a missing image": unseen,
        }
        accounts = (
            _account("images", self.splits.count(split), len(kept), pictures, names),
            _account("captions", sum(len(self.captions[index]) for index in members), len(captions), texts, names),
        )
        return notes, kept, captions, counts, accounts

    def _bare(self, index: int) -> str:
        """Why an image has no caption, a key of :data:`LEFT_OUT`."""
        return "classless" if self.classes is not None and self.classes.labels[index] == NONE else "bare"

    def summary(self) -> dict[str, Any]:
        """See :func:`vldistill.data.load.source_summary`."""
        splits = {}
        for split in self.splits_present():
            images, captions = (account.to_dict() for account in self.split_accounts(split))
            counts: dict[str, Any] = {"images": images["used"], "captions": captions["used"]}
            try:
                notes = list(self.pairs(split).notes)
            except DataError as error:  # a split without one usable image is a finding here, not the end
                notes = [str(error)]
            splits[split] = {**counts, "notes": notes, "account": {"images": images, "captions": captions}}
        return {
            "source": self.source,
            "reader": self.reader,
            "understood": dict(self.about),
            "account": [account.to_dict() for account in self.accounts],
            "splits": splits,
        }

    def _no_split(self, split: str) -> str:
        """The message for a split without images: which there are, and how large."""
        images = Counter(self.splits)
        captions: Counter[str] = Counter()
        for name, texts in zip(self.splits, self.captions, strict=True):
            captions[name] += len(texts)
        known = [f"{name} ({images[name]:,} images, {captions[name]:,} captions)" for name in self.splits_present()]
        hint = "".join(f" {sentence}." for account in self.accounts for sentence in account.losses())
        if split in self.made:
            hint += f" It was {self.made[split]}: too few images for one. Ask for a larger share, e.g. ?{split}=0.2."
        elif f"{split}=0" in self.source:
            hint += f" Leave out {split}=0, and a share of train becomes {split}."
        elif set(self.splits) == {"train"}:
            hint += f" To make it of train, give a share: ?{split}=0.1."
        if len(known) == 1 and "train" not in self.splits:
            hint += " To split it again, give shares: ?val=0.1&test=0.1."
        return f"{self.source} has no split {split!r}. It has: {', '.join(known) or 'no images at all'}.{hint}"


def _account(unit: str, seen: int, used: int, left: Mapping[str, Sequence[int]], names: Sequence[str]) -> Account:
    """A balanced account from the indices left out by reason."""
    kinds = {
        reason: LeftOut(len(those), [names[index] for index in those[:3]]) for reason, those in left.items() if those
    }
    return Account(unit, seen, used, kinds)


def clean_caption(caption: str) -> str:
    """The caption cleaning of the field: lower case, ``.!"()*#:;~`` become spaces, at most 30 words. May be empty."""
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", caption.lower()).split()[:WORDS_KEPT])


def _note(what: str, names: Sequence[str]) -> str:
    """``3 images without a caption left out (a.jpg, b.jpg, c.jpg)``."""
    noun, tail = LEFT_OUT[what]
    distinct = list(dict.fromkeys(names))
    shown = ", ".join(distinct[:3]) + (", ..." if len(distinct) > 3 else "")
    return f"{len(names):,} {noun}{'s' if len(names) > 1 else ''} {tail} ({shown})"


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON can spell but no file or tokenizer can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
