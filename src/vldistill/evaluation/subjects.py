"""Training data of students to evaluate: a distilled set, real pairs chosen by a selector, or all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from vldistill.config import EvaluateConfig, SelectConfig
from vldistill.config.plain import Plain, Record
from vldistill.data.pairs import Pairs
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError
from vldistill.evaluation.chosen import ChosenTarget
from vldistill.evaluation.text_map import mapped_texts
from vldistill.runtime.randomness import generator, seed_of
from vldistill.selection.choose import check_count, check_ground, choose_pairs
from vldistill.selection.pipeline import pipeline_options
from vldistill.selection.selector import SELECTORS
from vldistill.training.data import Inputs, TrainingData
from vldistill.training.losses import numbered_texts
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import PictureInputs, TensorInputs, ViewInputs, augmented_picture, some_rows
from vldistill.training.steps import StepPlan
from vldistill.workbench.bench import Workbench
from vldistill.workbench.class_sets import class_bench

MOST_OF_VECTORS = 100_000  # pairs of the row ``full``, where the source holds vectors


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        name: as the user gave it.
        kind: ``distilled``, ``subset`` (real pairs, chosen or random) or ``full``.
        pairs: number of pairs (captions, for ``full``).
        stored_floats: numbers to store.
        draw: the training data for a seed; only a random selector's pairs depend on it.
        own: the set's own recipe, if it has one.
        details: provenance for the result.
        has_views: whether its images can be augmented.
    """

    name: str
    kind: str
    pairs: int
    stored_floats: int
    draw: Callable[[int], TrainingData]
    own: Recipe | None
    details: Record
    has_views: bool = False

    def steps(self, recipe: Recipe) -> int:
        """Optimiser steps of a student by ``recipe``."""
        data = self.draw(0)
        return StepPlan.of(len(data), recipe, blocks=data.blocks, caption_image=data.caption_image).length


def check_target(
    bench: Workbench, target: str | DistilledSet, config: EvaluateConfig, select: SelectConfig | None = None
) -> None:
    """Refuse what cannot be evaluated on this workbench before anything is decoded, encoded or trained.

    Raises:
        ConfigError: an unknown target or selector, more pairs than images, no recipe to train by, features for a
            trained tower.
        ArtefactError: a set of other towers.
    """
    for source in config.zero_shot:
        class_bench(bench, source, config.zero_shot_prompts)
    if isinstance(target, DistilledSet):
        target.check_fits(bench.towers, other_text=config.text_map == "ridge")
        if target.space == "features" and bench.setting != "heads":
            raise ConfigError(
                f"{target.name} holds features; they train heads, not setting {bench.setting!r}. Evaluate it in a run "
                f"of setting heads, or distil with distill.space pixels."
            )
        if (target.text_space == "tokens") != (bench.setting == "both"):
            raise ConfigError(
                f"{target.name} holds texts as {target.text_space}, which setting {bench.setting!r} cannot train on: "
                f"tokens are for setting both, sentence vectors for the others. Use a run of its own setting."
            )
        if bench.setting == "both" and target.towers["text"]["fingerprint"] != bench.text_fingerprint:
            raise ConfigError(
                f"{target.name} holds input embeddings of another text tower; use the one it was made with."
            )
        if not target.is_coreset:
            return
    elif target != "full":
        chosen = ChosenTarget.parse(target)
        check_ground(chosen.selector, chosen.count, select or SelectConfig())
        check_count(bench.pairs("train").count_images, chosen.count)
    if "generic" not in config.recipes:
        name = target if isinstance(target, str) else target.name
        raise ConfigError(f"{name} has no recipe of its own; add generic to evaluate.recipes.")


def subject(bench: Workbench, target: str | DistilledSet, select: SelectConfig | None = None) -> Subject:
    """The subject that ``SELECTOR:N``, ``full`` or a set names. Raises ConfigError or ArtefactError with the remedy."""
    if isinstance(target, DistilledSet):
        return _distilled(bench, target)
    if target == "full":
        split = bench.split("train")
        data, details = _part_of_full(bench, split.data)
        floats = len(data.images) * _floats_per_image(bench) + len(data) * _floats_per_caption(bench)
        return Subject("full", "full", len(data), floats, lambda seed: data, None, details, _has_views(bench))
    return _subset(bench, target, select or SelectConfig())


def _subset(bench: Workbench, target: str, select: SelectConfig) -> Subject:
    """Real pairs, re-drawn for each seed if the selector is random, otherwise chosen once."""
    chosen = ChosenTarget.parse(target)
    name, count, captions = chosen.selector, chosen.count, chosen.captions
    entry = SELECTORS.find(name)
    texts = captions * _floats_per_caption(bench)
    floats = count * (_floats_per_image(bench) + texts)

    @functools.lru_cache(maxsize=1)
    def choose(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return choose_pairs(bench, name, count, seed_of(name, seed), select)

    def draw(seed: int) -> TrainingData:
        images, rows = choose(seed if entry.drawn else 0)
        split = bench.split("train")
        if captions > 1:  # one of each image, then another of each, ...
            rows = torch.cat(_more_captions(split.pairs, images, rows, captions))
        data = split.data
        texts = [split.pairs.caption_keys[row] for row in rows.tolist()]
        chosen = some_rows(data.images, images), TensorInputs(data.texts.rows(rows))
        return TrainingData(*chosen, torch.arange(count).repeat(captions), blocks=captions, captions=texts)

    details: dict[str, Plain] = {
        "selector": name, "new_pairs_for_each_student": entry.drawn,
        "select": {**entry.options(select), **pipeline_options(select)},
    }  # fmt: skip
    if bench.setting == "heads":  # what its pairs take as features of the frozen towers
        details["features_floats"] = count * (bench.image_tower.width + texts)
    return Subject(target, "subset", count, floats, draw, None, details, _has_views(bench))


def _has_views(bench: Workbench) -> bool:
    """Whether real images can be augmented: where a tower is trained, and where augmented views are encoded."""
    return bench.setting != "heads" or bench.data_config.views > 0


def _more_captions(pairs: Pairs, images: torch.Tensor, first: torch.Tensor, count: int) -> list[torch.Tensor]:
    """``count`` blocks of captions (B,) of the images (B,), the chosen first; in a circle where there are fewer."""
    own = [pairs.image_captions[image].tolist() for image in images.tolist()]
    places = [rows.index(row) for rows, row in zip(own, first.tolist())]
    return [
        torch.tensor([rows[(place + number) % len(rows)] for rows, place in zip(own, places)])
        for number in range(count)
    ]


def _part_of_full(bench: Workbench, data: TrainingData) -> tuple[TrainingData, dict[str, Plain]]:
    """The training data of the row ``full``, and what the result says of it: of millions of vectors a part."""
    if bench.has_pixels or len(data) <= MOST_OF_VECTORS:
        return data, {}
    draw = generator(0, "full")
    images = torch.randperm(len(data.images), generator=draw)
    counts = torch.bincount(data.caption_image, minlength=len(images))
    taken = images[: int((counts[images].cumsum(0) <= MOST_OF_VECTORS).sum())].sort().values
    place = torch.full((len(images),), -1).index_copy(0, taken, torch.arange(len(taken)))
    rows = (place[data.caption_image] >= 0).nonzero()[:, 0]
    keys = None if data.captions is None else [data.captions[row] for row in rows.tolist()]
    inputs = some_rows(data.images, taken), TensorInputs(data.texts.rows(rows))
    part = TrainingData(*inputs, place[data.caption_image[rows]], captions=keys)
    return part, {"of_pairs": len(data)}


def _floats_per_image(bench: Workbench) -> int:
    """Numbers of a real image: its pixels, or its vector where the source holds that."""
    return 3 * bench.image_tower.size**2 if bench.has_pixels else bench.image_tower.width


def _floats_per_caption(bench: Workbench) -> int:
    """Numbers of a real caption: its sentence vector, or its token numbers where the text tower is trained."""
    return bench.encoder_config.text.max_tokens if bench.setting == "both" else bench.text_tower.width


def set_data(bench: Workbench, distilled: DistilledSet) -> tuple[TrainingData, Plain]:
    """The pairs of a set as training data, and where its texts were mapped to another tower, how.

    A workbench with the set's own standardisation needs none of the real data.
    """
    texts, text_map = _set_texts(bench, distilled)
    several = distilled.captions_per_image
    if several > 1:  # the first text of every image, then the second, ...
        texts = texts.transpose(0, 1).flatten(0, 1)
    keys: Sequence[Hashable] = numbered_texts(texts).flatten().tolist()
    if distilled.classes is not None:  # learned texts of one class differ, and are no negatives of each other
        keys = distilled.classes.keys * several
    data = TrainingData(
        _set_images(bench, distilled),
        TensorInputs(texts.to(bench.device)),
        torch.arange(len(distilled)).repeat(several),
        None if distilled.similarity is None else distilled.similarity.to(bench.device),
        several,
        keys,
    )
    return data, text_map


def _set_images(bench: Workbench, distilled: DistilledSet) -> Inputs:
    """What the image side reads of a set's images."""
    if distilled.space == "features":
        standard = bench.image_standardisation
        return TensorInputs(distilled.restandardised("image", standard.mean, standard.scale).to(bench.device))
    tower = bench.image_tower
    images = distilled.images_for(tower.size, tower.mean, tower.std).to(bench.device)
    if bench.setting == "heads":
        return _with_views(bench, images)
    return PictureInputs(images.contiguous(memory_format=torch.channels_last), tower)


def _set_texts(bench: Workbench, distilled: DistilledSet) -> tuple[torch.Tensor, Plain]:
    """A set's texts for this text tower, and how they were mapped to it where it is another one."""
    if distilled.text_space == "tokens":
        return distilled.text_inputs, None
    if distilled.towers["text"]["fingerprint"] == bench.text_fingerprint:
        standard = bench.text_standardisation
        return distilled.restandardised("text", standard.mean, standard.scale), None
    return mapped_texts(distilled, bench)


def _distilled(bench: Workbench, distilled: DistilledSet) -> Subject:
    data, text_map = set_data(bench, distilled)
    details: dict[str, Plain] = {"method": distilled.info.get("method"), "selection": distilled.info.get("selection")}
    details |= {"space": distilled.space, "captions": distilled.captions_per_image}
    if distilled.towers["image"]["fingerprint"] != bench.image_fingerprint:
        details["made_with_image_tower"] = distilled.towers["image"]["name"]
    if text_map is not None:
        details["text_map"] = text_map
    if distilled.setting != bench.setting:
        details["made_in_setting"] = distilled.setting
    if distilled.info.get("data") not in (None, bench.pixels("train").pairs.fingerprint):
        details["made_from_data"] = distilled.info["data"]
    kind, own = ("subset", None) if distilled.is_coreset else ("distilled", distilled.recipe)
    name, floats = distilled.name, distilled.stored_floats
    views = distilled.space == "pixels" and _has_views(bench)
    return Subject(name, kind, len(distilled), floats, lambda seed: data, own, details, views)


def _with_views(bench: Workbench, images: torch.Tensor) -> Inputs:
    """Features of learned pictures (N, 3, S, S): as they are, and in as many augmented views as photos have."""
    plain = TensorInputs(bench.encode_in_batches(images))
    tower = bench.image_tower
    views = [
        TensorInputs(bench.encode_in_batches(augmented_picture(images, tower, seed_of("view", number))))
        for number in range(1, bench.data_config.views + 1)
    ]
    return ViewInputs([plain, *views]) if views else plain
