"""Arrays on disk: an ``.npy`` file with a checksum behind the data, where numpy does not look; memory-mapped."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.errors import ArtefactError, DamagedError
from vldistill.files import atomic

FOOTER = b"blake2b:"  # followed by 16 hex digits
BLOCK = 2**20  # bytes hashed at a time


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` file with a checksum behind the data, atomically."""
    data = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(data))
    state = hashlib.blake2b(header.getvalue(), digest_size=8)
    raw = data.reshape(-1).view(np.uint8).data
    state.update(raw)
    with atomic(path) as temporary, temporary.open("wb") as handle:
        handle.write(header.getvalue())
        handle.write(raw)
        handle.write(FOOTER + state.hexdigest().encode())


def open_array(path: Path, what: str, *, mode: Any = "r") -> np.memmap:
    """An ``.npy`` file as a memory map, checked against its checksum if it has one: that reads it once.

    Args:
        mode: of the memory map: ``r``, or ``c`` for one that may be changed in memory.

    Raises:
        ArtefactError: it does not exist.
        DamagedError: it is cut or changed.
    """
    try:
        array = np.load(path, mmap_mode=mode)
        if not isinstance(array, np.memmap):
            raise ValueError("it is not an array of numbers")
        end = array.offset + array.nbytes
        with path.open("rb") as handle:
            state = hashlib.blake2b(digest_size=8)
            for start in range(0, end, BLOCK):
                state.update(handle.read(min(BLOCK, end - start)))
            footer = handle.read(len(FOOTER) + 17)
    except FileNotFoundError:
        raise ArtefactError(f"{what}: {path} does not exist.") from None
    except Exception as error:  # numpy raises nearly anything on a broken header
        raise DamagedError(f"{what}: {path} is damaged ({error}). Delete it and make it again.") from None
    if footer not in (b"", FOOTER + state.hexdigest().encode()):
        reason = "its checksum differs" if footer.startswith(FOOTER) else "it is longer than its header says"
        raise DamagedError(f"{what}: {path} is damaged ({reason}). Delete it and make it again.")
    return array
