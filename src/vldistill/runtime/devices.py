"""Device and precision on this machine, from the options ``runtime.*``, and copies to the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from vldistill.config import RuntimeConfig
from vldistill.errors import ConfigError
from vldistill.runtime.micro_batches import ComputeOptions
from vldistill.runtime.processes import ALONE, Processes
from vldistill.runtime.threads import set_threads

Model = TypeVar("Model", bound=nn.Module)


def choose_device(config: RuntimeConfig, processes: Processes = ALONE) -> torch.device:
    """The configured device; with several GPUs each process of a machine uses its own.

    Raises:
        ConfigError: this machine does not have it.
    """
    device = _named_device(config)
    if processes.size == 1 or device.type != "cuda":
        return device
    if device.index is not None or processes.local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {processes.local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}, "
            f"and runtime.device is {config.device}. Use auto, and at most as many processes for each machine as GPUs."
        )
    device = torch.device("cuda", processes.local)
    torch.cuda.set_device(device)
    return device


def _named_device(config: RuntimeConfig) -> torch.device:
    set_threads(config.threads)
    if config.device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(config.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"runtime.device {config.device!r} cannot be used here ({reason}); try auto or cpu."
        ) from None
    return device


def choose_compute(config: RuntimeConfig, device: torch.device) -> ComputeOptions:
    """The precision, compilation and micro-batches to use on ``device``."""
    precision = config.precision
    if precision == "auto":
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if supported else "float32"
    if device.type == "cuda":  # torch's default rounds the inputs of convolutions to 10 bits
        torch.backends.cudnn.allow_tf32 = precision != "float32"
    return ComputeOptions(precision, config.compile, config.micro_batch)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``; from the CPU to a GPU the copy is asynchronous, from pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def moved_module(module: Model, device: torch.device) -> Model:
    """``module`` with its parameters and buffers on ``device``, in place, copied by :func:`moved`."""
    return module._apply(lambda tensor: moved(tensor, device))


def fetched(numbers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors () of one kind of number on the CPU, for one wait; some may be there already."""
    away = [number for number in numbers if number.device.type != "cpu"]
    found = iter(torch.stack(away).cpu() if away else ())
    return [number if number.device.type == "cpu" else next(found) for number in numbers]


def augments_on(config: RuntimeConfig, device: torch.device) -> str:
    """Where experts' images are augmented: ``cpu`` or ``device``."""
    if config.augment != "auto":
        return config.augment
    return "cpu" if device.type == "cpu" else "device"
