"""Coresets: chosen real pairs as a set, in the same format as a distilled set, with the names of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vldistill.config import SelectConfig
from vldistill.config.plain import Plain
from vldistill.distilled.distilled_set import CORESET, DistilledSet
from vldistill.drawing.sheets import draw_contact_sheet
from vldistill.selection.choose import choose_nested, choose_pairs
from vldistill.selection.classes import pair_classes
from vldistill.selection.columns import SideTable
from vldistill.selection.ids import Chosen, ChosenPair, write_ids
from vldistill.selection.material import Material
from vldistill.selection.pipeline import is_plain, pipeline_options, prepare
from vldistill.selection.selector import SELECTORS
from vldistill.selection.steps import Step
from vldistill.storage.files import write_record
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench


def coreset_name(options: SelectConfig, label: str = "") -> str:
    """The folder name of a coreset: selector, pairs, seed, and the label if there is one."""
    return f"{options.method}-{options.pairs}-s{options.seed}" + (f"-{label}" if label else "")


@dataclass(frozen=True, eq=False)
class Coreset:
    """Chosen real pairs.

    Args:
        pairs: the pairs as a set.
        rows: the chosen pairs in their source.
        pixels: (N, 3, S, S) uint8, the decoded photos; None of pairs that are given by their vectors.
        steps: what came before the selector.
        table: columns of the images, for lists of ids.
    """

    pairs: DistilledSet
    rows: list[ChosenPair]
    pixels: np.ndarray | None
    steps: tuple[Step, ...] = ()
    table: SideTable | None = None

    def first(self, count: int, name: str) -> Coreset:
        """The first ``count`` pairs as a coreset of this name."""
        made = self.pairs
        part = replace(
            made,
            images=made.images[:count].clone(),
            texts=made.texts[:count].clone(),
            text_mask=None if made.text_mask is None else made.text_mask[:count].clone(),
            captions=made.captions[:count],
            info={**made.info, "name": name},
        )
        return replace(
            self, pairs=part, rows=self.rows[:count], pixels=None if self.pixels is None else self.pixels[:count]
        )

    def save(self, folder: Path, ids: Sequence[str] = ()) -> None:
        """Write the set, a preview, the chosen pairs as ``pairs.json``, and lists of ``ids``."""
        about: dict[str, Plain] = {name: self.pairs.info[name] for name in ("method", "seed")}
        if self.steps:
            about["steps"] = [step.to_json() for step in self.steps]
        write_record(folder / "pairs.json", about | {"pairs": [asdict(row) for row in self.rows]})
        write_ids(ids, Chosen(self.rows, self.table), folder)
        captions = [row.caption for row in self.rows]
        if self.pixels is not None:
            draw_contact_sheet(self.pixels, captions, folder / "preview.png", title=self.pairs.name)
        self.pairs.save(folder)


def choose_coreset(bench: Workbench, options: SelectConfig, label: str = "") -> Coreset:
    """Choose pairs by ``options`` and add ``label`` to their name; writes nothing.

    The images are the decoded photos at the tower's size, or vectors where the source holds these. A coreset has no
    learned recipe: it carries the default one,
    and evaluation tunes rates and epochs on val, as for all real pairs.

    Raises:
        ConfigError: more pairs than images that can be read.
    """
    if options.budgets:
        sizes = (*options.budgets, options.pairs)
        images, captions = choose_nested(bench, options.method, sizes, options.seed, options)
    else:
        images, captions = choose_pairs(bench, options.method, options.pairs, options.seed, options)
    split = bench.split("train")
    chosen = [split.pairs.captions[int(row)] for row in captions]
    pixels = split.pixels.array[images.numpy()] if bench.has_pixels else None
    entry = SELECTORS.find(options.method)
    texts, mask = split.data.texts.rows(captions).detach().cpu().clone(), None
    if bench.setting == "both":
        texts, mask = texts[..., :-1].clone(), texts[..., -1].clone()
    coreset = DistilledSet(
        images=bench.start_images(images).cpu(),
        space="pixels" if bench.has_pixels else "features",
        texts=texts,
        text_mask=mask,
        recipe=Recipe(negatives=bench.negatives("all")),
        towers=bench.towers,
        setting=bench.setting,
        standardisation=bench.standardisation,
        captions=tuple({"start": caption, "nearest": caption} for caption in chosen),
        info={
            "name": coreset_name(options, label),
            "kind": CORESET,
            "method": options.method,
            "seed": options.seed,
            "seed_matters": entry.drawn,
            "data": split.pairs.fingerprint,
            "source": bench.data_config.source,
            **({"sides": list(bench.data_config.sides)} if bench.data_config.sides else {}),
            "config": {
                "encoder": asdict(bench.encoder_config),
                "select": {**entry.options(options), **pipeline_options(options)},
            },
            "versions": bench.versions,
        },
    )
    if (classes := pair_classes(bench, chosen)) is not None:
        coreset = replace(coreset, info={**coreset.info, "classes": classes.to_json()})
    rows = [
        ChosenPair(split.pairs.images.names[int(image)], caption, image_row=image, caption_row=row)
        for image, row, caption in zip(images.tolist(), captions.tolist(), chosen)
    ]
    steps = () if is_plain(options) else prepare(bench, options).steps
    if steps:
        coreset = replace(coreset, info={**coreset.info, "steps": [step.line() for step in steps]})
    return Coreset(coreset, rows, pixels, steps, Material(bench, options).table)
