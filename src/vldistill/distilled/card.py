"""The card of a set: the README beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vldistill.distilled.header import header
from vldistill.distilled.pair_classes import PairClasses
from vldistill.storage.files import human_bytes
from vldistill.training.recipe import Recipe

SHOWN_CLASSES = 10
CORESET = "coreset"  # info["kind"] of a set of real pairs that were chosen, not learned


def card(record: Mapping[str, Any], recipe: Recipe, texts: str, size: int, similarity: bool, bases: int) -> str:
    """Markdown about a set.

    Args:
        record: what ``set.json`` holds.
        recipe: of its students.
        texts: what its texts are, in words.
        size: of its tensors, in bytes.
        similarity: whether it has a similarity matrix.
        bases: of which its images are mixtures; 0 where they are stored themselves.
    """
    image, text = record["towers"]["image"], record["towers"]["text"]
    info, coreset = record["info"], record["info"].get("kind") == CORESET
    stored = image.get("stored_size")
    space = record["space"] + (f", stored at {stored} px and enlarged (bicubic) for a tower" if stored else "")
    space += f", stored as mixtures of {bases} bases" if bases else ""
    rates = ", ".join(f"{side} {rate[0]:.4g}" for side, rate in recipe.rates.items())
    among = ", a similarity matrix among them" if similarity else ""
    classes = PairClasses.of(info, record["pairs"])
    lines = [
        header(record),
        f"# {record['name']}",
        "",
        f"{record['pairs']} real image-caption pairs chosen by `vldistill`, images scaled to the tower's size."
        if coreset
        else f"{record['pairs']} distilled image-caption pairs made by `vldistill`. "
        "Train on them by the recipe below: texts are vectors, no words.",
        "",
        "| | |",
        "|---|---|",
        f"| {'selector' if coreset else 'method'} | {info.get('method', 'unknown')}, "
        f"seed {info.get('seed', 'unknown')}"
        + ("" if coreset else f", iteration {info.get('iteration', 'unknown')}")
        + " |",
        f"| made for | setting `{record['setting']}`, image tower `{image['name']}` at {image.get('size')} px, "
        f"text tower `{text['name']}` |",
        f"| space | {space}; texts are {texts} |",
        f"| budget | {record['pairs']} pairs, {record['stored_floats']:,} stored floats{among}, "
        f"{human_bytes(size)}; {record['standardisation_floats']:,} floats of feature standardisation not counted |",
        f"| {'generic' if coreset else 'student'} recipe | loss {recipe.loss}, {recipe.epochs} epochs, "
        f"batch {recipe.batch}, SGD with momentum {recipe.momentum} and weight decay {recipe.weight_decay}, "
        f"schedule {recipe.schedule}, first rates {rates} |",
        *([f"| classes | {_classes(classes)} |"] if classes else []),
        f"| data | fingerprint {info.get('data', 'unknown')}, train split |",
        *(f"| data check | {summary} |" for summary in info.get("checks", ())),
        "",
        "```python",
        "from vldistill import DistilledSet",
        "",
        'pairs = DistilledSet.load("this folder")  # a torch Dataset of (image, text)',
        "image, text = pairs[0]",
        "```",
        "",
        f"`set.safetensors` is the set. {_shown(record)} `datasets.load_dataset(folder)` reads.",
        "",
        "These are pictures and captions of the real data: its terms apply to them."
        if coreset
        else "Learned pictures are made of the real ones: the terms of the real data apply to them too.",
        "",
    ]
    return "\n".join(lines)


def _shown(record: Mapping[str, Any]) -> str:
    """What is in ``data/``, in words."""
    captions = "its captions" if record["info"].get("kind") == CORESET else "the real captions nearest to its texts"
    pictures = "its pictures, rounded to 8 bits, and " if record["space"] == "pixels" else ""
    return f"To look at, {pictures}{captions} are in `data/`, which"


def _classes(found: PairClasses) -> str:
    """How many classes, and how many pairs of each."""
    counts = [found.labels.count(label) for label in range(len(found.names))]
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    shown = ", ".join(found.names[:SHOWN_CLASSES]) + (", ..." if len(found.names) > SHOWN_CLASSES else "")
    return (
        f"{len(found.names)} ({shown}), {each} pairs each; pairs of one class are no negatives of each other, and "
        f"students are compared by zero-shot top-1"
    )
