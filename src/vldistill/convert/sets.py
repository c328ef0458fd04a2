"""Coresets and distilled sets as pairs: the chosen photos, or the learned images with their nearest captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vldistill.config import expand
from vldistill.config.plain import Plain
from vldistill.convert.records import Export
from vldistill.data.collection import clean_caption
from vldistill.data.load import read_collection
from vldistill.data.pairs import Pairs, choose
from vldistill.data.photos import PHOTO_LIMITS, PhotoLimits
from vldistill.data.stores import as_png, signature_of
from vldistill.distilled.distilled_set import CAPTION_BREAK, DistilledSet
from vldistill.errors import ArtefactError, DataError
from vldistill.storage.files import read_json

LOSSY = (
    "Its pictures are rounded and clipped to 8 bits, and its texts are the real captions nearest to the learned "
    "vectors, not the vectors. Learned rates, similarities and the recipe are left behind. Train on the set itself "
    "(vldistill.DistilledSet), not on this."
)


def export_set(folder: Path, origin: str = "", limits: PhotoLimits = PHOTO_LIMITS) -> Export:
    """Open a set for export; it has one split, train.

    Args:
        folder: with set.json.
        origin: the source of a coreset, if it is not the one recorded in the set.
        limits: larger photos of a coreset count as broken.

    Raises:
        ArtefactError: the set has no images or no captions.
        DataError: the source of a coreset is missing or has other pairs.
    """
    distilled = DistilledSet.load(folder)
    known = ("name", "kind", "method", "seed", "iteration", "data", "source")
    about: dict[str, Plain] = {name: distilled.info[name] for name in known if name in distilled.info}
    if distilled.is_coreset and (folder / "pairs.json").is_file():
        return Export(str(folder), {"train": _chosen(folder, distilled, origin, limits)}, about=about)
    if distilled.space != "pixels":
        raise ArtefactError(f"{folder} is a set of features: it has no images to export. Distil in space pixels.")
    groups = [[caption.strip() for caption in own] for own in distilled.captions_of("nearest")]
    if len(groups) != len(distilled) or not all(map(all, groups)):
        raise ArtefactError(
            f"{folder} has no real captions nearest to its texts, so it cannot be exported as captioned images. "
            f"Sets written by `vldistill distill` have them."
        )
    pixels = (distilled.pixels() * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    pairs = Pairs(
        source=str(folder),
        split="train",
        images=PictureImages(tuple(f"{number:06d}.png" for number in range(len(pixels))), pixels),
        captions=[caption for group in groups for caption in group],
        caption_image=np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
    )
    about["towers"] = {side: str(tower["name"]) for side, tower in distilled.towers.items()}
    return Export(str(folder), {"train": pairs}, LOSSY, about, _joined(groups, distilled.captions_per_image))


def _joined(groups: Sequence[Sequence[str]], several: int) -> tuple[str, ...]:
    """A note on images whose captions could not be separated: older sets store them in one line."""
    joined = sum(len(own) != several for own in groups)
    if not joined:
        return ()
    images = "image" if joined == 1 else "images"
    return (
        f"the {several} captions of {joined:,} {images} are left as one: older sets store them in one line, and one "
        f"of them contains {CAPTION_BREAK!r} itself. Distil again to have them separately",
    )


def _chosen(folder: Path, distilled: DistilledSet, origin: str, limits: PhotoLimits) -> Pairs:
    """The pairs of a coreset in their source, in the chosen order. Raises DataError."""
    source = expand(origin or str(distilled.info.get("source", "")))
    record = read_json(folder / "pairs.json", "chosen pairs")
    pairs = read_collection(source).limited(limits).pairs("train")
    if not {chosen["image"] for chosen in record["pairs"]} <= set(pairs.images.names):  # of a run of a former version
        pairs = read_collection(source, former_splits=True).limited(limits).pairs("train")
    row_of = {name: row for row, name in enumerate(pairs.images.names)}
    rows, captions = [], []
    for chosen in record["pairs"]:
        row = row_of.get(chosen["image"])
        own = [] if row is None else [pairs.captions[int(caption)] for caption in pairs.image_captions[row]]
        own += [clean_caption(caption) for caption in own]  # if they were chosen with data.clean_captions
        if row is None or chosen["caption"] not in own:
            raise DataError(
                f"{folder}: the pair of {chosen['image']!r} and {chosen['caption']!r} is not in {source}. Give the "
                f"source of the coreset: --from SOURCE."
            )
        rows.append(row)
        captions.append(chosen["caption"])
    return Pairs(source, "train", choose(pairs.images, rows), captions, np.arange(len(rows)))


@dataclass(frozen=True, eq=False)
class PictureImages:
    """An image store over images in memory.

    Attributes:
        names: of the images.
        pixels: uint8 (N, S, S, 3).
    """

    names: tuple[str, ...]
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, at_least: int = 0) -> Image.Image:
        """See ImageStore."""
        return Image.fromarray(self.pixels[index])

    def signature(self, index: int) -> bytes:
        """The signature of the PNG file."""
        return signature_of(self.encoded(index))

    def encoded(self, index: int) -> bytes:
        """The image as PNG."""
        return as_png(self.read(index))
