"""Options of first-order computation (precision, compilation, micro-batches), and halving where memory is short.

They change results by rounding only; the defaults call the encoder as it is. Second-order computation
(``distillation/metagrad/backward_sweep.py``) does not use them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from vldistill.errors import MemoryShortError

T = TypeVar("T")
SHORT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
)  # messages of devices, and of CPUs by system


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(frozen=True)
class ComputeOptions:
    """How forward and backward passes are computed.

    Args:
        precision: ``float32``, or ``bfloat16`` for the towers and heads (weights, logits and losses stay float32).
        compiled: compile towers with ``torch.compile``, where that works.
        micro_batch: inputs per pass of a trained tower; 0 is the whole batch, halved when memory is short.
        tell: given a line where something is done in another way than asked.
    """

    precision: str = "float32"
    compiled: bool = False
    micro_batch: int = 0
    tell: Callable[[str], None] = field(default=_to_stderr, compare=False)

    def autocast(self, device: torch.device) -> contextlib.nullcontext[None] | torch.autocast:
        """A context in which a pass has this precision."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


FLOAT32 = ComputeOptions()


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device is out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in SHORT_OF_MEMORY)


def heads_too_large(device: torch.device, batch: int) -> MemoryShortError:
    """The error of a training step of two heads that does not fit in memory."""
    return MemoryShortError(
        f"{device} has too little memory for a training step of two heads on {batch} rows. Use smaller batches, or "
        f"another device."
    )


def free_memory(device: torch.device) -> None:
    """Release the cached blocks of an accelerator."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


@torch.no_grad()
def in_parts(
    function: Callable[[Tensor], Tensor], inputs: Tensor, size: int = 0, device: torch.device | None = None
) -> Tensor:
    """``function(inputs)`` without gradients, in parts that fit in memory; rows must be independent.

    Args:
        size: rows per part; 0 is all, if they fit.
        device: where ``function`` computes; None is the device of the inputs.

    Raises:
        MemoryShortError: even one row does not fit.
    """
    size = min(size or len(inputs), len(inputs))

    def run(size: int) -> Tensor:
        parts = [function(part) for part in inputs.split(size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return halved_where_short(run, size, device or inputs.device, f"one input of shape {tuple(inputs.shape[1:])}")


def halved_where_short(run: Callable[[int], T], size: int, device: torch.device, least: str) -> T:
    """``run(size)``, with the size halved until it fits in the memory of ``device``.

    Args:
        run: does the whole work, ``size`` rows at a time.
        least: what a size of 1 is, for the error message.

    Raises:
        MemoryShortError: even a size of 1 does not fit.
    """
    while True:
        try:
            return run(size)
        except RuntimeError as error:
            if not is_short_of_memory(error):
                raise
        if size < 2:
            raise MemoryShortError(
                f"{device} has too little memory for {least}. Use a smaller encoder.image.size, or another tower or "
                f"device."
            )
        size = (size + 1) // 2
        free_memory(device)
