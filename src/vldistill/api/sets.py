"""DistilledSet as Python's users have it: it trains students, and shows itself in a notebook."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image

from vldistill.api.training import train
from vldistill.distilled import distilled_set
from vldistill.distilled.publish import Publication, push
from vldistill.distilled.remote import MOST_BYTES, local_folder
from vldistill.storage.hub import PREFIX

if TYPE_CHECKING:
    import torch

    from vldistill.api.asking import ConfigSource
    from vldistill.api.student import Student
    from vldistill.training.recipe import Recipe

SHOWN = 12  # pictures in a notebook
SIDE = 96  # of each, in pixels


@dataclass(frozen=True, eq=False, repr=False)
class DistilledSet(distilled_set.DistilledSet):
    """Distilled pairs. A torch ``Dataset`` of (image, text), which trains students and shows its pictures.

    Attributes:
        folder: where it was read from; None for one that was made in memory.
    """

    __doc__ = f"{__doc__}\n\n{distilled_set.DistilledSet.__doc__}"

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read and check a set in a folder, or ``hf:OWNER/NAME`` with ``@REVISION`` where that matters.

        Raises:
            ArtefactError: it is missing, damaged or of another kind.
            HubError: the hub does not hold it, or does not answer.
        """
        place = local_folder(folder)
        found = super().load(place)
        object.__setattr__(found, "_folder", place)
        return found

    @classmethod
    def from_hub(cls, name: str, revision: str = "", *, most_bytes: int = MOST_BYTES, token: str | None = None) -> Self:
        """A set of the Hugging Face hub; what was fetched before is read from the hub's cache.

        Tensors, record, card and preview are fetched: safetensors, JSON, Markdown and PNG, none of which runs code.

        Args:
            name: ``OWNER/NAME``, with or without ``hf:``.
            revision: a branch, tag or commit; by default the main branch.
            most_bytes: the largest download, compared with the sizes that the hub lists before it begins.
            token: of the hub; by default the one that you are logged in with.

        Raises:
            HubError: it is not there, too large, or the hub does not answer and the cache does not hold it.
            ArtefactError: it is damaged, or no set.
        """
        full = f"{PREFIX}{name.removeprefix(PREFIX)}" + (f"@{revision}" if revision else "")
        return cls.load(local_folder(full, most_bytes, token))

    def push_to_hub(
        self,
        name: str,
        *,
        license: str | None = None,
        terms: str | None = None,
        without_license: bool = False,
        private: bool = True,
        message: str = "",
        token: str | None = None,
    ) -> str:
        """Publish this set as a data set of the Hugging Face hub; returns the address of the commit.

        A new repository is private, because what was published once cannot be taken back: ``private=False``, or its
        settings on the hub, show it to everybody.

        Args:
            name: ``OWNER/NAME``, with ``@BRANCH`` for another branch than main.
            license: an id of the hub such as ``cc-by-4.0``, or ``other`` with ``terms``. None takes what the card of
                the set or of its source says.
            terms: those of the data, in words or as an address.
            without_license: confirms that the set is published although no licence is known.
            private: whether a new repository is private; one that exists stays as it is.
            message: of the commit.
            token: of the hub; by default the one that you are logged in with (``hf auth login``).

        Raises:
            ConfigError: the licence is unknown, and publishing without one is not confirmed.
            HubError: the hub refuses, or does not answer.
        """
        return push(self, name, Publication(license, terms, without_license, private, message, token), self.folder)

    @property
    def folder(self) -> Path | None:
        """Where it was read from; None for one that was made in memory."""
        return getattr(self, "_folder", None)

    def train(
        self,
        recipe: str | Recipe = "own",
        seed: int = 0,
        data: str | Path | None = None,
        *,
        config: ConfigSource | None = None,
        quiet: bool = False,
        **options: object,
    ) -> Student:
        """A student trained on this set.

        By the set's own recipe, or one's own, none of the real data are read, unless ``data`` is given or the towers
        are others than the set's.

        Args:
            recipe: ``own`` (which the set carries), ``generic`` (chosen on val of the data), or a Recipe.
            seed: of its starting weights and of the order; students 0, 1, ... are those of an evaluation.
            data: the real data, for ``generic`` or to standardise by others than the set's.
            config: towers and other options, where the set does not say its own.
            quiet: warnings only.
            options: over the configuration, e.g. ``device="cuda"`` as ``**{"runtime.device": "cuda"}``.

        Raises:
            ConfigError: an option or a recipe that cannot be.
            ArtefactError: towers that the set does not fit.
            DivergedError: a loss that is not finite.
        """
        return train(self, recipe, seed, data, config, quiet, options)

    def _repr_html_(self) -> str:
        """For notebooks: one line and up to twelve pictures with their captions."""
        cells = "".join(map(_cell, self._shown_pictures(), self._shown_captions()))
        more = f"<p>and {len(self) - SHOWN:,} more</p>" if len(self) > SHOWN else ""
        return (
            f'<div><p>{html.escape(repr(self))}</p><div style="display:flex;flex-wrap:wrap">{cells}</div>{more}</div>'
        )

    def _shown_pictures(self) -> list[str]:
        """The first pictures as data of PNG files; empty texts where the set holds features."""
        count = min(SHOWN, len(self))
        return [""] * count if self.space != "pixels" else [_png(picture) for picture in self.pixels()[:count]]

    def _shown_captions(self) -> list[str]:
        texts = [distilled_set.one_line(pair.get("nearest", "")) for pair in self.captions[:SHOWN]]
        return texts + [""] * (SHOWN - len(texts))


def _png(picture: torch.Tensor) -> str:
    """A picture (3, S, S) in [0, 1] as base64 of a small PNG file."""
    pixels = (picture * 255).round().byte().movedim(0, -1).numpy()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width < SIDE // 2 or image.width > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.NEAREST if image.width < SIDE else Image.Resampling.BICUBIC)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _cell(picture: str, caption: str) -> str:
    shown = f'<img width="{SIDE}" height="{SIDE}" src="data:image/png;base64,{picture}">' if picture else ""
    text = html.escape(caption if len(caption) <= 80 else f"{caption[:79]}…")
    return f'<div style="width:{SIDE}px;margin:4px;font-size:11px">{shown}<div>{text}</div></div>'
