"""What ``datasets.load_dataset`` and the viewer of the Hugging Face hub read of a set: ``data/`` beside the tensors.

Pictures are PNG, rounded to 8 bits and clipped; captions are real ones near the learned texts. The tensors are the set.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vldistill.storage.files import storage_errors

FOLDER = "data"  # in the set's
LISTING = "metadata.jsonl"  # a row for each pair, as the loader `imagefolder` of datasets reads it
COLUMNS = {"nearest": "caption", "start": "start"}  # kind of caption -> column

Captions = dict[str, list[list[str]]]


def write_shown(folder: Path, pixels: torch.Tensor | None, captions: Captions) -> None:
    """Write ``data/`` of a set's folder; it appears complete or not at all, and replaces what was there.

    Args:
        folder: the set's.
        pixels: (N, 3, S, S) in [0, 1]; None for a set of features, which has captions alone.
        captions: by kind, ``nearest`` and ``start``: those of every pair.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    place, temporary = folder / FOLDER, folder / f".{FOLDER}.tmp"
    with storage_errors(place):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        names = [] if pixels is None else _write_pictures(temporary, pixels)
        lines = [json.dumps(row, ensure_ascii=False) for row in _rows(names, captions)]
        (temporary / LISTING).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)


def _write_pictures(folder: Path, pixels: torch.Tensor) -> list[str]:
    """A PNG file for each picture; returns their names."""
    arrays = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    names = [f"{number:06d}.png" for number in range(len(arrays))]

    def write(name: str, array: np.ndarray) -> None:
        Image.fromarray(array).save(folder / name)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, names, arrays))
    return names


def _rows(names: Sequence[str], captions: Captions) -> list[dict[str, object]]:
    """The rows: a text where every pair has one caption, lists where some have several."""
    columns: dict[str, Sequence[object]] = {"file_name": names} if names else {}
    for kind, own in captions.items():
        if any(any(texts) for texts in own):
            columns[COLUMNS[kind]] = [texts[0] for texts in own] if all(len(texts) == 1 for texts in own) else own
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
