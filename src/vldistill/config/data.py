"""The data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vldistill.config.checks import check_fields, check_prompts, positive, require
from vldistill.config.former import later

SIDE = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,30}")


@dataclass(frozen=True)
class DataConfig:
    """Where captioned images come from.

    Args:
        source: a file or folder of any known format, ``[KIND:]PATH[?option=value&...]``, or
            ``scenes[:seed=0,train=3000,...]``; see ``vldistill ls readers`` and docs/data.md.
        strict: refuse a source with broken photos or captions instead of leaving them out with a warning.
        cache: folder for decoded images and tower features, shared by runs.
        views: augmented views of every training image whose features are kept beside the plain image's (setting
            ``heads``); experts and the real batches of ``bilevel`` draw among them. Each costs one pass of the tower.
        features: how features are stored on disk.
        clean_captions: clean captions as published works do: lower case, ``.!"()*#:;~`` removed, at most 30 words.
        prompts: of class sets, templates of captions with ``{}`` for the name of the class; several give every image as
            many captions, and are averaged to classify. Empty: the source's own, as
            ``a photo of a {}``.
        sides: names of the two sides, e.g. ``audio,text``, for tables, reports and cards; empty is image and text.
        max_pixels: width times height that a photo may have; a larger one counts as broken, and is not decoded.
        max_bytes: size that a photo's file may have; a larger one is left out too.
        weights: a file with a weight of every training caption (csv, tsv, jsonl or parquet with the columns image,
            caption and weight; as ``select.weigh`` writes it): captions of a small one are left out of all training.
        min_weight: smallest weight of a caption that is trained on; those of ``select.weigh`` are probabilities.
    """

    source: str = "scenes"
    strict: bool = False
    cache: str = "${VLDISTILL_CACHE:-~/.cache/vldistill}"
    views: int = 0
    features: Literal["float32", "float16"] = "float32"
    clean_captions: bool = False
    prompts: tuple[str, ...] = later((), neutral=())
    sides: tuple[str, ...] = later((), neutral=())
    max_pixels: int = 64_000_000
    max_bytes: int = 256_000_000
    weights: str = later("", neutral="")
    min_weight: float = later(0.3, neutral=0.3)

    def __post_init__(self) -> None:
        check_fields(self, "data")
        require(self.views >= 0, "data.views", self.views, "0 or more")
        check_prompts("data.prompts", self.prompts)
        fine = not self.sides or (len({*self.sides}) == len(self.sides) == 2 and all(map(SIDE.fullmatch, self.sides)))
        require(fine, "data.sides", list(self.sides), "two different words, e.g. audio,text")
        positive(self, "data", "max_pixels", "max_bytes")
        require(self.min_weight >= 0, "data.min_weight", self.min_weight, "0 or more")
