"""Class sets for students: the inputs of their prompts, and other class sources for the same towers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch

from vldistill.data.classes import shown
from vldistill.data.collection import clean_caption
from vldistill.encoders.precomputed import refuse_pixels
from vldistill.errors import ConfigError
from vldistill.workbench.bench import Workbench

PLACES = 3  # decimals of text inputs that differ
CLASSES_AT_ONCE = 64  # whose prompts are encoded together
PROMPT_BYTES = 256_000_000  # of text inputs of prompts that are kept


def class_bench(bench: Workbench, source: str, prompts: tuple[str, ...] = ()) -> Workbench:
    """A workbench on another class source, with the towers and standardisation of ``bench``; each is built once.

    Raises:
        ConfigError: the source has no classes.
        DataError: it cannot be read, or has no test split.
    """
    if not bench.has_pixels:
        refuse_pixels(bench.image_tower.name, "zero-shot classification")
    known = bench.on_classes.get((source, prompts))
    if known is None:
        data = replace(bench.data_config, source=source, prompts=prompts)
        known = Workbench(
            data, bench.encoder_config, bench.device, bench.reporter, bench.compute, bench.augment_on, home=bench
        )
        if not known.has_classes:
            raise ConfigError(
                f"{source} has captions and no classes, so nothing there can be classified. Give a class set, such as "
                f"digits or classes:PATH."
            )
        known.pairs("test")
        bench.on_classes[source, prompts] = known
    return known


def prompt_inputs(bench: Workbench) -> Iterator[torch.Tensor]:
    """Text inputs of the prompts of a class set, a few classes at a time: all prompts of a class, then the next's.

    What fits :data:`PROMPT_BYTES` is kept: every student reads it again.
    """
    if bench.prompts is not None:
        yield from bench.prompts
        return
    classes = bench.classes
    assert classes is not None
    kept: list[torch.Tensor] = []
    size = 0
    for first in range(0, len(classes), CLASSES_AT_ONCE):
        labels = range(first, min(first + CLASSES_AT_ONCE, len(classes)))
        texts = [text for label in labels for text in classes.texts(label)]
        part = bench.text_inputs([clean_caption(text) for text in texts] if bench.data_config.clean_captions else texts)
        size += part.numel() * part.element_size()
        kept = [*kept, part] if size <= PROMPT_BYTES else []
        yield part
    if size <= PROMPT_BYTES:
        bench.prompts = kept


def check_told_apart(bench: Workbench) -> None:
    """Refuse classes whose prompts the text tower encodes alike, all of them, and warn of some. Raises ConfigError.

    A tower that does not know a language gives every name the same tokens; such classes tie, which counts against.
    """
    classes = bench.classes
    assert classes is not None
    each, alike = len(classes.prompts), defaultdict[bytes, list[str]](list)
    rows = (row for part in prompt_inputs(bench) for row in part.unflatten(0, (-1, each)).flatten(1).cpu())
    for name, row in zip(classes.names, rows):
        alike[row.float().round(decimals=PLACES).numpy().tobytes()].append(name)
    twins = [name for names in alike.values() if len(names) > 1 for name in names]
    if len(alike) == 1:
        raise ConfigError(
            f"{classes.source}: the text tower {bench.text_tower.name} encodes the prompts of all {len(classes):,} "
            f"classes ({shown(twins)}) alike, which no student could distinguish. Give names that it knows "
            f"(?names=FILE), or another text tower."
        )
    if twins:
        bench.reporter.warn(
            f"{classes.source}: the text tower {bench.text_tower.name} encodes the prompts of {len(twins):,} of "
            f"{len(classes):,} classes ({shown(twins)}) like those of others: they tie, and count as wrong."
        )
