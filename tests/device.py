"""The second device of the tests: a strict one that needs no GPU, or a real one.

``VLDISTILL_TEST_DEVICE=cuda python -m pytest -m device`` runs every test of the second device on a GPU, the slow ones
too. Results are then compared with a tolerance instead of to the bit, and waits are those that
``torch.cuda.set_sync_debug_mode`` reports. Other names of torch (``mps``, ``xpu``) work too; their waits are not seen.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from tests.strict_device import NAME, Waits, strict_device

WANTED = os.environ.get("VLDISTILL_TEST_DEVICE", "strict")
"""``strict``, or a device of torch."""
REAL_TOLERANCE = 2e-3
"""Of a real device, relative to the largest value of a tensor."""


@dataclass(frozen=True)
class SecondDevice:
    """The device, and the waits for it so far."""

    device: torch.device
    waits: Waits

    @property
    def exact(self) -> bool:
        """Whether it computes what the CPU computes, to the bit, and every wait is seen."""
        return WANTED == "strict"


@contextlib.contextmanager
def second_device() -> Iterator[SecondDevice]:
    """The device exists within the context."""
    if WANTED == "strict":
        with strict_device() as mode:
            yield SecondDevice(NAME, mode.waits)
        return
    device = torch.empty(0, device=WANTED).device
    with noted_syncs(waits := Waits()) if device.type == "cuda" else contextlib.nullcontext():
        yield SecondDevice(device, waits)


@contextlib.contextmanager
def noted_syncs(waits: Waits) -> Iterator[None]:
    """Note what CUDA's own check of synchronising calls warns of."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*synchronizing CUDA operation")
        warnings.showwarning = lambda *warning, **more: waits.note("read", "CUDA")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def assert_same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """To the bit on the strict device; on a real one within its tolerance."""
    assert found.keys() == wanted.keys()
    for name, tensor in on_cpu(found).items():
        other = wanted[name].detach().cpu()
        if WANTED == "strict":
            assert torch.equal(tensor, other), f"{name}: largest difference {(tensor - other).abs().max()}"
        else:
            scale = float(other.abs().max()) if other.numel() else 0.0
            torch.testing.assert_close(tensor, other, rtol=0, atol=REAL_TOLERANCE * scale, msg=f"{name} differs")
