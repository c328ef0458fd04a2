"""From parts to a collection: what cannot be used is left out and counted, rows of one image become its captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vldistill.data.account import Account, Ledger
from vldistill.data.embedded.check import is_unit, scan, troubles
from vldistill.data.embedded.collection import EmbeddedCollection, EmbeddedImages
from vldistill.data.embedded.rows import read_rows
from vldistill.data.embedded.shards import Parts
from vldistill.data.source import Source
from vldistill.data.vectors import AT_ONCE, PairVectors, Shard, Vectors
from vldistill.errors import DataError

NORMS = ("", "unit", "any")  # of the option norms: as most vectors are, all of length 1, not looked at
ALIKE = 0.99  # cosine of vectors of one image; float16 and another batch change less
SIDES = ("image", "text")
OTHER_VECTOR = "with the id of another image, whose vector differs (?id=COLUMN names another column, ?id= none)"


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of all rows: its vectors, and their lengths (R,)."""

    vectors: Vectors
    lengths: np.ndarray

    def about(self) -> str:
        """``512 wide, float16, of length 1``."""
        usable = self.lengths[self.lengths > 0]
        low, high = (float(usable.min()), float(usable.max())) if len(usable) else (0.0, 0.0)
        kinds = sorted({str(shard.array.dtype) for shard in self.vectors.shards})
        length = "length 1" if self.vectors.unit else f"length {low:.3g} to {high:.3g}"
        return f"{self.vectors.tower}: {self.vectors.width:,} wide, {' and '.join(kinds)}, of {length}"


def gathered(parts: Parts, files: Sequence[Account], source: Source, root: Path) -> EmbeddedCollection:
    """The collection of some parts.

    Args:
        parts: as they were found.
        files: the accounts of what was weighed.
        source: with its options.
        root: the folder of its files.

    Raises:
        DataError: widths that differ, rows that do not belong together, or none that can be used.
    """
    image, text = (_side(parts, side, source) for side in range(2))
    ledger = Ledger("rows")
    left = np.zeros(len(image.lengths), bool)
    for name, side in (("image", image), ("text", text)):
        for reason, rows in troubles(side.lengths, side.vectors.unit).items():
            _leave(ledger, f"{reason} ({name} side)", rows & ~left, side.vectors)
            left |= rows
    rows = read_rows(parts.every, source, root)
    own, first = _images(rows.hashes, left, ledger, image)
    _leave(ledger, "of an image of another split", ~left & (rows.splits != rows.splits[first]), image.vectors)
    left |= rows.splits != rows.splits[first]
    kept = np.flatnonzero(~left)
    ledger.use(len(kept))
    if not len(kept):
        losses = "; ".join(Account("rows", len(left), 0, ledger.close(len(left)).left_out).losses())
        raise DataError(f"{source.text}: none of its {len(left):,} pairs can be used: {losses}.")
    images = np.flatnonzero(own & ~left)
    image_of = np.searchsorted(images, first[kept])
    order = np.argsort(image_of, kind="stable")
    account = ledger.close(sum(len(part.image) for part in parts.every))
    folder = Path(source.options["images"]).expanduser() if "images" in source.options else root
    return EmbeddedCollection(
        source=source.text,
        images=EmbeddedImages(rows.ids.chosen(images), rows.paths and rows.paths.chosen(images), folder),
        about={
            "format": f"vectors in {parts.format}",
            "parts": len(parts.every),
            "image side": image.about(),
            "text side": text.about(),
            **({"columns": dict(rows.about)} if rows.about else {}),
        },
        accounts=(*files, *rows.accounts, account),
        vectors=PairVectors(image.vectors.select(images), text.vectors.select(kept[order])),
        texts=rows.captions.chosen(kept[order]),
        caption_image=image_of[order],
        codes=rows.splits[images],
        hashes=rows.hashes[images],
    )


def _side(parts: Parts, side: int, source: Source) -> _Side:
    """Scan one side of all parts. Raises DataError for several widths, and an option that is none."""
    norms = source.options.get("norms", "")
    if norms not in NORMS:
        raise DataError(f"{source.text}: norms is {norms!r}; expected unit or any.")
    shards, lengths = [], []
    for part in parts.every:
        array, name = (part.image, part.text)[side], part.names[side]
        width = shards[0].array.shape[1] if shards else array.shape[1]
        if array.shape[1] != width:
            raise DataError(
                f"{name} has vectors of {array.shape[1]:,} numbers and {shards[0].name} of {width:,}; expected one "
                f"width on each side. Were they made by different towers? Take one kind out."
            )
        found = scan(array)
        shards.append(Shard(array, name, found.digest))
        lengths.append(found.lengths)
    every = np.concatenate(lengths)
    unit = norms == "unit" or (not norms and is_unit(every))
    tower = source.options.get(f"{SIDES[side]}_tower") or parts.towers[side]
    return _Side(Vectors(shards, np.arange(len(every)), tower, unit), every)


def _leave(ledger: Ledger, reason: str, rows: np.ndarray, vectors: Vectors) -> None:
    """Count some rows (R,) as left out."""
    found = np.flatnonzero(rows)
    for row in found[:3].tolist():
        ledger.leave(reason, vectors.place(row))
    if len(found) > 3:
        ledger.leave(reason, "", len(found) - 3)


def _images(hashes: np.ndarray, left: np.ndarray, ledger: Ledger, image: _Side) -> tuple[np.ndarray, np.ndarray]:
    """Which rows (R,) are the first of their image, and the first row (R,) of every row's image.

    Rows of one id whose vector is another than that of the first are left out, in ``left`` too.
    """
    usable = np.flatnonzero(~left)
    order = usable[np.argsort(hashes[usable], kind="stable")]
    new = np.ones(len(order), bool)
    new[1:] = hashes[order[1:]] != hashes[order[:-1]]
    first = np.arange(len(left))
    first[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(order) else first[order]
    again = np.flatnonzero(first != np.arange(len(left)))
    other = np.zeros(len(left), bool)
    for start in range(0, len(again), AT_ONCE):
        rows = again[start : start + AT_ONCE]
        one, two = image.vectors.read(rows), image.vectors.read(first[rows])
        lengths = image.lengths[rows] * image.lengths[first[rows]]
        other[rows] = np.einsum("ij,ij->i", one, two) < ALIKE * lengths
    _leave(ledger, OTHER_VECTOR, other, image.vectors)
    left |= other
    return first == np.arange(len(left)), first
