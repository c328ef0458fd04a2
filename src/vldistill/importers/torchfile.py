"""Files of ``torch.save``, read as tensors, numbers, lists and dicts only: a pickle that wants more is refused."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from vldistill.errors import ArtefactError


def read_torch_file(path: Path, what: str) -> Any:
    """The content of ``path`` on the CPU.

    Raises:
        ArtefactError: when the file is missing, damaged, or asks for anything to be imported or called.
    """
    if not path.is_file():
        raise ArtefactError(f"{what}: {path} does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that torch finds old; they are read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        raise ArtefactError(
            f"{what}: {path} is refused: it is damaged, or holds more than tensors, numbers, lists and dicts "
            f"({' '.join(reason.split())[:160].strip()}). Nothing in it was run. If you trust its makers, let "
            f"their code save the plain tensors anew."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise ArtefactError(
            f"{what}: {path} is not a file that torch.save wrote, or it is damaged ({reason}). Download it again."
        ) from None
