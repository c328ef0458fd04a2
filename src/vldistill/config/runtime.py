"""The machine: device, threads, precision."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from vldistill.config.checks import check_fields, require
from vldistill.config.former import later


@dataclass(frozen=True)
class RuntimeConfig:
    """Where the work runs.

    Args:
        device: ``auto`` (an accelerator when there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...
        threads: CPU threads of torch; 0 leaves torch's own choice.
        precision: of the passes of experts and students: ``float32``, ``bfloat16`` (weights, logits and losses stay
            float32), or ``auto``: bfloat16 on GPUs that have it. Gradients through inner steps are always float32,
            whose convolutions use TF32 on GPUs that have it, unless this is ``float32``.
        compile: put towers through ``torch.compile`` where experts and students are trained and where real images pass
            a frozen one: a minute at the start of each, for faster steps. Where that fails, a line says so and the
            tower is used as it is.
        max_memory: the most memory to use, of the device and this process, in GB (``8``) or with a unit (``7.5GB``,
            ``512MiB``); 0 is what is free. Images per pass, parameter copies and features held in memory are sized by
            it.
        micro_batch: images that pass a trained tower at a time, for experts and students; 0 is the whole batch, or as
            many halvings of it as the device's memory asks for. The result is the same but for rounding.
        augment: where experts' images are augmented: ``cpu`` (one by one, Pillow), ``device`` (whole batches, slightly
            other pixels), or ``auto``: on the device unless that is the CPU.
        save_seconds: seconds of training an expert between two checkpoints: what a crash can cost.
    """

    device: str = "auto"
    threads: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    max_memory: float | str = later(0.0, neutral=0.0)
    micro_batch: int = 0
    augment: Literal["auto", "cpu", "device"] = "auto"
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_fields(self, "runtime")
        require(self.threads >= 0, "runtime.threads", self.threads, "0 or more threads")
        require(
            most_bytes(self.max_memory) is not None,
            "runtime.max_memory", self.max_memory, "GB (8), a number with a unit (7.5GB, 512MiB), or 0 for no limit",
        )  # fmt: skip
        require(self.micro_batch >= 0, "runtime.micro_batch", self.micro_batch, "0 (all) or more images")
        require(self.save_seconds >= 0, "runtime.save_seconds", self.save_seconds, "0 (every step) or more seconds")


UNITS = {"": 1e9, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
"""Bytes of a unit; without one a number is in GB."""


def most_bytes(asked: float | str) -> int | None:
    """Bytes of ``runtime.max_memory``, 0 for no limit; None where it is no amount of memory."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", str(asked).strip().lower())
    if isinstance(asked, bool) or not found:
        return None
    unit = found[2] if found[2] in UNITS else f"{found[2]}b"
    size = float(found[1]) * UNITS.get(unit, math.nan)
    return int(size) if math.isfinite(size) else None
