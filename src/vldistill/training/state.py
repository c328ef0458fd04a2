"""Everything that the next step of a training depends on, by name, so that a stopped training goes on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

Tensors = Mapping[str, torch.Tensor]


class Keeper(Protocol):
    """What keeps a training in files while it goes on."""

    def found(self) -> tuple[Tensors, int] | None:
        """The state that an earlier process kept and the steps it had done; None to start from the beginning."""
        ...

    def due(self) -> bool:
        """Whether to keep the state now; asked after every step."""
        ...

    def keep(self, tensors: Tensors, steps: int) -> None:
        """Keep the state after ``steps`` steps. Raises Stopped when the user asked to stop."""
        ...


def training_state(
    model: nn.Module, optimiser: torch.optim.Optimizer, total: torch.Tensor, device: torch.device
) -> dict[str, torch.Tensor]:
    """The live tensors: weights, statistics, momentum, the epoch's loss so far, and both random generators.

    Args:
        total: sum of the losses of the current epoch.
        device: that the training runs on.
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
    """Put :func:`training_state` back in place.

    Raises:
        KeyError, RuntimeError: the state is another model's.
    """
    for name, value in _moving(model).items():
        value.copy_(tensors[f"weights/{name}"])
    for name, parameter in model.named_parameters():
        if f"momentum/{name}" in tensors:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(tensors[f"momentum/{name}"])
            optimiser.state[parameter] = {"momentum_buffer": buffer}
    total.copy_(tensors["total"])
    torch.set_rng_state(tensors["random/cpu"].clone())
    if device.type != "cpu" and "random/device" in tensors:  # else it was begun on a CPU
        torch.get_device_module(device).set_rng_state(tensors["random/device"].clone(), device)


def _moving(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trained parameters and buffers."""
    return {**{n: p for n, p in model.named_parameters() if p.requires_grad}, **dict(model.named_buffers())}
