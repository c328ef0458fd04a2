"""The machine: device, threads, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vldistill.config.checks import check_fields, require


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
    micro_batch: int = 0
    augment: Literal["auto", "cpu", "device"] = "auto"
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_fields(self, "runtime")
        require(self.threads >= 0, "runtime.threads", self.threads, "0 or more threads")
        require(self.micro_batch >= 0, "runtime.micro_batch", self.micro_batch, "0 (all) or more images")
        require(self.save_seconds >= 0, "runtime.save_seconds", self.save_seconds, "0 (every step) or more seconds")
