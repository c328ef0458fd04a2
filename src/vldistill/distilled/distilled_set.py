"""DistilledSet: the result. A folder with safetensors, readable json, a card and a preview; never a pickle.

Shapes: N pairs, S image side, D width of image features, d width of the text space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import Dataset

from vldistill.data.transforms import between_towers
from vldistill.distilled.bases import from_bases
from vldistill.distilled.card import CORESET, card
from vldistill.distilled.pair_classes import PairClasses
from vldistill.distilled.record import check_numbers, check_record
from vldistill.distilled.remote import local_folder
from vldistill.distilled.shown import write_shown
from vldistill.errors import ArtefactError, ConfigError
from vldistill.storage.files import read_json, read_tensors, write_record, write_tensors, write_text
from vldistill.training.recipe import Recipe

DIVERGED = "kept/best-before-divergence"  # in a set's folder: the best state of a distillation that failed
FORMAT = 1
SPACES = ("pixels", "features")
STANDARDISATION = ("image_mean", "image_scale", "text_mean", "text_scale")
CAPTION_BREAK = " / "  # between the captions of an image where they are shown as one line
IMAGE_TOWER = ("name", "width", "fingerprint", "size", "mean", "std")
TEXT_TOWER = ("name", "width", "fingerprint")

Caption = str | Sequence[str]
"""Of an image: one caption, or one for each of its texts where it has several."""


def one_line(caption: Caption) -> str:
    """A caption, or several of one image, to show."""
    return caption if isinstance(caption, str) else CAPTION_BREAK.join(caption)


@dataclass(frozen=True, eq=False, repr=False)
class DistilledSet(Dataset):
    """Distilled pairs, and everything needed to train on them elsewhere.

    Args:
        images: (N, 3, S, S) normalised with the tower's mean and std; or (N, D) standardised features where
            ``space`` is ``features``.
        texts: (N, d) standardised sentence vectors of the text tower (text space ``sentence``), (N, C, d) where each
            image has C of them, or (N, L, e) input embeddings of L tokens for a trained text tower (``tokens``).
        recipe: how a student is trained on this set.
        towers: ``image`` and ``text``: name, width and weight fingerprint; for the image also size, mean, std, and
            ``stored_size`` where the images are smaller than the tower takes.
        setting: what was trained while distilling.
        space: ``pixels`` or ``features``.
        similarity: (N, N) soft targets, or None.
        standardisation: mean and scale of real features by name; knowledge about the real data that every
            row of a comparison shares, counted in its own line of the budget.
        captions: for each pair the caption it started from (``start``) and the ``nearest`` real caption now; lists of
            them where an image has several texts. Older sets have one line there; see :meth:`captions_of`.
        info: method, seed, iteration, data fingerprint, configuration, versions.
        text_mask: (N, L) 1 for a token and 0 for padding, where texts are tokens.
        bases: what is stored where images are mixtures: ``addresses`` (N, K), ``images_bases`` (K, 3, H, H) or (K, D),
            and ``texts_bases`` (K, ...) where texts are too; see :func:`~vldistill.distilled.bases.from_bases`.
    """

    images: torch.Tensor
    texts: torch.Tensor
    recipe: Recipe
    towers: Mapping[str, Mapping[str, Any]]
    setting: str
    space: str = "pixels"
    similarity: torch.Tensor | None = None
    standardisation: Mapping[str, torch.Tensor] = field(default_factory=dict)
    captions: tuple[Mapping[str, Caption], ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    text_mask: torch.Tensor | None = None
    bases: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ArtefactError(f"distilled set: space is {self.space!r}; expected one of {SPACES}.")
        image, text = (self.towers.get(side, {}) for side in ("image", "text"))
        missing = [f"towers.image.{key}" for key in IMAGE_TOWER if key not in image]
        missing += [f"towers.text.{key}" for key in TEXT_TOWER if key not in text]
        if missing:
            raise ArtefactError(
                f"distilled set: {', '.join(missing)} missing; a set records the towers it was made for."
            )
        count = len(self.images) if self.images.ndim else 0
        side = image.get("stored_size", image["size"])
        row = (3, side, side) if self.space == "pixels" else (image["width"],)
        several = self.texts.shape[1:2] if self.texts.ndim == 3 else ()
        expected = (count, *row), (count, *several, text["width"])
        if self.text_mask is not None:
            self._check_tokens(count)
            expected = expected[0], tuple(self.texts.shape)
        if count < 2 or (tuple(self.images.shape), tuple(self.texts.shape)) != expected:
            raise ArtefactError(
                f"distilled set: images {tuple(self.images.shape)} and texts {tuple(self.texts.shape)} are not N >= 2 "
                f"pairs in space {self.space!r}: (N, {', '.join(map(str, row))}) and (N, {text['width']})."
            )
        if self.similarity is not None and tuple(self.similarity.shape) != (count, count):
            raise ArtefactError(
                f"distilled set: similarity is {tuple(self.similarity.shape)}; expected {(count,) * 2}."
            )
        for name, tensor in self.tensors().items():
            if not bool(torch.isfinite(tensor).all()):
                raise ArtefactError(f"distilled set: {name} holds NaN or infinity. The set is unusable; make it again.")

    def _check_tokens(self, count: int) -> None:
        """Refuse tokens and a mask that do not belong together. Raises ArtefactError."""
        mask = self.text_mask
        fits = mask is not None and self.texts.ndim == 3 and mask.shape == self.texts.shape[:2] and len(mask) == count
        if mask is None or not fits or not bool(((mask == 0) | (mask == 1)).all()) or not bool((mask[:, 0] == 1).all()):
            raise ArtefactError(
                f"distilled set: texts {tuple(self.texts.shape)} are no tokens (N, L, e) with a mask (N, L) of 0 and 1 "
                f"that begins with 1."
            )

    def __repr__(self) -> str:
        side = f"{self.images.shape[-1]} px" if self.space == "pixels" else f"width {self.images.shape[-1]}"
        return f"<DistilledSet {self.name}: {len(self)} pairs, {self.space} ({side}), {self.stored_floats:,} floats>"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One pair as stored: image (3, S, S) or features (D,), and text (d,), or (C, d) where it has several."""
        return self.images[index], self.texts[index]

    @cached_property
    def classes(self) -> PairClasses | None:
        """The classes of its pairs; None where it was not made of a class set. Raises ArtefactError."""
        return PairClasses.of(self.info, len(self))

    @property
    def captions_per_image(self) -> int:
        """Texts of each image."""
        return self.texts.shape[1] if self.texts.ndim == 3 and self.text_mask is None else 1

    @property
    def text_space(self) -> str:
        """``sentence`` or ``tokens``."""
        return "sentence" if self.text_mask is None else "tokens"

    @property
    def text_inputs(self) -> torch.Tensor:
        """What the text side reads: texts (N, d), or tokens with their mask as the last channel, (N, L, e + 1)."""
        if self.text_mask is None:
            return self.texts
        return torch.cat([self.texts, self.text_mask.to(self.texts).unsqueeze(-1)], dim=-1)

    @property
    def name(self) -> str:
        """Method, pairs and seed, e.g. ``bitraj-100-s0``."""
        return str(self.info.get("name", f"set-{len(self)}"))

    @property
    def is_coreset(self) -> bool:
        """Whether the pairs are real ones that were chosen: nothing was learned, the recipe least of all."""
        return self.info.get("kind") == CORESET

    @property
    def stored_floats(self) -> int:
        """Numbers a user has to store for training: images, texts with their mask, similarity and learned rates."""
        similarity = 0
        if self.similarity is not None:
            similarity = int(self.info.get("similarity_floats") or self.similarity.numel())
        rates = 0 if self.is_coreset else sum(len(rate) for rate in self.recipe.rates.values())
        mask = 0 if self.text_mask is None else self.text_mask.numel()
        return sum(tensor.numel() for tensor in self._pairs_stored().values()) + mask + similarity + rates

    def _pairs_stored(self) -> dict[str, torch.Tensor]:
        """Images and texts as they are stored: themselves, or their bases with addresses."""
        plain = {"images": self.images, "texts": self.texts}
        return {name: value for name, value in plain.items() if f"{name}_bases" not in self.bases} | dict(self.bases)

    @property
    def standardisation_floats(self) -> int:
        """Floats of the standardisation of real features: knowledge about the data that every row shares."""
        return sum(tensor.numel() for tensor in self.standardisation.values())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every stored tensor by name."""
        named = {**self._pairs_stored(), **dict(self.standardisation)}
        optional = {"similarity": self.similarity, "text_mask": self.text_mask}
        return named | {name: tensor for name, tensor in optional.items() if tensor is not None}

    def pixels(self) -> torch.Tensor:
        """The images in [0, 1], (N, 3, S, S), clipped as a screen would. Raises ArtefactError in feature space."""
        if self.space != "pixels":
            raise ArtefactError(f"{self.name} is a set of features: it has no pixels.")
        image = self.towers["image"]
        mean, std = (torch.tensor(image[key]).view(3, 1, 1) for key in ("mean", "std"))
        return (self.images * std + mean).clamp(0, 1)

    def images_for(self, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        """The images normalised and sized for another image tower, (N, 3, size, size)."""
        own = self.towers["image"]
        return between_towers(self.images, (own["mean"], own["std"]), (mean, std), size)

    def restandardised(self, side: str, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Texts, or images that are features, in the standardisation of other real data; ``side`` is image or text.

        Args:
            mean: (width,) of the other data's features.
            scale: (width,), its standard deviations.
        """
        own = self.images if side == "image" else self.texts
        old_mean, old_scale = (self.standardisation.get(f"{side}_{key}") for key in ("mean", "scale"))
        mean, scale = mean.to(own), scale.to(own)
        if old_mean is None or old_scale is None or (torch.equal(old_mean, mean) and torch.equal(old_scale, scale)):
            return own
        return (own * old_scale + old_mean - mean) / scale

    def with_captions(self, captions: tuple[Mapping[str, Caption], ...]) -> Self:
        """The same set with other captions to show."""
        return replace(self, captions=captions)

    def with_bases(self, bases: Mapping[str, torch.Tensor]) -> Self:
        """The same set, stored as ``bases``, which give its images."""
        return replace(self, bases=dict(bases))

    def captions_of(self, kind: str) -> list[list[str]]:
        """The captions of every image, one for each of its texts; ``kind`` is ``start`` or ``nearest``.

        Older sets hold those of an image as one line. Where it cannot be split without doubt, because a caption holds
        the break too, it is left whole: one caption.
        """
        found = []
        for texts in (pair.get(kind, "") for pair in self.captions):
            if isinstance(texts, str):
                parts = texts.split(CAPTION_BREAK)
                texts = parts if len(parts) == self.captions_per_image else [texts]
            found.append(list(texts))
        return found

    def save(self, folder: Path) -> None:
        """Write ``set.safetensors``, ``set.json``, ``README.md`` and ``data/`` into ``folder``, each atomically.

        ``data/`` holds pictures rounded to 8 bits and captions, which ``datasets.load_dataset(folder)`` reads.
        """
        tensors = folder / "set.safetensors"
        write_tensors(tensors, self.tensors())
        record = {
            "format": FORMAT,
            "name": self.name,
            "pairs": len(self),
            "stored_floats": self.stored_floats,
            "standardisation_floats": self.standardisation_floats,
            "setting": self.setting,
            "space": self.space,
            "text_space": self.text_space,
            "captions_per_image": self.captions_per_image,
            "recipe": self.recipe.to_dict(),
            "towers": {side: dict(tower) for side, tower in self.towers.items()},
            "info": dict(self.info),
            "captions": [dict(caption) for caption in self.captions],
            "sha256": hashlib.sha256(tensors.read_bytes()).hexdigest(),
        }
        size = tensors.stat().st_size
        captions = {kind: self.captions_of(kind) for kind in ("nearest", "start")}
        write_shown(folder, self.pixels() if self.space == "pixels" else None, captions)
        write_text(
            folder / "README.md",
            card(
                record, self.recipe, self._described_texts(), size,
                similarity=self.similarity is not None, bases=len(self.bases.get("images_bases", ())),
            ),
        )  # fmt: skip
        write_record(folder / "set.json", record)

    def _described_texts(self) -> str:
        if self.text_mask is not None:
            _, tokens, width = self.texts.shape
            return f"up to {tokens} input embeddings of width {width}, with a mask"
        several = f", {self.captions_per_image} for each image" if self.captions_per_image > 1 else ""
        return f"standardised sentence vectors of width {self.texts.shape[-1]}{several}"

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read and check a set in a folder, or ``hf:OWNER/NAME``.

        Raises:
            ArtefactError: it is missing, damaged or of another kind.
            HubError: the hub does not hold it, or does not answer.
        """
        folder = local_folder(folder)
        if not (folder / "set.json").is_file():
            why, remedy = "it has no set.json.", "Expected e.g. RUN/sets/NAME."
            if not folder.exists():
                why = "there is no such folder."
            elif (folder / DIVERGED / "set.json").is_file():
                why = "its distillation diverged."
                remedy = f"Start again with smaller rates; its last good state is {folder / DIVERGED}."
            elif (folder / "config.json").is_file():
                why, remedy = "it is not finished.", "Run the command that began it to resume."
            raise ArtefactError(f"{folder} is not a distilled set: {why} {remedy}")
        record = read_json(folder / "set.json", "distilled set")
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ArtefactError(f"{folder}/set.json is not a distilled set of format {FORMAT}.")
        tensors, _ = read_tensors(folder / "set.safetensors", "distilled set")
        found = hashlib.sha256((folder / "set.safetensors").read_bytes()).hexdigest()
        if found != record.get("sha256"):
            raise ArtefactError(f"{folder}/set.safetensors does not match its checksum. Restore it or distil again.")
        check_record(record)
        check_numbers(tensors)
        try:
            bases = {name: value for name, value in tensors.items() if name == "addresses" or name.endswith("_bases")}
            return cls(
                **_from_stored(tensors, record["towers"]["image"]),
                bases=bases,
                similarity=tensors.get("similarity"),
                text_mask=tensors.get("text_mask"),
                standardisation={name: tensors[name] for name in STANDARDISATION if name in tensors},
                recipe=Recipe.from_dict(record["recipe"]),
                towers=record["towers"],
                setting=record["setting"],
                space=record["space"],
                captions=tuple(record["captions"]),
                info=record["info"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, ConfigError) as error:
            raise ArtefactError(f"{folder}/set.json lacks or garbles something ({error}). Distil again.") from None

    def check_fits(self, towers: Mapping[str, Mapping[str, Any]], *, other_text: bool = False) -> None:
        """Refuse towers this set cannot be used with.

        The text tower has to be the very same, because texts are vectors of its output, unless ``other_text`` allows
        that they will be mapped. Another image tower is fine for pixels (that is the cross-architecture question), not
        for features.
        """
        own, other = self.towers, towers
        if own["text"]["fingerprint"] != other["text"]["fingerprint"] and not other_text:
            raise ArtefactError(
                f"{self.name} holds sentence vectors of the text tower {own['text']['name']!r} "
                f"(width {own['text']['width']}, fingerprint {own['text']['fingerprint']}), not of "
                f"{other['text']['name']!r} (width {other['text']['width']}, fingerprint "
                f"{other['text']['fingerprint']}). Use the tower it was made with, or map the vectors: "
                f"--evaluate.text_map ridge."
            )
        if self.space == "features" and own["image"]["fingerprint"] != other["image"]["fingerprint"]:
            raise ArtefactError(
                f"{self.name} holds features of the image tower {own['image']['name']!r}, which mean nothing to "
                f"{other['image']['name']!r}. Use the tower it was made with, or distil pixels."
            )


def _from_stored(tensors: Mapping[str, torch.Tensor], image_tower: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Images and texts, mixed where the set is stored as bases."""
    side = int(image_tower.get("stored_size", image_tower["size"]))
    mixed = {name: f"{name}_bases" in tensors for name in ("images", "texts")}
    return {
        name: from_bases(tensors["addresses"], tensors[f"{name}_bases"], side) if is_mixed else tensors[name]
        for name, is_mixed in mixed.items()
    }
