"""One outer iteration over several draws: segments, fresh real batches or students, their gradients averaged.

The draws are divided among the processes that ``torchrun`` started. Every draw has its own randomness, made from
(seed, iteration, draw), and gradients are added up in the order of the draws: any number of processes gives the set
that one process gives.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import torch

from vldistill.distillation.metagrad.backward_sweep import NonFiniteError
from vldistill.distillation.method import Context, State, T, TrainedMethod, Update
from vldistill.errors import ConfigError
from vldistill.runtime.processes import Processes, merged_logs


class Draw(TypedDict):
    """What the other processes need of an update, as JSON; NaN and infinity are sent as text."""

    value: str
    logs: dict[str, str]
    phase: str
    progress: float | None
    gradients: list[str]
    carried: list[str]


class Gathered(TypedDict):
    """The draws of one process, or why one of them failed."""

    trouble: str
    draws: list[Draw]


def check_draws(draws: int, processes: Processes) -> None:
    """Refuse draws that cannot be divided among the processes. Raises ConfigError."""
    if draws % processes.size:
        several = draws + processes.size - draws % processes.size
        raise ConfigError(
            f"distill.draws is {draws}, but torchrun started {processes.size} processes, which share the draws of an "
            f"iteration evenly. Set --distill.draws {several}, or another multiple of {processes.size}."
        )


def averaged_update(method: TrainedMethod[T], state: State, context: Context[T], processes: Processes) -> Update:
    """The mean over all draws of this iteration.

    Raises:
        NonFiniteError: on every rank, when a draw met numbers that are not finite on any of them.
    """
    count = context.config.draws // processes.size
    if count == 1 and processes.size == 1:
        return method.step(state, context)
    own: list[Update] = []
    trouble = ""
    for draw in range(processes.rank * count, (processes.rank + 1) * count):
        try:
            own.append(method.step(state, context.at(context.iteration, draw)))
        except NonFiniteError as error:
            trouble = f"draw {draw}: {error}"
            break
    ours: Gathered = {"trouble": trouble, "draws": [] if trouble else [_plain(update) for update in own]}
    gathered = processes.gather(ours)
    for other in gathered:
        if other["trouble"]:
            raise NonFiniteError(other["trouble"])
    draws = [draw for other in gathered for draw in other["draws"]]
    values = [float(draw["value"]) for draw in draws]
    return Update(
        gradients=_means([update.gradients for update in own], draws, "gradients", state.variables, processes),
        value=sum(values) / len(values),
        logs=merged_logs([{name: float(x) for name, x in draw["logs"].items()} for draw in draws]),
        phase=draws[0]["phase"],
        progress=draws[0]["progress"],
        carried=_means([update.carried for update in own], draws, "carried", state.carried, processes),
    )


def _plain(update: Update) -> Draw:
    return {
        "value": str(update.value),
        "logs": {name: str(value) for name, value in update.logs.items()},
        "phase": update.phase,
        "progress": update.progress,
        "gradients": list(update.gradients),
        "carried": list(update.carried),
    }


def _means(
    own: list[dict[str, torch.Tensor]],
    draws: list[Draw],
    kind: Literal["gradients", "carried"],
    like: dict[str, torch.Tensor],
    processes: Processes,
) -> dict[str, torch.Tensor]:
    """By name the mean over all draws; a draw without a tensor counts as zero."""
    names = dict.fromkeys(name for draw in draws for name in draw[kind])
    return {
        name: processes.mean([found.get(name, torch.zeros_like(like[name])).to(like[name]) for found in own])
        for name in names
    }
