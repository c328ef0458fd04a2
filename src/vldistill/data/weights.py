"""Weights of captions from a file: pairs of a small weight are left out, counted like all that is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vldistill.config.plain import Plain
from vldistill.data.account import Account, LeftOut
from vldistill.data.pairs import Pairs, choose
from vldistill.data.side_files import read_table
from vldistill.errors import ConfigError

COLUMNS = ("image", "caption", "weight")


def read_weights(path: Path, pairs: Pairs) -> np.ndarray:
    """The weight (M,) float64 of every caption; NaN where the file has none.

    Raises:
        ConfigError: a file without the columns, with weights that are no numbers of 0 or more, or about other pairs.
    """
    table = read_table(path, "data.weights")
    if lacking := [name for name in COLUMNS if name not in table]:
        raise ConfigError(
            f"data.weights {path} lacks the column {' and '.join(lacking)}; it has {', '.join(table) or 'none'}. "
            f"`vldistill select --weigh true` writes such a file."
        )
    known: dict[tuple[str, str], float] = {}
    for image, caption, weight in zip(*(table[name] for name in COLUMNS)):
        known[str(image), str(caption).strip()] = _weight(weight, path, image)
    names = pairs.images.names
    keys = ((names[image], caption) for image, caption in zip(pairs.caption_image.tolist(), pairs.captions))
    found = np.array([known.get((str(name), caption), math.nan) for name, caption in keys], np.float64)
    if np.isnan(found).all():
        raise ConfigError(
            f"data.weights {path} has {len(known):,} weights, none of a caption of the train split of {pairs.source}: "
            f"its images are named like {names[0]!r}. Give the file that was written for these data."
        )
    return found


def _weight(value: Plain, path: Path, image: Plain) -> float:
    try:
        found = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise ConfigError(f"data.weights {path}: the weight of {image} is {value!r}; expected a number of 0 or more.")
    return found


def weighed(pairs: Pairs, path: Path, least: float) -> Pairs:
    """The pairs whose captions weigh at least ``least``, with a note and an account; those without a weight stay.

    Raises:
        ConfigError: as :func:`read_weights`, and where nothing is left.
    """
    weights = read_weights(path, pairs)
    kept = ~(weights < least)
    if not kept.any():
        raise ConfigError(
            f"data.min_weight is {least:g}, but the weights of {path} run from {np.nanmin(weights):.4g} to "
            f"{np.nanmax(weights):.4g}: no caption is left. Lower it."
        )
    unknown = int(np.isnan(weights).sum())
    dropped = [pairs.captions[int(row)] for row in np.flatnonzero(~kept)[:3]]
    note = f"{int((~kept).sum()):,} captions left out: their weight is below {least:g}"
    note += f"; {unknown:,} captions have no weight in {path.name} and stay" if unknown else ""
    left = {f"weight below {least:g}": LeftOut(int((~kept).sum()), dropped, loss=False)} if dropped else {}
    account = Account("weighed captions", len(kept), int(kept.sum()), left)
    return replace(
        some_captions(pairs, np.flatnonzero(kept)), notes=(*pairs.notes, note), accounts=(*pairs.accounts, account)
    )


def some_captions(pairs: Pairs, rows: Sequence[int] | np.ndarray) -> Pairs:
    """These captions, in this order, with the images that have one of them, in theirs."""
    images, owner = np.unique(pairs.caption_image[rows], return_inverse=True)
    return replace(
        pairs,
        images=choose(pairs.images, images.tolist()),
        captions=[pairs.captions[row] for row in np.asarray(rows).tolist()],
        caption_image=owner,
        classes=pairs.classes and pairs.classes.select(images.tolist()),
    )
