"""Everything the next step of a training depends on, by name, so that a stopped training resumes exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

Tensors = Mapping[str, torch.Tensor]


class Keeper(Protocol):
    """Saves the state of a training while it runs."""

    def found(self) -> tuple[Tensors, int] | None:
        """The state that an earlier process saved and its number of steps; None to start from the beginning."""
        ...

    def due(self) -> bool:
        """Whether to save the state now; called after every step."""
        ...

    def keep(self, tensors: Tensors, steps: int) -> None:
        """Save the state after ``steps`` steps. Raises Stopped when the user asked to stop."""
        ...


def training_state(
    model: nn.Module, optimiser: torch.optim.Optimizer, total: torch.Tensor, device: torch.device
) -> dict[str, torch.Tensor]:
    """The live tensors: weights, statistics, momentum, the epoch's loss so far, and the random generators.

    Args:
        total: sum of the losses of the current epoch.
        device: where the training runs.
    """
    generators = {"random/cpu": torch.get_rng_state()}
    if device.type != "cpu":
        generators["random/device"] = torch.get_device_module(device).get_rng_state(device)
    return {
        **{f"weights/{name}": value for name, value in _moving(model).items()},
        **{
            f"momentum/{name}": buffer
            for name, parameter in model.named_parameters()
            if (buffer := optimiser.state.get(parameter, {}).get("momentum_buffer")) is not None
        },
        "total": total,
        **generators,
    }


@torch.no_grad()
def restore_training(
    tensors: Tensors, model: nn.Module, optimiser: torch.optim.Optimizer, total: torch.Tensor, device: torch.device
) -> None:
    """Restore :func:`training_state` in place.

    Raises:
        KeyError, RuntimeError: the state belongs to another model.
    """
    for name, value in _moving(model).items():
        value.copy_(tensors[f"weights/{name}"])
    for name, parameter in model.named_parameters():
        if f"momentum/{name}" in tensors:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(tensors[f"momentum/{name}"])
            optimiser.state[parameter] = {"momentum_buffer": buffer}
    total.copy_(tensors["total"])
    torch.set_rng_state(tensors["random/cpu"].clone())
    if device.type != "cpu" and "random/device" in tensors:  # absent if the training began on a CPU
        torch.get_device_module(device).set_rng_state(tensors["random/device"].clone(), device)


def _moving(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trained parameters and buffers."""
    return {**{n: p for n, p in model.named_parameters() if p.requires_grad}, **dict(model.named_buffers())}
