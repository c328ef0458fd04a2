"""Arrays of .npy files, memory-mapped: a file that is no such array is an error of ours, whatever is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from vldistill.errors import ArtefactError


def open_array(path: Path, what: str, mode: Literal["r", "c"] = "r") -> np.memmap:
    """The whole array of ``path``, mapped and not read.

    Unlike ``numpy.load`` this never takes a file for a zip or a pickle.

    Args:
        path: of a .npy file.
        what: names it in the message.
        mode: ``r`` read-only, ``c`` with changes that stay in memory.

    Raises:
        ArtefactError: missing, damaged, of objects, or longer or shorter than its header says.
    """
    try:
        array = np.lib.format.open_memmap(path, mode=mode)
        length = array.offset + array.nbytes
        if array.dtype.kind not in "iufb" or array.dtype.hasobject:
            raise ValueError(f"values of {array.dtype}; expected numbers")
        if length != (found := path.stat().st_size):
            raise ValueError(f"it has {found:,} bytes; expected {length:,}")
    except Exception as error:  # numpy evaluates the header as an expression, which can fail in any way
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:160]
        raise ArtefactError(f"{what}: {path} cannot be read ({reason}). Delete {path.parent}.") from None
    return array
