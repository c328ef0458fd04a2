"""A workbench that encodes in a blink, and what the tests of the loop and of evaluation need beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vldistill.config import DataConfig, DistillConfig, EncoderConfig, ExpertsConfig, ImageTowerConfig, TextTowerConfig
from vldistill.distillation.export import export_set
from vldistill.distillation.loop import Loop
from vldistill.distillation.metagrad.backward_sweep import NonFiniteError
from vldistill.distillation.method import Context, Method, Start, State, Update
from vldistill.distillation.methods.bitraj import BiTrajectoryMatching, BitrajOptions
from vldistill.distillation.start import make_start
from vldistill.distillation.variables import learned_rates, start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.experts.record import record_experts
from vldistill.experts.trajectory import Trajectory
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Reporter
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench

SCENES = "scenes:train=40,val=20,test=20"
ENCODER = EncoderConfig(
    image=ImageTowerConfig(name="convnet", weights="random", size=16, options={"width": 8}),
    text=TextTowerConfig(name="hashing", width=32),
    dim=16,
)
EXPERTS = ExpertsConfig(count=2, epochs=3, batch=32)
DISTILL = DistillConfig(method="bitraj", pairs=6, iterations=8, validate_every=0, checkpoint_every=3)


class Recorder(Reporter):
    """A silent reporter that remembers what was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def make_bench(cache: Path, setting: str = "heads", source: str = SCENES, **encoder: Any) -> Workbench:
    """A workbench on forty drawn scenes."""
    data = DataConfig(source=source, cache=str(cache))
    return Workbench(data, replace(ENCODER, setting=setting, **encoder), torch.device("cpu"), Recorder())


def make_experts(bench: Workbench, folder: Path) -> list[Trajectory]:
    """Two experts of three epochs."""
    return record_experts(bench, EXPERTS, folder)


class Stub:
    """A method with known gradients that fails in the iterations of ``faults``."""

    def __init__(self, faults: Mapping[int, str] | None = None) -> None:
        self.faults = dict(faults or {})

    def check(self, context: Context) -> None:
        """Everything goes."""

    def setup(self, start: Start, context: Context) -> State:
        return State(start_variables(start, context))

    def gradient(self, value: torch.Tensor, iteration: int) -> torch.Tensor:
        """The gradient of a variable: another number in each iteration."""
        return torch.full_like(value, 0.1 + 0.01 * iteration)

    def step(self, state: State, context: Context) -> Update:
        fault = self.faults.get(context.iteration, "")
        if fault == "raise":
            raise NonFiniteError("the outer loss is nan")
        gradients = {name: self.gradient(value, context.iteration) for name, value in state.variables.items()}
        if fault == "gradient":
            gradients["texts"][0, 0] = torch.nan
        if fault == "overflow":
            gradients["images"] = torch.full_like(gradients["images"], 3e38)
        value = {"nan": float("nan"), "infinite": float("inf"), "explosion": 1e6}.get(fault, 1.0)
        return Update(gradients, value, {"extra": 2.0})

    def export(self, state: State, context: Context) -> DistilledSet:
        rates = {side: (float(rate),) for side, rate in learned_rates(state).items()}
        return export_set(state, context, Recipe(rates=rates))


def make_loop(
    bench: Workbench,
    experts: list[Trajectory],
    folder: Path,
    config: DistillConfig = DISTILL,
    *,
    method: Method | Stub | None = None,
    options: BitrajOptions | None = None,
    stop_after: int = 0,
    score: Callable[[DistilledSet], float] = lambda distilled: 0.0,
    save: Callable[[DistilledSet, int], None] = lambda distilled, iteration: None,
) -> Loop:
    """A loop that stops after ``stop_after`` steps, if that is not 0."""
    asked = 0

    def stop_asked() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    context = Context(bench, resolve_distill(config, bench.setting), options or BitrajOptions(syn_steps=2), experts)
    built: Any = method or BiTrajectoryMatching()
    return Loop(built, context, folder, score=score, save=save, stop_asked=stop_asked)


def start_of(bench: Workbench, config: DistillConfig = DISTILL) -> Start:
    """The starting pairs of ``config``."""
    return make_start(bench, config.start, config.pairs, config.seed)


def copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as they are now."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Whether names, dtypes and every bit agree."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


OWN = Recipe(rates={"image": (0.1,), "text": (0.2,)}, epochs=4, batch=4, schedule="constant")


def make_set(bench: Workbench, **changes: Any) -> DistilledSet:
    """Six real pairs as a set."""
    context = Context(bench, resolve_distill(DISTILL, bench.setting), BitrajOptions())
    stub = Stub()
    distilled = stub.export(stub.setup(start_of(bench), context), context)
    return replace(distilled, recipe=OWN, **changes)
