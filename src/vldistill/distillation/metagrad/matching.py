"""The trajectory matching loss: the student's distance to the expert's target over the length of its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vldistill.errors import ConfigError, MatchingError, unknown
from vldistill.runtime.devices import fetched

REDUCTIONS = ("sum_of_ratios", "ratio_of_sums")

NamedTensors = Mapping[str, Mapping[str, Tensor]]


@dataclass
class MatchingLoss:
    """``value`` (): differentiable. ``terms`` {group: ()}: each group's share of it, detached."""

    value: Tensor
    terms: dict[str, Tensor]


def matching_loss(
    params: NamedTensors, start: NamedTensors, target: NamedTensors, reduce: str = "sum_of_ratios"
) -> MatchingLoss:
    """||params - target||^2 / ||start - target||^2 per group k (arXiv 2308.07545).

    ``sum_of_ratios``: sum_k (a_k / b_k), the published loss. ``ratio_of_sums``: sum_k a_k / sum_k b_k, used
    by some successors on larger data. All three arguments are {group: {name: tensor}} with the same names
    and shapes; ``start`` and ``target`` are constants. Norms are taken in float32 or finer. The value is 1
    (or the number of groups) for a student that stands still.

    Raises `MatchingError` when names or shapes differ, and when start equals target in a group.
    """
    if reduce not in REDUCTIONS:
        raise ConfigError(unknown("reduction of the matching loss", reduce, REDUCTIONS))
    _check_names(params, start, target)
    above: dict[str, Tensor] = {}
    below: dict[str, Tensor] = {}
    for group, tensors in params.items():
        above[group] = _squared_distance(tensors, target[group])
        with torch.no_grad():
            below[group] = _squared_distance(start[group], target[group]).to(above[group].device)
    for group, length in zip(below, fetched(list(below.values()))):
        if length == 0:
            raise MatchingError(
                f"start and target are equal in group {group!r}: the segment has no length to match. "
                "Choose a later target, or leave out a group that the expert did not train."
            )
    if reduce == "ratio_of_sums":
        total = torch.stack(list(below.values())).sum()
        below = dict.fromkeys(below, total)
    ratios = {group: above[group] / below[group] for group in above}
    return MatchingLoss(
        value=torch.stack(list(ratios.values())).sum(),
        terms={group: ratio.detach() for group, ratio in ratios.items()},
    )


def _squared_distance(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Tensor:
    """sum ||a - b||^2 over the tensors of one group."""
    total = []
    for name, tensor in tensors.items():
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        gap = tensor.to(dtype) - others[name].detach().to(tensor.device, dtype)
        total.append(gap.square().sum())
    return torch.stack(total).sum()


def _check_names(params: NamedTensors, start: NamedTensors, target: NamedTensors) -> None:
    if not params or not all(params.values()):
        raise MatchingError(f"params has a group without parameters, or none at all: {sorted(params)}.")
    for role, other in (("start", start), ("target", target)):
        if set(other) != set(params):
            raise MatchingError(f"{role} has the groups {sorted(other)}, the student has {sorted(params)}.")
        for group, tensors in params.items():
            if set(other[group]) != set(tensors):
                missing = sorted(set(tensors) - set(other[group]))
                extra = sorted(set(other[group]) - set(tensors))
                raise MatchingError(
                    f"{role} does not fit the student in group {group!r}: missing {missing}, "
                    f"unknown {extra}. "
                    "The expert was recorded with another tower or another part of it."
                )
            for name, tensor in tensors.items():
                if other[group][name].shape != tensor.shape:
                    raise MatchingError(
                        f"{group}.{name} has shape {tuple(other[group][name].shape)} in {role}, "
                        f"{tuple(tensor.shape)} in the student."
                    )
