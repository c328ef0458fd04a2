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
    image = record["towers"]["image"]
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
        _what(record, coreset),
        "",
        "| | |",
        "|---|---|",
        f"| {'selector' if coreset else 'method'} | {info.get('method', 'unknown')}, "
        f"seed {info.get('seed', 'unknown')}"
        + ("" if coreset else f", iteration {info.get('iteration', 'unknown')}")
        + " |",
        f"| made for | setting `{record['setting']}`, {_towers(record)} |",
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
        _terms(image, coreset),
        "",
    ]
    return "\n".join(lines)


def sides_of(info: Mapping[str, Any], usual: tuple[str, str]) -> tuple[str, str]:
    """The names of the two sides that a set records, else the usual ones."""
    found = info.get("sides")
    fine = isinstance(found, list) and len(found) == 2 and all(isinstance(name, str) for name in found)
    return (found[0], found[1]) if fine and found else usual


def _what(record: Mapping[str, Any], coreset: bool) -> str:
    """What the set holds, and how to use it."""
    one, two = sides_of(record["info"], ("image", "caption"))
    if record["towers"]["image"].get("kind"):
        made = "real" if coreset else "distilled"
        how = "chosen" if coreset else "made"
        return (
            f"{record['pairs']} {made} {one}-{two} pairs {how} by `vldistill`, as vectors on both sides. Train "
            f"heads on them by the recipe below."
        )
    if coreset:
        return f"{record['pairs']} real {one}-{two} pairs chosen by `vldistill`, images scaled to the tower's size."
    return (
        f"{record['pairs']} distilled {one}-{two} pairs made by `vldistill`. Train on them by the recipe below: texts "
        f"are vectors, no words."
    )


def _towers(record: Mapping[str, Any]) -> str:
    """The towers that the set is for."""
    image, text = record["towers"]["image"], record["towers"]["text"]
    if image.get("kind"):
        named = zip(sides_of(record["info"], ("image", "text")), (image, text))
        return " and ".join(f"vectors of `{own['name']}` ({side}, {own['width']} wide)" for side, own in named)
    return f"image tower `{image['name']}` at {image.get('size')} px, text tower `{text['name']}`"


def _terms(image: Mapping[str, Any], coreset: bool) -> str:
    if coreset:
        what = "vectors" if image.get("kind") else "pictures and captions"
        return f"These are {what} of the real data: its terms apply to them."
    what = "vectors" if image.get("kind") else "pictures"
    return f"Learned {what} are made of the real ones: the terms of the real data apply to them too."


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
