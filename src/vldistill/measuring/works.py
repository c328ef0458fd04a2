"""The works that ``vldistill bench`` measures, each made when its turn comes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from vldistill.config import (
    Config,
    DataConfig,
    DistillConfig,
    EncoderConfig,
    EvaluateConfig,
    ExpertsConfig,
    ImageTowerConfig,
    RuntimeConfig,
    SelectConfig,
    TextTowerConfig,
)
from vldistill.distillation.inner_steps import inner_loss
from vldistill.distillation.metagrad import InnerStep, hypergradient
from vldistill.distillation.method import METHODS, Context, TrainedMethod
from vldistill.distillation.start import starting_pairs
from vldistill.errors import ConfigError
from vldistill.evaluation.retrieval import retrieval_ranks
from vldistill.experts.record import record_experts
from vldistill.options.resolve import resolve
from vldistill.runtime.devices import choose_device
from vldistill.runtime.log import Reporter
from vldistill.runtime.randomness import generator
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.losses import infonce
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench

TEXT_WIDTH, DIM = 384, 512
EXPERT_BATCH, TOWER_BATCH, FROZEN_BATCH = 128, 32, 64
INNER_PAIRS = 8  # of the gradient through a trained tower
INNER_STEPS = (2, 4, 8)
TEST_IMAGES, TEST_CAPTIONS = 5_000, 25_000  # COCO's
COPIED = 64 * 2**20  # bytes
SIDE = {"cpu": 1024}  # of the square product; elsewhere larger ones are needed to fill a device
WIDE_SIDE = 8192


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Args:
        image: name of the image tower, with random weights.
        sizes: pixels.
        pairs: distilled pairs of the methods.
        methods: their names; empty is all.
        runtime: device, threads, precision, memory.
        folder: for decoded scenes and experts, deleted by whoever made it.
    """

    image: str
    sizes: tuple[int, ...]
    pairs: int
    methods: tuple[str, ...]
    runtime: RuntimeConfig
    folder: str


@dataclass(frozen=True)
class Work:
    """One work.

    Args:
        call: does it once.
        count: what one call does, in ``unit``.
        unit: ``images``, ``steps``, ``iterations``, ``GB``, ...
    """

    call: Callable[[], object]
    count: float
    unit: str


@dataclass(frozen=True)
class Row:
    """A row of the table: what it is called, and how its work is made."""

    name: str
    make: Callable[[], Work]


def rows_of(asked: Asked) -> list[Row]:
    """Every row, those that others are compared with first."""
    rows = [Row(f"product, {kind}", functools.partial(_square, asked, kind)) for kind in ("float32", "bfloat16")]
    rows += [Row(name, functools.partial(_copy, asked, name)) for name in ("to device, pinned", "to device", "back")]
    rows += [Row("wait for one number", functools.partial(_wait, asked))]
    rows += [Row("metric, 5,000 x 25,000", functools.partial(_metric, asked))]
    rows += [Row("expert step, heads", functools.partial(_heads_step, asked))]
    for size in asked.sizes:
        rows += [Row(f"frozen features, {size} px", functools.partial(_features, asked, size))]
        rows += [Row(f"expert step, tower, {size} px", functools.partial(_tower_step, asked, size))]
    for size in asked.sizes:
        trained = [name for name, entry in METHODS.items() if entry.trained]
        rows += [
            Row(f"iteration, {name}, {size} px", functools.partial(_iteration, asked, name, size))
            for name in asked.methods or trained
        ]
        rows += [
            Row(f"gradient, T = {steps}, {size} px", functools.partial(_gradient, asked, steps, size))
            for steps in INNER_STEPS
        ]
    return rows


@functools.cache
def bench_of(asked: Asked, size: int, setting: str) -> tuple[Config, Workbench]:
    """A workbench on a few drawn scenes of ``size`` pixels."""
    config = Config(
        asked.runtime,
        DataConfig(source="scenes:train=64,val=16,test=16", cache=str(Path(asked.folder) / "cache")),
        EncoderConfig(
            setting=setting,
            dim=DIM,
            image=ImageTowerConfig(asked.image, "random", size),
            text=TextTowerConfig("hashing", width=TEXT_WIDTH),
        ),
        ExpertsConfig(count=2, epochs=10, steps_per_epoch=1, batch=16, augment=False),
        DistillConfig(pairs=asked.pairs, iterations=100),
        EvaluateConfig(),
        SelectConfig(),
        {name: entry.options() for name, entry in METHODS.items()},
    )
    return config, open_bench(config, Reporter(quiet=True))


def _device(asked: Asked) -> torch.device:
    return choose_device(asked.runtime)


def _random(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=generator("bench", *shape)).to(device)


def _square(asked: Asked, kind: str) -> Work:
    device = _device(asked)
    if kind == "bfloat16" and device.type == "cpu":
        raise ConfigError("for GPUs: a CPU computes in float32 here")
    side = SIDE.get(device.type, WIDE_SIDE)
    square = torch.randn(side, side, device=device, dtype=getattr(torch, kind))
    return Work(lambda: square @ square, 2e-12 * side**3, "TFLOP")


def _copy(asked: Asked, name: str) -> Work:
    device = _device(asked)
    pinned = name.endswith("pinned")
    if device.type == "cpu":
        raise ConfigError("for GPUs: a CPU reads where the data are")
    here = torch.empty(COPIED, dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(COPIED, dtype=torch.uint8, device=device)
    source, target = (there, here) if name == "back" else (here, there)
    return Work(lambda: target.copy_(source, non_blocking=pinned), COPIED / 1e9, "GB")


def _wait(asked: Asked) -> Work:
    number = torch.zeros((), device=_device(asked))
    return Work(lambda: number.add_(1).item(), 1, "waits")


def _metric(asked: Asked) -> Work:
    device = _device(asked)
    images, captions = (F.normalize(_random((count, DIM), device)) for count in (TEST_IMAGES, TEST_CAPTIONS))
    owner = torch.arange(TEST_CAPTIONS) // (TEST_CAPTIONS // TEST_IMAGES)
    return Work(lambda: retrieval_ranks(images, captions, owner), 1, "passes")


def _heads_step(asked: Asked) -> Work:
    """Ten steps of an expert on features, as setting ``heads`` trains them."""
    _, bench = bench_of(asked, asked.sizes[0], "heads")
    rows = 10 * EXPERT_BATCH
    images, texts = (
        TensorInputs(_random((rows, width), bench.device)) for width in (bench.image_tower.width, TEXT_WIDTH)
    )
    return _training(bench, TrainingData(images, texts, torch.arange(rows)), EXPERT_BATCH, 10)


def _tower_step(asked: Asked, size: int) -> Work:
    """Two steps of an expert that trains its tower."""
    _, bench = bench_of(asked, size, "full")
    rows = 2 * TOWER_BATCH
    shapes = (rows, 3, size, size), (rows, TEXT_WIDTH)
    images, texts = (TensorInputs(_random(shape, bench.device)) for shape in shapes)
    return _training(bench, TrainingData(images, texts, torch.arange(rows)), TOWER_BATCH, 2)


def _training(bench: Workbench, data: TrainingData, batch: int, steps: int) -> Work:
    student = bench.student(0)
    rates = {"image": (1e-4,), "text": (1e-4,)}
    recipe = Recipe(rates, epochs=1, batch=batch, momentum=0, weight_decay=0, schedule="constant", dropout=0)
    seeds = itertools.count()

    def call() -> None:
        fit(student, data, recipe, seed=next(seeds), device=bench.device, compute=bench.compute)

    return Work(call, steps, "steps")


def _features(asked: Asked, size: int) -> Work:
    """Images on the CPU to features, as real ones are encoded once."""
    _, bench = bench_of(asked, size, "heads")
    images = _random((FROZEN_BATCH, 3, size, size), torch.device("cpu"))
    images = images.to(memory_format=torch.channels_last)
    tower = bench.encoding_tower

    @torch.no_grad()
    def call() -> torch.Tensor:
        return tower(images.to(bench.device)).float().cpu()

    return Work(call, FROZEN_BATCH, "images")


def _iteration(asked: Asked, name: str, size: int) -> Work:
    """An outer iteration of a method by its own options, without the optimiser's step."""
    entry = METHODS.find(name)
    setting = "heads" if "heads" in entry.settings else sorted(entry.settings)[0]
    if setting == "both":
        raise ConfigError("trains both towers; hashed words have none")
    given, bench = bench_of(asked, size, setting)
    config = resolve(dataclasses.replace(given, distill=dataclasses.replace(given.distill, method=name)))
    experts = []
    if entry.needs_experts:
        folder = Path(asked.folder) / f"experts-{size}"
        experts = list(record_experts(bench, config.experts, folder))
    method = entry.build()
    context = Context(bench, config.distill, config.options, experts)
    method.check(context)
    if not isinstance(method, TrainedMethod) or not entry.trains(config.distill.space):
        raise ConfigError("trains nothing here")
    state = method.setup(starting_pairs(method, context, config.select), context.at(0))
    iterations = itertools.count()
    return Work(lambda: method.step(state, context.at(next(iterations) % 100)), 1, "iterations")


def _gradient(asked: Asked, steps: int, size: int) -> Work:
    """The exact gradient through inner steps of a trained tower, to a loss on as many other pairs."""
    _, bench = bench_of(asked, size, "full")
    student = bench.student(0)
    start = {side: {name: p.detach() for name, p in named.items()} for side, named in student.trained().items()}
    shapes = {"images": (INNER_PAIRS, 3, size, size), "texts": (INNER_PAIRS, TEXT_WIDTH)}
    distilled = {name: _random(shape, bench.device) for name, shape in shapes.items()}
    real = [_random(shape, bench.device) for shape in shapes.values()]
    inner = [InnerStep(t, torch.arange(INNER_PAIRS), t) for t in range(steps)]
    rates = {side: torch.tensor(1e-3) for side in start}

    def outer(params: dict[str, dict[str, torch.Tensor]]) -> torch.Tensor:
        return infonce(student(*real, params))

    def call() -> object:
        return hypergradient(functools.partial(inner_loss, student), outer, start, distilled, rates, inner)

    return Work(call, 1, "gradients")


def names(asked: Asked) -> Iterator[str]:
    """The rows' names."""
    yield from (row.name for row in rows_of(asked))
