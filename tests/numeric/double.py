"""A tiny workbench and experts in float64, so that two ways to the same gradient can be told from rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from vldistill.config import DataConfig, DistillConfig, EncoderConfig, ExpertsConfig, ImageTowerConfig, TextTowerConfig
from vldistill.distillation.method import METHODS, Context, State, Update
from vldistill.distillation.start import make_start
from vldistill.encoders.dual import DualEncoder, Groups
from vldistill.experts.record import record_experts
from vldistill.experts.trajectory import Trajectory
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Reporter
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

PAIRS = 5
SCENES = "scenes:train=40,val=20,test=20"
ENCODER = EncoderConfig(
    image=ImageTowerConfig(name="convnet", weights="random", size=16, options={"width": 4}),
    text=TextTowerConfig(name="hashing", width=16),
    dim=8,
)


class DoubleBench(Workbench):
    """A workbench whose students and features are float64."""

    def student(self, seed: int, dropout: float = 0.0) -> DualEncoder:
        return super().student(seed, dropout).double()


class DoubleTrajectory(Trajectory):
    """An expert whose snapshots are float64."""

    def snapshot(self, epoch: int) -> Groups:
        return {s: {n: t.double() for n, t in named.items()} for s, named in super().snapshot(epoch).items()}


def make_bench(folder: Path, source: str = SCENES) -> tuple[Workbench, list[Trajectory]]:
    """The bench in setting ``heads`` and two experts of three epochs."""
    data = DataConfig(source=source, cache=str(folder / "cache"))
    single = Workbench(data, ENCODER, torch.device("cpu"), Reporter(quiet=True))
    config = ExpertsConfig(count=2, epochs=3, batch=64, augment=False)
    experts = [DoubleTrajectory(e.path) for e in record_experts(single, config, folder / "experts")]
    return double_bench(folder, source), list(experts)


def double_bench(folder: Path, source: str = SCENES) -> Workbench:
    """The bench alone, for methods without experts."""
    data = DataConfig(source=source, cache=str(folder / "cache"))
    bench = DoubleBench(data, ENCODER, torch.device("cpu"), Reporter(quiet=True))
    split = bench.split("train")
    images, texts = (
        TensorInputs(side.rows(torch.arange(len(side))).double()) for side in (split.data.images, split.data.texts)
    )
    bench._splits["train"] = replace(split, data=replace(split.data, images=images, texts=texts))
    bench.image_tower.double()
    return bench


def prepared(
    bench: Workbench, experts: list[Trajectory], name: str, options: Any, **config: Any
) -> tuple[Any, Context[Any], State]:
    """A checked method in iteration 3, and its state in float64 with every learned tensor moved off its start."""
    settings = DistillConfig(**{"method": name, "pairs": PAIRS, "iterations": 10, "validate_every": 0, **config})
    context = Context(bench, resolve_distill(settings, bench.setting), options, experts, iteration=3)
    method: Any = METHODS.find(name).build()
    method.check(context)
    state = method.setup(make_start(bench, "real", settings.pairs, 0), context)
    draw = torch.Generator().manual_seed(0)
    state.variables = {
        n: v.double() + 0.1 * torch.randn(v.shape, generator=draw, dtype=torch.float64)
        for n, v in state.variables.items()
    }
    return method, context, state


def assert_update(update: Update, expected: dict[str, torch.Tensor]) -> None:
    """Compare an update with the ``value`` and the gradients that are expected, none of which is 0."""
    value = expected.pop("value")
    torch.testing.assert_close(torch.tensor(update.value, dtype=value.dtype), value, rtol=1e-10, atol=0)
    assert set(update.gradients) == set(expected)
    for name, slope in expected.items():
        assert float(slope.norm()) > 0, name
        torch.testing.assert_close(update.gradients[name], slope, rtol=1e-7, atol=1e-13, msg=name)


def flat(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Parameters by ``side.name``."""
    return {f"{side}.{name}": tensor for side, named in groups.items() for name, tensor in named.items()}


def embed(bench: Workbench, params: Mapping[str, torch.Tensor], features: torch.Tensor, texts: torch.Tensor):
    """Cosine logits of features and texts with ``params``, written out."""
    x, y = (
        functional_call(module, {n.partition(".")[2]: p for n, p in params.items() if n.startswith(side)}, (inputs,))
        for side, module, inputs in (
            ("image", bench.architecture.image, features),
            ("text", bench.architecture.text, texts),
        )
    )
    x, y = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
    return x @ y.T / bench.encoder_config.temperature


def add(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum, which is a tensor."""
    return torch.stack(list(parts)).sum()


def tesla(bench, begin, target, leaves, rates, losses, merged: bool) -> dict[str, torch.Tensor]:
    """The published two-pass estimator (TESLA as LoRS uses it), written from its formulas.

    ``losses`` are functions of flat parameters, one for each inner step. c_i = [eta (target - begin) + eta^2 G] . g_i
    over ||begin - target||^2 with G the sum of all g_i, and 2 dc_i at fixed theta_i is the gradient to ``leaves``.
    """
    thetas, total = [dict(begin)], {name: torch.zeros_like(p) for name, p in begin.items()}
    eta = {name: rates[name.partition(".")[0]] for name in begin}
    for loss in losses:
        params = {name: p.clone().requires_grad_(True) for name, p in thetas[-1].items()}
        slopes = torch.autograd.grad(loss(params), list(params.values()))
        total = {name: total[name] + slope for name, slope in zip(params, slopes)}
        thetas.append({n: p.detach() - eta[n] * slope for (n, p), slope in zip(params.items(), slopes)})
    way = {
        side: add((begin[n] - target[n]).square().sum() for n in begin if merged or n.startswith(side))
        for side in ("image", "text")
    }
    out = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for loss, theta in zip(losses, thetas):
        params = {name: p.clone().requires_grad_(True) for name, p in theta.items()}
        slopes = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
        c = add(
            ((eta[n] * (target[n] - begin[n]) + eta[n] ** 2 * total[n]) * g).sum() / way[n.partition(".")[0]]
            for n, g in zip(params, slopes)
        )
        for name, slope in zip(leaves, torch.autograd.grad(2 * c, list(leaves.values()), allow_unused=True)):
            out[name] = out[name] if slope is None else out[name] + slope
    for side in ("image", "text"):
        rate = rates[side].clone().requires_grad_(True)
        gap = add(
            (begin[n] - rate * total[n] - target[n]).square().sum() / way[side] for n in begin if n.startswith(side)
        )
        out[f"log_rate_{side}"] = torch.autograd.grad(gap, rate)[0] * rates[side]
    value = add((thetas[-1][n] - target[n]).square().sum() / way[n.partition(".")[0]] for n in begin)
    return out | {"value": value}


def walk(context: Context, steps: int, minibatch: int, pairs: int = PAIRS) -> list[torch.Tensor]:
    """Rows of each inner step: slices of a permutation, a new one when the rest is too small."""
    draw, out, order, place = context.generator("rows"), [], None, 0
    for _ in range(steps):
        if order is None or place + minibatch > pairs:
            order, place = torch.randperm(pairs, generator=draw), 0
        out.append(order[place : place + minibatch])
        place += minibatch
    return out


def assert_slopes(value: Callable[[State], float], state: State, gradients: Mapping[str, torch.Tensor]) -> None:
    """Gradients are the slopes of ``value``, by central differences along a random direction of each variable."""
    draw = torch.Generator().manual_seed(1)
    for variable, gradient in gradients.items():
        direction = torch.randn(gradient.shape, generator=draw, dtype=torch.float64)
        ends = []
        for side in (1, -1):
            moved = {**state.variables, variable: state.variables[variable] + side * 1e-5 * direction}
            ends.append(value(State(moved)))
        slope = float((gradient * direction).sum())
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-8)
