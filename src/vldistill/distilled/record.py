"""``set.json`` of a distilled set as it should be: types and ranges, checked before anything is built from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch

from vldistill.config import SETTINGS
from vldistill.errors import ArtefactError, unknown

KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MOST_PIXELS = 65_536  # of a side


def plain_name(name: object) -> bool:
    """Whether ``name`` can be part of a file name anywhere: results are written under it."""
    return isinstance(name, str) and re.fullmatch(r"[\w+=@~,() .-]{1,200}", name) is not None and name.strip(". ") != ""


def check_record(record: Mapping[str, Any]) -> None:
    """Refuse a record whose values are of another kind than :meth:`DistilledSet.save` writes. Raises ArtefactError."""
    try:
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()  # what is read here is written again
    except ValueError as error:
        raise ArtefactError(f"distilled set: set.json holds what no file of ours does ({error}).") from None
    towers, info, captions = (record.get(key) for key in ("towers", "info", "captions"))
    if not isinstance(record.get("setting"), str) or record["setting"] not in SETTINGS:
        raise ArtefactError(f"distilled set: {unknown('setting', record.get('setting'), SETTINGS)}")
    sides = [towers.get(side) for side in ("image", "text")] if isinstance(towers, Mapping) else [None]
    if not all(isinstance(side, Mapping) for side in sides):
        raise ArtefactError("distilled set: towers is malformed; expected image and text with what they are.")
    for side, tower in zip(("image", "text"), sides):
        _check_tower(side, tower or {})
    if not isinstance(info, Mapping) or not plain_name(info.get("name", "set")):
        found = info.get("name") if isinstance(info, Mapping) else info
        raise ArtefactError(
            f"distilled set: info.name is {str(found)[:80]!r}; expected letters, digits and a few signs, at most 200, "
            f"because results are written under it."
        )
    floats = info.get("similarity_floats", 0)
    if isinstance(floats, bool) or not isinstance(floats, int) or not 0 <= floats < 1 << 50:
        raise ArtefactError(f"distilled set: info.similarity_floats is {str(floats)[:80]!r}; expected a count.")
    fine = isinstance(captions, list) and all(
        isinstance(one, Mapping) and all(map(_is_caption, one.values())) for one in captions
    )
    if not fine:
        raise ArtefactError("distilled set: captions is malformed; expected texts, or lists of texts, by name.")


def check_numbers(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that are no real numbers. Raises ArtefactError."""
    for name, tensor in tensors.items():
        if tensor.dtype not in KINDS and name != "text_mask":
            raise ArtefactError(f"distilled set: {name} holds {tensor.dtype}; expected real numbers. Make it again.")


def _is_caption(value: object) -> bool:
    """Whether ``value`` is a text, or those of an image that has several."""
    texts = value if isinstance(value, list) and value else [value]
    return all(isinstance(text, str) for text in texts)


def _check_tower(side: str, tower: Mapping[str, Any]) -> None:
    wanted = {"name": str, "width": int, "fingerprint": str} | ({"size": int} if side == "image" else {})
    for key, kind in wanted.items():
        value = tower.get(key)
        fine = isinstance(value, kind) and not isinstance(value, bool)
        if not fine or (isinstance(value, int) and not 0 < value <= 1 << 31):
            what = "a text" if kind is str else "a count"
            raise ArtefactError(f"distilled set: towers.{side}.{key} is {str(value)[:80]!r}; expected {what}.")
    small = tower.get("stored_size", 1)
    if not isinstance(small, int) or isinstance(small, bool) or not 0 < small <= tower.get("size", 1):
        raise ArtefactError(
            f"distilled set: towers.{side}.stored_size is {str(small)[:80]!r}; expected a side up to towers.image.size."
        )
    if side == "image" and tower["size"] > MOST_PIXELS:
        raise ArtefactError(f"distilled set: towers.image.size is {tower['size']}; expected {MOST_PIXELS:,} or less.")
    for key in ("mean", "std") if side == "image" else ():
        values = tower.get(key)
        three = values if isinstance(values, list | tuple) and len(values) == 3 else ()
        numbers = [v for v in three if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) != 3 or not all(abs(v) < 1e6 for v in numbers) or (key == "std" and min(numbers) <= 0):
            raise ArtefactError(f"distilled set: towers.image.{key} is {str(values)[:80]!r}; expected three numbers.")
