"""What setting ``heads`` costs beyond the arithmetic that no implementation can leave out.

    python benchmarks/heads.py --out docs/results/heads.json

Three measurements, the first and the last on made features of Flickr8k's shape (6,000 images of 1,280 numbers, 30,000
captions of 384), each in one process, repeats alternating so that other work on the machine hits both alike:

``experts``: one epoch of the training that records an expert, against the bare matrix products of its steps (forward,
and backward to weights and hidden layers), written into memory that is used again.

``inner loop``: one outer iteration of ``bitraj`` on pixels, whose tower is encoded once, against one forward and
backward pass of that tower over the distilled images plus the same inner steps on features; and against the naive way,
which encodes the images in every inner step and keeps everything. The tower of the comparison is the network as it was
published; ours passes it with its normalisations folded into its convolutions, which is also measured alone.

``spans``: forty inner steps with momentum and their gradient, without and with the first layers of the heads written
out, for as many distilled pairs as ``SPANNED``.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vldistill.config import DistillConfig, ImageTowerConfig
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.inner_steps import head_spans, inner_loss, inner_steps
from vldistill.distillation.metagrad.backward_sweep import hypergradient
from vldistill.distillation.metagrad.inner import InnerStep
from vldistill.distillation.metagrad.input_span import Span
from vldistill.distillation.metagrad.matching import matching_loss
from vldistill.distillation.method import Context, State
from vldistill.encoders.build import build_image_tower
from vldistill.encoders.dual import DualEncoder, Head
from vldistill.encoders.features import Standardisation
from vldistill.encoders.folding import folded
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.memory import keep_freed_memory
from vldistill.runtime.randomness import generator, seeded
from vldistill.storage.files import write_json
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.losses import infonce
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.run_folder import environment

IMAGES, CAPTIONS, IMAGE_WIDTH, TEXT_WIDTH, DIM, BATCH = 6_000, 30_000, 1_280, 384, 512, 128
EXPERTS, EPOCHS = 20, 10
TARGET = 1.3
SPANNED, SPANNED_STEPS = (20, 100, 500), 40


def student(seed: int) -> DualEncoder:
    """Two heads in the shapes of Flickr8k through MobileNetV2 and MiniLM."""
    with seeded(torch.device("cpu"), seed, "student"):
        return DualEncoder(Head(IMAGE_WIDTH, DIM, 0.0), Head(TEXT_WIDTH, DIM, 0.0), 1 / 0.07).eval()


def expert_epoch() -> Callable[[], None]:
    """One epoch of an expert's training."""
    draw = generator(0, "features")
    data = TrainingData(
        TensorInputs(torch.randn(IMAGES, IMAGE_WIDTH, generator=draw)),
        TensorInputs(torch.randn(CAPTIONS, TEXT_WIDTH, generator=draw)),
        torch.arange(CAPTIONS) // (CAPTIONS // IMAGES),
    )
    recipe = Recipe(epochs=1, batch=BATCH, momentum=0.0, weight_decay=0.0, schedule="constant", dropout=0.0)
    encoder = student(0)
    return lambda: fit(encoder, data, recipe, seed=0, device=torch.device("cpu"))


def bare_epoch() -> Callable[[], None]:
    """The matrix products of one epoch, and nothing else."""
    shapes = [(IMAGE_WIDTH, DIM), (DIM, DIM), (TEXT_WIDTH, DIM), (DIM, DIM)]
    first = (True, False, True, False)
    layers = []
    for (width, out), is_first in zip(shapes, first):
        x, w, g = torch.randn(BATCH, width), torch.randn(out, width), torch.randn(BATCH, out)
        layers.append((x, w, g, torch.empty(BATCH, out), torch.empty(out, width), torch.empty(BATCH, width), is_first))
    left, right, logits = torch.randn(BATCH, DIM), torch.randn(BATCH, DIM), torch.empty(BATCH, BATCH)
    back = torch.empty(BATCH, DIM)
    steps = CAPTIONS // BATCH + (CAPTIONS % BATCH > 1)

    def run() -> None:
        for _ in range(steps):
            for x, w, g, y, to_w, to_x, is_first in layers:
                torch.mm(x, w.T, out=y)
                torch.mm(g.T, x, out=to_w)
                if not is_first:
                    torch.mm(g, w, out=to_x)
            torch.mm(left, right.T, out=logits)
            torch.mm(logits, right, out=back)
            torch.mm(logits.T, left, out=back)

    return run


class Bench:
    """What `encode_learned` needs of a workbench: a tower and a standardisation."""

    setting = "heads"

    def __init__(self, model: str, size: int) -> None:
        self.image_tower = build_image_tower(ImageTowerConfig(name=model, weights="random", size=size))
        self.image_tower.requires_grad_(False)
        self.encoding_tower = folded(self.image_tower)
        width = self.image_tower.width
        self.image_standardisation = Standardisation(torch.zeros(width), torch.ones(width))

    def image_inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Features of ``images``."""
        return self.image_standardisation(self.encoding_tower(images.to(memory_format=torch.channels_last)))


def inner_loops(model: str, size: int, pairs: int, steps: int) -> dict[str, Callable[[], Any]]:
    """One outer iteration as this library does it, its unavoidable parts, and the naive way."""
    bench = Bench(model, size)
    width = bench.image_tower.width
    with seeded(torch.device("cpu"), 0, "student"):
        heads = DualEncoder(Head(width, DIM, 0.0), Head(TEXT_WIDTH, DIM, 0.0), 1 / 0.07).eval()
    start = {side: {n: p.detach() for n, p in named.items()} for side, named in heads.trained().items()}
    draw = generator(0, "target")
    target = {
        side: {n: p + 1e-2 * torch.randn(p.shape, generator=draw) for n, p in named.items()}
        for side, named in start.items()
    }
    context: Any = Context(bench, resolve_distill(DistillConfig(method="bitraj", pairs=pairs), bench.setting), None)  # pyright: ignore[reportArgumentType]
    images, texts = torch.randn(pairs, 3, size, size, generator=draw), torch.randn(pairs, TEXT_WIDTH, generator=draw)
    state = State({"images": images, "texts": texts})
    rates = {side: torch.tensor(0.1) for side in start}
    rows = inner_steps(context, steps, 0)

    def outer(params: Any) -> torch.Tensor:
        return matching_loss(params, start, target).value

    def on_features(features: torch.Tensor, spanned: bool) -> Any:
        distilled = {"images": features, "texts": texts}
        spans = head_spans(heads, pairs) if spanned else ()
        return hypergradient(
            functools.partial(inner_loss, heads, spans=spans), outer, start, distilled, rates, rows, spans=spans
        )

    def ours() -> torch.Tensor:
        encoded = encode_learned(context, state.variables["images"])
        return encoded.pull(on_features(encoded.inputs, spanned=True).distilled["images"])

    features = bench.image_inputs(images).detach()

    def through(tower: Callable[[torch.Tensor], torch.Tensor]) -> None:
        leaf = images.clone().requires_grad_(True)
        torch.autograd.grad(tower(leaf.to(memory_format=torch.channels_last)).sum(), leaf)

    def naive() -> Any:
        return hypergradient(
            lambda params, distilled, step: inner_loss(
                heads, params, {**distilled, "images": bench.image_inputs(distilled["images"])}, step
            ),
            outer, start, {"images": images, "texts": texts}, rates, rows,
        )  # fmt: skip

    return {
        "ours": ours,
        "tower": lambda: through(bench.image_tower),
        "folded tower": lambda: through(bench.encoding_tower),
        "steps": lambda: on_features(features, spanned=False),
        "naive": naive,
    }


def spanned_steps(pairs: int) -> dict[str, Callable[[], Any]]:
    """The inner steps of ``bilevel`` on ``pairs`` pairs, all in every step, with one batch of real ones after them."""
    heads, draw = student(0), generator(0, "pairs")
    start = {side: {n: p.detach() for n, p in named.items()} for side, named in heads.trained().items()}
    widths = {"images": IMAGE_WIDTH, "texts": TEXT_WIDTH}
    distilled = {name: torch.randn(pairs, width, generator=draw) for name, width in widths.items()}
    real = [torch.randn(BATCH, width, generator=draw) for width in widths.values()]
    rows = [InnerStep(t, torch.arange(pairs), t) for t in range(SPANNED_STEPS)]
    rates = {side: torch.tensor(0.1) for side in start}

    def steps(spans: tuple[Span, ...]) -> Any:
        return hypergradient(
            functools.partial(inner_loss, heads, spans=spans), lambda params: infonce(heads(*real, params)),
            start, distilled, rates, rows, momentum=0.9, weight_decay=5e-4, spans=spans,
        )  # fmt: skip

    return {"written": lambda: steps(()), "spanned": lambda: steps(head_spans(heads, pairs))}


def alternating(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Wall and processor seconds of each work, ``repeats`` times in turn, after one call to warm up."""
    for work in works.values():
        work()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            found[name].append({"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu})
    return found


def median_ratio(found: dict[str, list[dict[str, float]]], above: str, below: tuple[str, ...], key: str) -> float:
    """Median over the repeats of one work's ``key`` over the sum of others'."""
    rows = zip(found[above], *(found[name] for name in below))
    return statistics.median(top[key] / sum(other[key] for other in rest) for top, *rest in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8, help="inner steps")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    experts = alternating({"fit": expert_epoch(), "products": bare_epoch()}, asked.repeats)
    loops = alternating(inner_loops(asked.model, asked.size, asked.pairs, asked.steps), asked.repeats)
    spans = {pairs: alternating(spanned_steps(pairs), asked.repeats) for pairs in SPANNED}
    keys = ("seconds", "cpu_seconds")
    ratios = {
        "expert_over_products": {key: median_ratio(experts, "fit", ("products",), key) for key in keys},
        "iteration_over_tower_and_steps": {key: median_ratio(loops, "ours", ("tower", "steps"), key) for key in keys},
        "folded_over_tower": {key: median_ratio(loops, "folded tower", ("tower",), key) for key in keys},
        "naive_over_ours": {key: median_ratio(loops, "naive", ("ours",), key) for key in keys},
        "spanned_over_written": {
            str(pairs): {key: median_ratio(found, "spanned", ("written",), key) for key in keys}
            for pairs, found in spans.items()
        },
    }
    epoch = statistics.median(row["seconds"] for row in experts["fit"])
    report = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "threads": asked.threads,
        "numpy": np.__version__,
        "shapes": {"images": IMAGES, "captions": CAPTIONS, "widths": [IMAGE_WIDTH, TEXT_WIDTH, DIM], "batch": BATCH},
        "tower": {"name": asked.model, "size": asked.size, "pairs": asked.pairs, "steps": asked.steps},
        "spanned_steps": SPANNED_STEPS,
        "ratios": ratios,
        "minutes_of_20_experts_of_10_epochs": epoch * EXPERTS * EPOCHS / 60,
        "targets": {
            name: {"at_most": TARGET, "measured": ratios[name]["seconds"], "met": ratios[name]["seconds"] <= TARGET}
            for name in ("expert_over_products", "iteration_over_tower_and_steps")
        },
        "runs": {
            "experts": experts,
            "inner loop": loops,
            "spans": {str(pairs): found for pairs, found in spans.items()},
        },
    }
    write_json(asked.out, report)
    print(asked.out)


if __name__ == "__main__":
    main()
