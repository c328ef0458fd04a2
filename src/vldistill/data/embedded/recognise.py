"""Whether a path is a source of vectors, seen from the names of its files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from vldistill.data.embedded import arrays
from vldistill.data.embedded.sides import TEXT
from vldistill.data.patterns import walk
from vldistill.data.samples import IMAGE_SUFFIXES

ENOUGH = 2000  # files whose names are seen


def is_embedded(path: Path) -> bool:
    """Whether a path is a .npz file, a folder with some, or one with .npy files of texts and others.

    A folder with pictures or tars is none, for vectors may lie beside what they were made of. All else that holds
    vectors needs the prefix ``embeddings:``.
    """
    if path.suffix.lower() == arrays.ZIPPED and path.is_file():
        return True
    if not path.is_dir():
        return False
    files = list(islice(walk(path), ENOUGH))
    suffixes = [file.suffix.lower() for file in files]
    if any(suffix in IMAGE_SUFFIXES or suffix == ".tar" for suffix in suffixes):
        return False
    named = ["/".join(file.relative_to(path).parts).lower() for file in files if file.suffix.lower() == arrays.NUMPY]
    texts = [bool(TEXT.search(name)) for name in named]
    return arrays.ZIPPED in suffixes or (any(texts) and not all(texts))
