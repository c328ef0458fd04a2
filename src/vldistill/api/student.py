"""Student: a dual encoder trained on a set, with its towers: it encodes photos and texts, searches and classifies.

Shapes: N photos or texts, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vldistill.api.found import Classification, Hit, SearchResult
from vldistill.api.pictures import Pictures, as_input, listed_pictures, photo_paths
from vldistill.api.progress import reporter
from vldistill.api.student_files import StudentRecord, read_student, write_student
from vldistill.api.vectors import Vectors, as_vectors, checked
from vldistill.config import Config
from vldistill.config.checks import PROMPT, check_prompts, prompt_for, require
from vldistill.config.plain import Record
from vldistill.convert.student import export_student, to_transformers
from vldistill.convert.student_sides import SIDES, StudentParts
from vldistill.data.collection import clean_caption
from vldistill.data.pairs import SPLITS
from vldistill.data.photos import PhotoLimits
from vldistill.data.transforms import to_float
from vldistill.encoders.dual import DualEncoder
from vldistill.encoders.precomputed import refuse_pixels
from vldistill.errors import ConfigError, DataError, unknown
from vldistill.evaluation.measures import Accuracy, Recalls
from vldistill.evaluation.students import score_student
from vldistill.evaluation.zero_shot import classify_split, mean_prompts
from vldistill.runtime.log import Reporter
from vldistill.training.recipe import Recipe
from vldistill.training.stepper import embed_in_parts
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AT_ONCE = 64  # photos that are decoded and encoded together
TEXTS_AT_ONCE = 256
VECTORS_AT_ONCE = 4096


@dataclass(frozen=True)
class _Gallery:
    """Photos that were encoded: paths, embeddings (N, D), and those left out, with the reason."""

    key: object
    paths: list[str]
    embeddings: torch.Tensor
    left_out: dict[str, str]


@dataclass(eq=False, repr=False)
class Student:
    """A student, ready to use; :func:`vldistill.DistilledSet.train` and :meth:`load` make it.

    Args:
        encoder: the trained dual encoder.
        bench: its towers, and the standardisation of their features.
        config: the configuration that built them.
        recipe: by which it was trained.
        made_from: the set's name, its data's fingerprint and source, the seed.
    """

    encoder: DualEncoder
    bench: Workbench
    config: Config
    recipe: Recipe
    made_from: Record = field(default_factory=dict)
    _gallery: _Gallery | None = None

    def __repr__(self) -> str:
        towers = f"{self.bench.image_tower.name} and {self.bench.text_tower.name}"
        return f"<Student of {self.made_from.get('set', 'a set')}: {towers}, setting {self.bench.setting}>"

    @torch.no_grad()
    def encode_image(self, images: Pictures | Vectors) -> torch.Tensor:
        """Embeddings (N, D) of pictures, of length 1, on the CPU; (D,) of one alone.

        Args:
            images: a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W) of uint8 or floats in [0, 1]; or a
                list of them. Of a student that was trained on vectors: an array or tensor (N, width) or (width,), a
                list, or the path of a .npy file.

        Raises:
            DataError: a picture that cannot be read, or vectors of another width; the message names it.
        """
        if not self.bench.has_pixels:
            return self._encode_vectors("image", images)
        pictures, alone = listed_pictures(images)  # pyright: ignore[reportArgumentType]
        size = self.bench.image_tower.size
        parts = [
            self._embed_pixels([as_input(one, size, self._limits) for one in pictures[start : start + AT_ONCE]])
            for start in range(0, len(pictures), AT_ONCE)
        ]
        return parts[0][0] if alone else torch.cat(parts)

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str] | Vectors) -> torch.Tensor:
        """Embeddings (N, D) of texts, of length 1, on the CPU; (D,) of one alone. Raises DataError for empty ones.

        A student that was trained on vectors takes these, as in :meth:`encode_image`.
        """
        if not self.bench.has_pixels:
            return self._encode_vectors("text", texts)
        return self._encode_texts(texts)  # pyright: ignore[reportArgumentType]

    def similarity(self, images: Pictures | Vectors, texts: str | Sequence[str] | Vectors) -> torch.Tensor:
        """The cosine similarities (N, M) of N images and M texts, pictures and texts or the vectors of both."""
        one, two = torch.atleast_2d(self.encode_image(images)), torch.atleast_2d(self.encode_text(texts))
        return one @ two.T

    def _encode_vectors(self, side: str, given: object) -> torch.Tensor:
        """Embeddings of vectors of one side."""
        tower = self.bench.image_tower if side == "image" else self.bench.text_tower
        name = self.bench.sides[0 if side == "image" else 1]
        rows, alone = as_vectors(given, tower.width, f"the {name} vectors", tower.name)
        standardise = self.bench.image_standardisation if side == "image" else self.bench.text_standardisation
        parts = [
            self._embed(side, standardise(checked(rows[at : at + VECTORS_AT_ONCE], at, name).to(self.bench.device)))
            for at in range(0, len(rows), VECTORS_AT_ONCE)
        ]
        return parts[0][0] if alone else torch.cat(parts)

    def _encode_texts(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Embeddings of texts."""
        listed = [texts] if isinstance(texts, str) else list(texts)
        captions = [self._caption(text, number) for number, text in enumerate(listed)]
        if not captions:
            raise DataError("texts is empty; expected a text, or a list of texts.")
        parts = [
            self._embed("text", self.bench.text_inputs(captions[start : start + TEXTS_AT_ONCE]))
            for start in range(0, len(captions), TEXTS_AT_ONCE)
        ]
        return parts[0][0] if isinstance(texts, str) else torch.cat(parts)

    def search(
        self,
        question: str | Vectors,
        images: str | Path | Sequence[str | Path] | Vectors,
        top: int = 5,
        *,
        quiet: bool = False,
    ) -> SearchResult:
        """The photos that fit a text best, with their cosine similarities.

        Photos are encoded once: the next question about the same files is answered at once.

        Args:
            question: a text such as a caption; of a student that was trained on vectors, one of the text side.
            images: a folder (photos in folders below it too), a photo, or a list of both; or vectors (N, width), whose
                rows then are the paths.
            top: how many photos.
            quiet: show no progress.

        Raises:
            DataError: no photo there, or none that can be read. Broken ones among others are left out and counted.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise ConfigError(f"top is {top!r}; expected a whole number of 1 or more.")
        asked = self.encode_text(question)
        if not self.bench.has_pixels:
            if asked.ndim == 2 and len(asked) > 1:
                raise DataError(f"question is {len(asked)} vectors; expected one. Ask one after the other.")
            found = torch.atleast_2d(self.encode_image(images))  # pyright: ignore[reportArgumentType]
            best = (found @ asked.flatten()).topk(min(top, len(found)))
            rows = zip(best.indices.tolist(), best.values.tolist())
            return SearchResult("a vector", tuple(Hit(f"row {row}", score) for row, score in rows), len(found))
        gallery = self._encoded(photo_paths(images), reporter(quiet))  # pyright: ignore[reportArgumentType]
        scores = gallery.embeddings @ asked
        best = scores.topk(min(top, len(scores)))
        hits = tuple(Hit(gallery.paths[row], score) for score, row in zip(best.values.tolist(), best.indices.tolist()))
        return SearchResult(str(question), hits, len(scores), gallery.left_out)

    def classify(
        self, images: Pictures, classes: Sequence[str], prompts: str | Sequence[str] = PROMPT
    ) -> Classification:
        """The class of each picture: that whose mean prompt is nearest (zero-shot classification).

        Args:
            images: as of :meth:`encode_image`.
            classes: their names, two or more.
            prompts: templates with ``{}`` for the name; several are averaged.

        Raises:
            ConfigError: a template without ``{}``, or fewer than two classes, or one twice; a student of vectors.
            DataError: a picture that cannot be read.
        """
        if not self.bench.has_pixels:
            refuse_pixels(self.bench.image_tower.name, "classifying by prompts")
        templates, names = ((prompts,) if isinstance(prompts, str) else tuple(prompts)), tuple(classes)
        require(bool(templates), "prompts", prompts, "one or more templates")
        check_prompts("prompts", templates)
        several = not isinstance(classes, str) and len(set(names)) == len(names) > 1
        require(several, "classes", classes, "two or more different names")
        each = max(1, TEXTS_AT_ONCE // len(templates))  # classes at a time
        parts = [
            mean_prompts(
                self.encode_text([prompt_for(one, name) for name in part for one in templates]), len(templates)
            )
            for part in (names[start : start + each] for start in range(0, len(names), each))
        ]
        return Classification(names, torch.atleast_2d(self.encode_image(images)) @ torch.cat(parts).T)

    def score(self, data: str | Path | None = None, split: str = "test", *, quiet: bool = False) -> Recalls | Accuracy:
        """The recalls on a split of a data source, of a class set the accuracies of zero-shot classification.

        By default of the data that the set was made from.
        """
        if split not in SPLITS:
            raise ConfigError(unknown("split", split, SPLITS))
        config = self.config
        if data is not None:
            config = replace(config, data=replace(config.data, source=str(data)))
        bench = open_bench(config, reporter(quiet), standardisation=self.bench.standardisation)
        return (classify_split if bench.has_classes else score_student)(bench, self.encoder, split)

    def save(self, folder: str | Path) -> Path:
        """Write weights, a readable record and a card; returns the folder. Raises ArtefactError for another's folder.

        Towers that stay frozen are kept by name and fingerprint alone.
        """
        record = StudentRecord(self.config, self.recipe, self.made_from)
        return write_student(Path(folder), record, self.bench, self.encoder)

    def export(self, folder: str | Path, to: str = "onnx", sides: Sequence[str] = SIDES) -> Path:
        """Write this student for other libraries, exact to rounding; returns the folder.

        Args:
            folder: new or empty; it appears complete or not at all.
            to: ``onnx`` or ``transformers``.
            sides: of ONNX: ``image``, ``text`` or both.

        Raises:
            ConfigError: a tower that cannot be exported exactly; the message names it and what to do.
            MissingExtraError: without the extra ``onnx``.
        """
        return export_student(self._parts, Path(folder), to, tuple(sides))

    def export_onnx(self, folder: str | Path, sides: Sequence[str] = SIDES) -> Path:
        """Write ``image.onnx``, ``text.onnx``, the tokenizer and ``export.json``; see :meth:`export`.

        From normalised images (B, 3, S, S), and token ids and mask (B, L), to embeddings (B, D) of length 1. Each file
        is run by onnxruntime and compared with this student.
        """
        return self.export(folder, "onnx", sides)

    def to_transformers(self) -> PreTrainedModel:
        """This student as a model of transformers with ``get_image_features`` and ``get_text_features``, on the CPU.

        Raises:
            ConfigError: a tower that is not of timm or transformers, or that computes something else there.
        """
        return to_transformers(self._parts)

    @classmethod
    def load(cls, folder: str | Path, *, quiet: bool = True, **options: object) -> Student:
        """Read a student.

        Args:
            folder: as :meth:`save` wrote it.
            quiet: say nothing while towers are built.
            options: other places and devices, e.g. ``**{"encoder.image.weights": "x.safetensors"}``.

        Raises:
            ArtefactError: it is missing or damaged, or the towers here are not those it was trained with.
        """
        record, bench, encoder = read_student(Path(folder), options, reporter(quiet))
        return cls(encoder, bench, record.config, record.recipe, record.made_from)

    @property
    def _parts(self) -> StudentParts:
        if not self.bench.has_pixels:
            refuse_pixels(self.bench.image_tower.name, "an export")
        return StudentParts(self.bench, self.encoder, self.made_from, self.config.data.clean_captions)

    @property
    def _limits(self) -> PhotoLimits:
        data = self.config.data
        return PhotoLimits(data.max_pixels, data.max_bytes)

    def _caption(self, text: object, number: int) -> str:
        """A text as the captions of the data were: without outer whitespace, cleaned where they were."""
        if not isinstance(text, str):
            raise DataError(f"text {number} is of type {type(text).__name__}; expected a text, or a list of texts.")
        cleaned = clean_caption(text) if self.config.data.clean_captions else text.strip()
        if not cleaned:
            raise DataError(f"text {number} is {text[:80]!r}, which is empty; expected words.")
        return cleaned

    def _embed_pixels(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        tower = self.bench.image_tower
        images = to_float(torch.from_numpy(np.stack(pixels)), tower.mean, tower.std)
        return self._embed("image", self.bench.encode_in_batches(images, AT_ONCE))

    def _embed(self, side: str, inputs: torch.Tensor) -> torch.Tensor:
        self.encoder.eval()
        with torch.no_grad():
            return embed_in_parts(self.encoder, side, inputs, self.bench.compute).cpu()

    def _encoded(self, paths: Sequence[Path], lines: Reporter) -> _Gallery:
        """Embeddings of photos; those of the last search where the files have not changed."""
        key = [(str(path), (found := path.stat()).st_mtime_ns, found.st_size) for path in paths]
        if self._gallery is None or self._gallery.key != key:
            self._gallery = self._encode(key, paths, lines)
        return self._gallery

    def _encode(self, key: object, paths: Sequence[Path], lines: Reporter) -> _Gallery:
        kept: list[str] = []
        parts: list[torch.Tensor] = []
        left_out: dict[str, str] = {}
        with lines.progress("photos encoded", len(paths)) as bar:
            for part in self._decoded(paths):
                left_out |= {str(path): found for path, found in part if isinstance(found, str)}
                read = [(str(path), found) for path, found in part if not isinstance(found, str)]
                if read:
                    kept += [path for path, _ in read]
                    parts.append(self._embed_pixels([pixels for _, pixels in read]))
                bar.advance(len(part))
        if not parts:
            first = next(iter(left_out.values()))
            raise DataError(f"none of {len(paths):,} photos can be read; the first: {first}")
        return _Gallery(key, kept, torch.cat(parts), left_out)

    def _decoded(self, paths: Sequence[Path]) -> Iterator[list[tuple[Path, np.ndarray | str]]]:
        """Photos with their pixels, or with the reason why there are none, some at a time."""

        def decode(path: Path) -> tuple[Path, np.ndarray | str]:
            try:
                return path, as_input(path, self.bench.image_tower.size, self._limits)
            except DataError as error:
                return path, str(error)

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), AT_ONCE):
                yield list(pool.map(decode, paths[start : start + AT_ONCE]))
