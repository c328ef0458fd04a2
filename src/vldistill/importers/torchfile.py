"""Files of ``torch.save``, read as tensors, numbers, lists and dicts only: a pickle that wants more is refused.

``weights_only`` keeps a file from importing or calling anything. What it lets pass is checked here: packed zips, the
tar format of the first releases (torch unpacks it to disk), tensors that declare more than the file holds, views that
share memory many times over, and kinds of tensors that no published set has.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vldistill.data.archives import check_zip
from vldistill.errors import ArtefactError, DataError
from vldistill.storage.files import human_bytes

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P"  # the second: a number that torch put first
SHARED = 64  # bytes of tensors for each byte of the file: recordings made on a CPU hold one storage many times
MOST_VALUES = 1_000_000
TOO_MUCH = "is refused: it declares more than it holds"
SCALAR = np.float64(0).__reduce__()[0]  # builds one number of a plain kind from its bytes
NUMBERS = [SCALAR, (SCALAR, "numpy.core.multiarray.scalar"), np.dtype]
NUMBERS += [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "u1", "?")]
KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)


def read_torch_file(path: Path, what: str) -> Any:
    """The content of ``path`` on the CPU.

    Raises:
        ArtefactError: when the file is missing, damaged, requests anything to be imported or called, declares more
            than it holds, or holds tensors that are not plain numbers in memory.
    """
    if not path.is_file():
        raise ArtefactError(f"{what}: {path} does not exist.")
    try:
        _check_container(path, what)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that torch finds old; they are read all the same
            with torch.serialization.safe_globals(NUMBERS):
                found = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(found, path, what)
        return found
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        raise ArtefactError(
            f"{what}: {path} is refused: it is damaged, or holds more than tensors, numbers, lists and dicts "
            f"({' '.join(reason.split())[:160].strip()}). Nothing in it was run. If you trust its makers, let "
            f"their code save the plain tensors again."
        ) from None
    except ArtefactError:
        raise
    except DataError as error:
        raise ArtefactError(str(error)) from None
    except Exception as error:  # torch's readers raise nearly anything on broken bytes
        reason = " ".join((str(error) or type(error).__name__).split())[:160]
        raise ArtefactError(
            f"{what}: {path} is not a file that torch.save wrote, or it is damaged ({reason}). Download it again."
        ) from None


def _check_container(path: Path, what: str) -> None:
    """Only what torch reads without unpacking: a zip of stored members, or the format before zips."""
    with path.open("rb") as handle:
        head = handle.read(16)
    if head.startswith(ZIP):
        check_zip(path, what, ratio=1)
    elif not head.startswith(LEGACY):
        raise ValueError("it begins like neither of torch's formats" if head else "it is empty")


def _check_tensors(found: Any, path: Path, what: str) -> None:
    """Refuse tensors that are more than the file. Raises ArtefactError."""
    total, size = 0, path.stat().st_size
    for tensor in _tensors(found):
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if not plain or tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in KINDS:
            raise ArtefactError(
                f"{what}: {path} is refused: it holds a tensor of kind {type(tensor).__name__}, {tensor.layout}, "
                f"{tensor.dtype} on {tensor.device}; expected plain numbers. Save it again as dense tensors."
            )
        declared = tensor.numel() * tensor.element_size()
        total += declared
        if declared > tensor.untyped_storage().nbytes() or total > size * SHARED:
            raise ArtefactError(
                f"{what}: {path} {TOO_MUCH}: tensors of {human_bytes(total)} in a file of {human_bytes(size)}."
            )


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    """Every tensor as often as it is met, without recursion. Raises ValueError for a structure without end."""
    left, count = [found], 0
    while left:
        one = left.pop()
        count += 1
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, Mapping | list | tuple | set | frozenset):
            items = list(one.values()) if isinstance(one, Mapping) else list(one)
            if count + len(left) + len(items) > MOST_VALUES:
                raise ValueError(f"more than {MOST_VALUES:,} values")
            left += items
