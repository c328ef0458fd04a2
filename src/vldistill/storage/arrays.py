"""Arrays of .npy files, memory-mapped: a file that is not such an array is an error of ours, whatever is in it.

What :func:`write_array` writes has a checksum behind the data, where numpy does not look.
"""

from __future__ import annotations

import hashlib
import io
import mmap
from pathlib import Path
from typing import Literal

import numpy as np

from vldistill.errors import DamagedError
from vldistill.storage.files import atomic

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


def open_array(path: Path, what: str, mode: Literal["r", "c"] = "r") -> np.memmap:
    """The whole array of ``path``, mapped; one with a checksum is read once to check it.

    Unlike ``numpy.load`` this never takes a file for a zip or a pickle.

    Args:
        path: of a .npy file.
        what: names it in the message.
        mode: ``r`` read-only, ``c`` with changes that stay in memory.

    Raises:
        DamagedError: missing, changed, of objects, or longer or shorter than its header declares.
    """
    try:
        array = np.lib.format.open_memmap(path, mode=mode)
        length = array.offset + array.nbytes
        if array.dtype.kind not in "iufb" or array.dtype.hasobject:
            raise ValueError(f"values of {array.dtype}; expected numbers")
        found = path.stat().st_size
        if found not in (length, length + len(FOOTER) + 16):
            raise ValueError(f"it has {found:,} bytes; expected {length:,}")
        if found > length and not _matches(path, length):
            raise ValueError("its checksum differs")
    except Exception as error:  # numpy evaluates the header as an expression, which can fail in any way
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:160]
        raise DamagedError(f"{what}: {path} cannot be read ({reason}). Delete {path.parent}.") from None
    return array


def _matches(path: Path, length: int) -> bool:
    """Whether the first ``length`` bytes have the checksum that follows them."""
    state = hashlib.blake2b(digest_size=8)
    with path.open("rb") as handle:
        for start in range(0, length, BLOCK):
            state.update(handle.read(min(BLOCK, length - start)))
        return handle.read() == FOOTER + state.hexdigest().encode()


def let_go(array: np.ndarray) -> None:
    """Give back the memory of a mapped array that was read through; what is needed again comes from the file."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
