"""The workbench: towers, features and splits of one configuration, each built once and only when needed."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from vldistill.config import DataConfig, EncoderConfig, ImageTowerConfig, expand
from vldistill.config.plain import Plain
from vldistill.data.cache import DecodedImages, open_images, undecoded
from vldistill.data.classes import Classes
from vldistill.data.collection import Collection
from vldistill.data.embedded.collection import EmbeddedCollection
from vldistill.data.load import read_collection
from vldistill.data.pairs import Pairs
from vldistill.data.photos import PhotoLimits
from vldistill.data.transforms import to_float
from vldistill.data.weights import weighed
from vldistill.encoders.build import build_image_tower, build_text_tower
from vldistill.encoders.dual import SIDES, DualEncoder
from vldistill.encoders.features import (
    PASS_SHARE,
    Encoding,
    FeatureTable,
    Standardisation,
    image_encoding,
    text_encoding,
)
from vldistill.encoders.folding import folded
from vldistill.encoders.lora import adapter_targets
from vldistill.encoders.precomputed import PRECOMPUTED, VectorTable, facts_of, with_facts
from vldistill.encoders.student import build_student
from vldistill.encoders.tokens import TokenTower, require_trainable, token_inputs
from vldistill.encoders.tower import ImageTower, TextTower
from vldistill.errors import ConfigError, DataError
from vldistill.runtime.compiled import Compiled
from vldistill.runtime.devices import moved, moved_module
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import available_memory, memory_limit
from vldistill.runtime.micro_batches import FLOAT32, ComputeOptions, in_parts
from vldistill.runtime.randomness import seeded
from vldistill.runtime.shapes import rows_that_fit
from vldistill.storage.files import digest
from vldistill.training.data import Inputs, TrainingData
from vldistill.training.side_inputs import FeatureInputs, PixelInputs, TensorInputs, ViewInputs, some_rows
from vldistill.version import __version__
from vldistill.workbench.class_source import check_and_say, check_trained, prompted
from vldistill.workbench.headline import MEAN_RECALL, TOP1
from vldistill.workbench.unit_rows import UnitRows, unit_rows

TABLE_SHARE = 0.25  # of what ``runtime.max_memory`` has left: for a table of features held as one tensor
IN_MEMORY_BYTES = 2_000_000_000  # features smaller than this are held as one tensor: no page faults per batch


@dataclass(frozen=True)
class Split:
    """One split as the trained sides see it, with the pictures it came from."""

    name: str
    pairs: Pairs
    pixels: DecodedImages
    data: TrainingData


class Workbench:
    """What every stage works with.

    Args:
        data: where captioned images come from.
        encoder: towers and setting.
        device: where tensors live.
        reporter: where progress goes.
        compute: precision, compilation and micro-batches of the training of experts and students.
        augment_on: where experts' images are augmented: ``cpu`` or ``device``.
        on_pixels: called with the readable pairs of each split that is decoded; may refuse them, and says
            whether it is known what was left out of them.
        former_splits: make splits that the source lacks as runs of former versions have them.
        standardisation: by name, as a set records it; without it, that of the training features.
        home: the workbench whose towers and standardisation this one shares, on other data.
    """

    def __init__(
        self,
        data: DataConfig,
        encoder: EncoderConfig,
        device: torch.device,
        reporter: Reporter,
        compute: ComputeOptions = FLOAT32,
        augment_on: str = "cpu",
        on_pixels: Callable[[Pairs], bool] | None = None,
        former_splits: bool = False,
        standardisation: Mapping[str, torch.Tensor] | None = None,
        home: Workbench | None = None,
    ) -> None:
        self._home = home
        self._known = dict(standardisation or {})
        self._former_splits = former_splits
        self._on_pixels = on_pixels
        self.compute, self.augment_on = compute, augment_on
        self.data_config, self._encoder_config = data, encoder
        self.device, self.reporter = device, reporter
        self.cache = Path(expand(data.cache))
        self._splits: dict[str, Split] = {}
        self._pairs: dict[str, Pairs] = {}
        self._decoded: dict[str, DecodedImages] = {}
        self._beside: dict[str, Workbench] = {}
        self.prompts: list[torch.Tensor] | None = None  # see :mod:`.class_sets`
        self.on_classes: dict[tuple[str, tuple[str, ...]], Workbench] = {}

    def beside(self, image: ImageTowerConfig) -> Workbench:
        """A workbench on the same data with another image tower; each is built once."""
        name = repr(image)
        if name not in self._beside:
            encoder = replace(self.encoder_config, image=image)
            self._beside[name] = Workbench(
                self.data_config, encoder, self.device, self.reporter, self.compute, self.augment_on,
                former_splits=self._former_splits,
            )  # fmt: skip
        return self._beside[name]

    @cached_property
    def encoder_config(self) -> EncoderConfig:
        """Towers and setting; of towers whose vectors the source holds, with what the source knows of them."""
        config = self._encoder_config
        if config.image.name != PRECOMPUTED or (self._known and config.image.options and config.text.options):
            return config  # with a set's standardisation the data stay closed
        found = self._collection
        if not isinstance(found, EmbeddedCollection):
            return config
        return with_facts(config, facts_of(found.vectors.image), facts_of(found.vectors.text))

    @property
    def setting(self) -> str:
        """The setting's name."""
        return self._encoder_config.setting

    @property
    def has_pixels(self) -> bool:
        """Whether there are pictures that towers take; else the source holds vectors."""
        return self._encoder_config.image.name != PRECOMPUTED

    @property
    def sides(self) -> tuple[str, str]:
        """The names of the two sides."""
        return (self.data_config.sides[0], self.data_config.sides[1]) if self.data_config.sides else SIDES

    @cached_property
    def image_tower(self) -> ImageTower:
        """The image tower at its starting weights, frozen."""
        if self._home is not None:
            return self._home.image_tower
        config = self.encoder_config.image
        if not self.has_pixels:
            return build_image_tower(config).to(self.device)
        with self.reporter.waiting(f"loading image tower {config.name}"):
            tower = build_image_tower(config).to(self.device).requires_grad_(False)
        if self.device.type == "cuda":  # elsewhere inputs in channels last are enough
            tower = tower.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return tower

    @cached_property
    def encoding_tower(self) -> ImageTower:
        """The image tower as images pass it where it stays frozen: the same map to rounding, quicker."""
        if not self.has_pixels:
            return self.image_tower
        tower = folded(self.image_tower)
        return tower.to(memory_format=torch.channels_last) if self.device.type == "cuda" else tower  # pyright: ignore

    @cached_property
    def _compiled_tower(self) -> Compiled | None:
        """The same through ``torch.compile``, where that is asked for: for passes without a way back."""
        return Compiled(self.encoding_tower, self.reporter.warn) if self.compute.compiled else None

    @cached_property
    def text_tower(self) -> TextTower:
        """The frozen text tower."""
        if self._home is not None:
            return self._home.text_tower
        if not self.has_pixels:
            return build_text_tower(self.encoder_config.text, self.device)
        with self.reporter.waiting(f"loading text tower {self.encoder_config.text.name}"):
            return build_text_tower(self.encoder_config.text, self.device)

    def check_towers(self) -> None:
        """Build both towers: a name, weights, options or adapters that cannot work are refused now."""
        _ = self.image_tower, self.text_tower
        if self.setting == "both":
            require_trainable(self.text_tower)
        if self.setting == "lora":
            adapter_targets(self.image_tower.model, self.encoder_config.lora.patterns)

    @cached_property
    def image_fingerprint(self) -> str:
        """Hash of the image tower."""
        return self.image_tower.fingerprint()

    @cached_property
    def text_fingerprint(self) -> str:
        """Hash of the text tower."""
        return self.text_tower.fingerprint()

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides what a trained parameter means."""
        config = self.encoder_config
        lora = config.lora
        adapters = (list(lora.patterns), lora.rank, lora.alpha) if self.setting == "lora" else ()
        towers = self.image_fingerprint, self.text_fingerprint
        return digest(*towers, config.setting, config.dim, config.temperature, *adapters)

    @property
    def embedding_width(self) -> int:
        """Width of the shared space."""
        return self.encoder_config.dim if self.setting in ("heads", "both") else self.image_tower.width

    @cached_property
    def _collection(self) -> Collection:
        """The source, read once for all splits."""
        config = self.data_config
        try:
            with self.reporter.waiting(f"reading {config.source}"):
                found = read_collection(expand(config.source), former_splits=self._former_splits)
            found = found.limited(PhotoLimits(config.max_pixels, config.max_bytes))
        except DataError as error:
            if "${" not in config.source:
                raise
            where = f"data.source is {config.source!r}: set that variable to a path, or give --data.source PATH"
            raise DataError(f"{where}. Now {error}") from None
        if self._home is None:
            check_and_say(found, config, self.reporter)
        return prompted(found, config)

    @property
    def has_classes(self) -> bool:
        """Whether the source is a class set."""
        return self.classes is not None

    @property
    def measure(self) -> str:
        """What is chosen by on val, see :mod:`.headline`."""
        return TOP1 if self.has_classes else MEAN_RECALL

    def negatives(self, asked: Literal["all", "distinct"]) -> Literal["all", "distinct"]:
        """The negatives that are trained with: of a class set always the distinct ones, for prompts repeat."""
        return "distinct" if self.has_classes else asked

    def pairs(self, split: str) -> Pairs:
        """The pairs of a split, before any picture is decoded."""
        if split not in self._pairs:
            found = self._collection.pairs(split, strict=self.data_config.strict)
            if split == "train" and self.data_config.weights:
                found = weighed(found, Path(expand(self.data_config.weights)), self.data_config.min_weight)
            check_trained(found)
            self._check_kind(found)
            self._pairs[split] = found
        return self._pairs[split]

    def _check_kind(self, pairs: Pairs) -> None:
        """Refuse photos for towers that are done, and vectors for others or of others. Raises ConfigError."""
        config = self._encoder_config
        if pairs.vectors is not None and not self.has_pixels:
            with_facts(config, facts_of(pairs.vectors.image), facts_of(pairs.vectors.text))
        elif pairs.vectors is not None:
            raise ConfigError(
                f"{pairs.source} holds vectors, but tower {config.image.name!r} takes photos. Give photos and captions."
            )
        elif not self.has_pixels:
            raise ConfigError(
                f"{pairs.source} holds photos, but the towers here made vectors. Give a source of vectors."
            )

    @cached_property
    def image_standardisation(self) -> Standardisation:
        """Fitted on the training images' features, unless a set's is given."""
        return self._given_standardisation("image") or Standardisation.fit(self._image_table("train"))

    @cached_property
    def text_standardisation(self) -> Standardisation:
        """Fitted on the training captions' sentence vectors, unless a set's is given."""
        return self._given_standardisation("text") or Standardisation.fit(self._text_table("train"))

    def _given_standardisation(self, side: str) -> Standardisation | None:
        if self._home is not None:
            return self._home.image_standardisation if side == "image" else self._home.text_standardisation
        mean, scale = (self._known.get(f"{side}_{part}") for part in ("mean", "scale"))
        return None if mean is None or scale is None else Standardisation(mean, scale)

    def pixels(self, split: str) -> DecodedImages:
        """The decoded images of a split and the pairs that could be read."""
        if split not in self._decoded:
            decoded = self._decode(split)
            check_trained(decoded.pairs)  # again: images may be broken
            known = self._on_pixels is not None and self._on_pixels(decoded.pairs)
            self._tell(decoded.pairs, known)
            self._decoded[split] = decoded
        return self._decoded[split]

    def _decode(self, split: str) -> DecodedImages:
        """The decoded images of a split; of vectors there is nothing to decode."""
        pairs, config = self.pairs(split), self.data_config
        if pairs.vectors is not None:
            return undecoded(pairs)
        with self.reporter.counter(f"{split} images decoded") as count:
            return open_images(pairs, self.image_tower.size, self.cache, strict=config.strict, progress=count)

    def _tell(self, pairs: Pairs, known: bool) -> None:
        """Warn of what was left out; a run's later stages only say where it is kept."""
        if known and pairs.notes:
            self.reporter.info(f"{pairs.split}: {pairs.count_images:,} images, what was left out is in account.json")
            return
        for note in pairs.notes:
            self.reporter.warn(f"{pairs.split}: {note}")

    def _image_table(self, split: str, view: int = 0) -> FeatureTable:
        if (vectors := self.pairs(split).vectors) is not None:
            return VectorTable(vectors.image)
        return self._image_encoding(split, view).table(self.reporter)

    def _image_encoding(self, split: str, view: int = 0) -> Encoding:
        pixels, dtype = self.pixels(split), self.data_config.features
        return image_encoding(
            self.encoding_tower, pixels, self.cache,
            device=self.device, view=view, dtype=dtype, compiled=self._compiled_tower,
        )  # fmt: skip

    def _text_table(self, split: str) -> FeatureTable:
        if (vectors := self.pairs(split).vectors) is not None:
            return VectorTable(vectors.text)
        return self._text_encoding(split).table(self.reporter)

    def _text_encoding(self, split: str) -> Encoding:
        pairs, dtype = self.pixels(split).pairs, self.data_config.features
        return text_encoding(self.text_tower, pairs, self.cache, dtype=dtype)

    def encodings(self, split: str) -> list[Encoding]:
        """What of a split passes a frozen tower once, for :meth:`split`: images with their views, captions."""
        if self.pixels(split).pairs.vectors is not None:
            return []
        views = self.data_config.views if split == "train" else 0
        images = [self._image_encoding(split, view) for view in range(1 + views)] if self.setting == "heads" else []
        return images if self.setting == "both" else [*images, self._text_encoding(split)]

    def _inputs(self, table: FeatureTable, standardise: Standardisation) -> TensorInputs | FeatureInputs:
        limited = memory_limit(self.device) > 0
        most = min(IN_MEMORY_BYTES, TABLE_SHARE * available_memory(self.device)) if limited else IN_MEMORY_BYTES
        if len(table) * table.width * 4 <= most:
            return TensorInputs(standardise.apply_(table.all().to(self.device)))
        return FeatureInputs(table, standardise, self.device)

    def split(self, name: str) -> Split:
        """A split ready for training or testing; the first call may encode it."""
        if name not in self._splits:
            pixels = self.pixels(name)
            if self.setting == "heads":
                views = self.data_config.views if name == "train" else 0
                tables = [self._image_table(name, view) for view in range(views + 1)]
                inputs = [self._inputs(table, self.image_standardisation) for table in tables]
                images = ViewInputs(inputs) if views else inputs[0]
            else:
                images = PixelInputs(pixels.array, self.image_tower, self.device, self.augment_on)
            if self.setting == "both":
                texts = token_inputs(self.text_tower, pixels.pairs.captions, self.device)
            else:
                texts = self._inputs(self._text_table(name), self.text_standardisation)
            mapping = torch.from_numpy(np.array(pixels.pairs.caption_image, np.int64))
            data = TrainingData(images, texts, mapping, captions=pixels.pairs.caption_keys)
            self._splits[name] = Split(name, pixels.pairs, pixels, data)
        return self._splits[name]

    def student(self, seed: int, dropout: float = 0.0) -> DualEncoder:
        """A fresh dual encoder: random heads and adapters by ``seed``, trained towers at their starting weights."""
        with seeded(torch.device("cpu"), seed, "student"):
            student = build_student(self.encoder_config, self.image_tower, self.text_tower, dropout)
        return moved_module(student, self.device).eval()

    def unit_features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardised, then L2-normalised features of the frozen towers: training images (N, D), captions (M, d).

        In float16 on the CPU, made a few thousand rows at a time: COCO's are 0.7 GB. Vectors of a source that would
        take more than 2 GB are made as they are read.
        """
        sides = (
            (self._image_table("train"), self.image_standardisation),
            (self._text_table("train"), self.text_standardisation),
        )
        if sum(len(table) * table.width * 2 for table, _ in sides) > IN_MEMORY_BYTES and not self.has_pixels:
            images, texts = (UnitRows(*side) for side in sides)
            return images, texts  # pyright: ignore[reportReturnType]
        return unit_rows(*sides[0]), unit_rows(*sides[1])

    def start_images(self, rows: torch.Tensor) -> torch.Tensor:
        """Training images ``rows`` (N,) to start from: normalised (N, 3, S, S), or the features of vectors (N, D)."""
        split, tower = self.split("train"), self.image_tower
        if not self.has_pixels:
            return split.data.images.rows(rows)
        return to_float(torch.from_numpy(split.pixels.array[rows.numpy()]), tower.mean, tower.std).to(self.device)

    def unit_image_rows(self, split: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The images' part of :meth:`unit_features` by rows (B,) of any split, (B, D) float32, read when asked for."""
        table, standardise = self._image_table(split), self.image_standardisation
        return lambda rows: F.normalize(standardise(table.rows(rows)), dim=1)

    def frozen_features(
        self, images: torch.Tensor | None, captions: torch.Tensor | None, caption_image: torch.Tensor
    ) -> TrainingData:
        """Standardised features of the frozen towers as training data of two heads, whatever the setting trains.

        Args:
            images: rows (N',) of training images; None is all.
            captions: rows (M',) of captions; None is all.
            caption_image: (M',) int64, the place among ``images`` of each caption's.
        """
        inputs = self._inputs(self._image_table("train"), self.image_standardisation)
        texts = self._inputs(self._text_table("train"), self.text_standardisation)
        keys = self.pixels("train").pairs.caption_keys
        if images is not None and captions is not None:
            inputs, texts = some_rows(inputs, images), some_rows(texts, captions)
            keys = [keys[row] for row in captions.tolist()]
        return TrainingData(inputs, texts, caption_image, captions=keys)

    def check_shared_space(self, what: str) -> None:
        """Refuse towers that share no space. Raises ConfigError."""
        image, text = self.encoder_config.image.name, self.encoder_config.text.name
        if image != text or self.image_tower.width != self.text_tower.width:
            raise ConfigError(
                f"{what} compares images with texts by frozen towers, which have to be both sides of one CLIP model: "
                f"the image tower is {image}, the text tower {text}. Use score, by a student that is warmed up on the "
                f"data, or towers such as open_clip:ViT-B-32 on both sides."
            )

    def tower_agreement(self, split: str) -> np.ndarray:
        """The cosine of each caption and its image by frozen towers of one space, (M,) float64."""
        self.check_shared_space("tower_agreement")
        images, texts = self._image_table(split), self._text_table(split)
        owner = torch.from_numpy(np.array(self.pixels(split).pairs.caption_image, np.int64))
        parts = [
            F.cosine_similarity(images.rows(owner[rows]), texts.rows(rows))
            for rows in torch.arange(len(owner)).split(4096)
        ]
        return torch.cat(parts).double().numpy()

    @cached_property
    def architecture(self) -> DualEncoder:
        """A dual encoder whose own parameters do not matter: functional calls bring theirs."""
        return self.student(0)

    def image_inputs(self, images: torch.Tensor) -> torch.Tensor:
        """What the image side consumes of normalised ``images`` (N, 3, S, S): features in ``heads``."""
        if self.setting != "heads":
            return images
        return self.image_standardisation(self.encoding_tower(images.to(memory_format=torch.channels_last)))

    def text_inputs(self, captions: Sequence[str]) -> torch.Tensor:
        """What the text side consumes of ``captions``: standardised sentence vectors, tokens in ``both``."""
        if self.setting == "both":
            return token_inputs(self.text_tower, captions, self.device).rows(torch.arange(len(captions)))
        return self.text_standardisation(moved(self.text_tower.encode(captions), self.device))

    def sentence_inputs(self, name: str) -> Inputs:
        """Standardised sentence vectors of a split's captions, whatever the setting trains on."""
        if self.setting != "both":
            return self.split(name).data.texts
        return self._inputs(self._text_table(name), self.text_standardisation)

    @property
    def classes(self) -> Classes | None:
        """The classes of all images of the source, where it is a class set."""
        return self._collection.classes

    @torch.no_grad()
    def sentence_vectors(self, texts: torch.Tensor) -> torch.Tensor:
        """Standardised sentence vectors (N, d) of text inputs: themselves, or what the frozen tower makes of tokens."""
        if self.setting != "both":
            return texts
        tower = TokenTower(require_trainable(self.text_tower)).to(self.device)
        return self.text_standardisation(torch.cat([tower(moved(part, self.device)) for part in texts.split(64)]))

    @property
    def towers(self) -> dict[str, dict[str, Plain]]:
        """Both towers as a set records them."""
        image, text = self.image_tower, self.text_tower
        return {
            "image": {
                "name": image.name,
                "width": image.width,
                "size": image.size,
                "mean": list(image.mean),
                "std": list(image.std),
                "fingerprint": self.image_fingerprint,
                **({} if self.has_pixels else {"kind": PRECOMPUTED}),
            },
            "text": {"name": text.name, "width": text.width, "fingerprint": self.text_fingerprint},
        }

    @property
    def versions(self) -> dict[str, str]:
        """The versions that a set records."""
        return {"vldistill": __version__, "torch": str(torch.__version__), "python": platform.python_version()}

    @property
    def standardisation(self) -> dict[str, torch.Tensor]:
        """The mean and scale of the features of frozen towers, as a set records them."""
        found: dict[str, torch.Tensor] = {}
        if self.setting != "both":
            found |= {"text_mean": self.text_standardisation.mean, "text_scale": self.text_standardisation.scale}
        if self.setting == "heads":
            found |= {"image_mean": self.image_standardisation.mean, "image_scale": self.image_standardisation.scale}
        return found

    @torch.no_grad()
    def encode_in_batches(self, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """:meth:`image_inputs` without gradients, in small batches."""
        batch = min(batch, rows_that_fit(self.encoding_tower, images, PASS_SHARE, back=False))
        return in_parts(lambda part: self.image_inputs(moved(part, self.device)), images, batch, self.device)
