"""Which parts of a run may compute in bfloat16, float16 or TF32, judged on val against the spread of seeds.

    python benchmarks/precision.py --out docs/results/precision.json

One part at a time computes in a format, everything else in float32, on the first --images training photos of Flickr8k
and half as many of val, five captions each, with both towers frozen (`configs/flickr8k_bilevel_100.yaml`, images of
--size pixels):

- `features`: both frozen towers encode train and val; students train on all captions of these features;
- `students`: students train on random real pairs;
- `experts`: experts are trained, then `bitraj` matches them and its set trains students;
- `hypergradient bitraj`, `hypergradient bilevel`: every pass of the outer iterations, there, back and back again;
- `hypergradient full`: the gradient alone, through 4 inner steps of a trained MobileNetV2, against that in float32
  (cosine, relative error); `float32, 22 bits` drops the last bit of every factor: what rounding of any kind does.

Formats. `bfloat16` is what the package does, autocast on the CPU: products read and write bfloat16, weights, losses,
norms and sums stay float32. `float16` and `tf32` round the inputs of every product (matrix products and
convolutions, of backward passes too) to that format; sums stay float32; products of `float16` are rounded as well,
with float16's range: what overflows is infinite, what underflows is zero, so that a need for loss scaling shows.
`rounded bfloat16` does the same with bfloat16, where autocast cannot be (the second backward).

A part stays within the spread if the mean over the seeds moves by no more than the standard deviation of the seeds
in float32. Students and experts of seed i are the same in all formats, so that differences are of pairs of runs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vldistill.config import Config, expand
from vldistill.distillation.inner_steps import inner_loss
from vldistill.distillation.metagrad import InnerStep, hypergradient
from vldistill.distillation.method import METHODS, Context, TrainedMethod
from vldistill.distillation.outer_optimiser import OuterOptimiser
from vldistill.distillation.start import starting_pairs
from vldistill.errors import VldistillError
from vldistill.evaluation.students import score_student, train_student
from vldistill.evaluation.subjects import subject
from vldistill.experts.record import record_experts
from vldistill.options.resolve import resolve
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.runtime.micro_batches import FLOAT32, ComputeOptions
from vldistill.runtime.threads import set_threads
from vldistill.storage.files import write_json
from vldistill.training.losses import infonce
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import environment

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/flickr8k_bilevel_100.yaml"
PRODUCTS = {
    torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default,
    torch.ops.aten.addmm_.default, torch.ops.aten.baddbmm.default, torch.ops.aten.mv.default,
    torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default,
    torch.ops.aten.linear.default, torch.ops.aten.matmul.default,
}  # fmt: skip
FACTORS = {torch.ops.aten.addmm.default: (1, 2), torch.ops.aten.addmm_.default: (1, 2),
           torch.ops.aten.baddbmm.default: (1, 2), torch.ops.aten.convolution.default: (0, 1),
           torch.ops.aten.convolution_backward.default: (0, 1, 2), torch.ops.aten.linear.default: (0, 1)}  # fmt: skip
"""Which arguments are factors, where a product also adds something."""
PAIRS, REAL, STEPS = 8, 32, 4  # of the gradient through a trained tower
TF32_BITS = 13  # of a float32's 23 bits of mantissa, those that TF32 leaves out


def without_bits(count: int, tensor: torch.Tensor) -> torch.Tensor:
    """Float32 numbers without the last ``count`` bits of their mantissa, to the nearest, ties to even."""
    bits = tensor.contiguous().view(torch.int32)
    odd = (bits >> count) & 1
    rounded = (bits + (1 << (count - 1)) - 1 + odd) & -(1 << count)
    return torch.where(tensor.isfinite(), rounded.view(torch.float32), tensor)


def through(dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
    """Float32 numbers rounded to another format."""
    return tensor.to(dtype).to(torch.float32)


ROUNDINGS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], bool]] = {
    "tf32": (functools.partial(without_bits, TF32_BITS), False),
    "float32, 22 bits": (functools.partial(without_bits, 1), False),
    "float16": (functools.partial(through, torch.float16), True),
    "rounded bfloat16": (functools.partial(through, torch.bfloat16), True),
}
"""By format what it does to a factor, and whether the product is rounded too."""


class Rounded(TorchDispatchMode):
    """Every product reads rounded factors; backward passes pass here too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.round, self.outputs = ROUNDINGS[kind]
        self.products, self.infinite = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        self.products += 1
        factors = FACTORS.get(func, (0, 1))
        args = tuple(self._rounded(arg) if place in factors else arg for place, arg in enumerate(args))
        out = func(*args, **(kwargs or {}))
        if not self.outputs or func is torch.ops.aten.addmm_.default:  # in place: a weight, which stays float32
            return out
        if isinstance(out, torch.Tensor):
            out = self._rounded(out)
            self.infinite += int(out.isinf().any())
            return out
        return type(out)(self._rounded(part) for part in out)

    def _rounded(self, value: Any) -> Any:
        return self.round(value) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


@contextlib.contextmanager
def computing(kind: str) -> Iterator[Rounded | None]:
    """A context in which products are computed in a format."""
    if kind == "float32":
        yield None
    elif kind == "bfloat16":
        with torch.autocast("cpu", torch.bfloat16):
            yield None
    else:
        with Rounded(kind) as mode:
            yield mode


def smaller(source: Path, folder: Path, images: int) -> Path:
    """The first photos of a Karpathy-style source: ``images`` for training, half as many for val."""
    left = {"train": images, "val": images // 2, "test": 100}
    described = json.loads((source / "dataset_flickr8k.json").read_text(encoding="utf-8"))
    kept = []
    for entry in described["images"]:
        left[entry["split"]] -= 1
        kept += [entry] if left[entry["split"]] >= 0 else []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_flickr8k.json").write_text(json.dumps({**described, "images": kept}), encoding="utf-8")
    for archive in source.glob("*.tar"):
        shutil.copy(archive, folder / archive.name)
    return folder


def score(bench: Workbench, data: Any, recipe: Recipe, seed: int) -> float:
    """Mean recall on val of one student."""
    return round(score_student(bench, train_student(bench, data, recipe, seed), "val").mean_recall, 3)


def compute_of(kind: str) -> ComputeOptions:
    """The package's own options for a format; simulated ones leave them."""
    return ComputeOptions("bfloat16") if kind == "bfloat16" else FLOAT32


class Study:
    """All measurements of one configuration.

    Args:
        config: of the data and towers.
        folder: for runs and features.
        asked: numbers of seeds, epochs and iterations.
    """

    def __init__(self, config: Config, folder: Path, asked: argparse.Namespace) -> None:
        self.config, self.folder, self.asked = config, folder, asked
        self.reporter = Reporter(quiet=True)
        self.bench = open_bench(config, self.reporter)

    def features(self, kind: str, seeds: int) -> list[float]:
        """Students of all captions on features that were encoded in ``kind``; each format has its own cache."""
        bench = self.bench
        if kind != "float32":
            data = replace(self.config.data, cache=str(self.folder / f"cache-{kind.replace(' ', '-')}"))
            bench = open_bench(replace(self.config, data=data), self.reporter)
            with computing(kind):
                for split in ("train", "val"):
                    _ = [encoding.table(self.reporter) for encoding in bench.encodings(split)]
        recipe = Recipe({"image": (0.1,), "text": (0.1,)}, epochs=self.asked.full_epochs)
        return [score(bench, subject(bench, "full").draw(seed), recipe, seed) for seed in range(seeds)]

    def students(self, kind: str, seeds: int) -> list[float]:
        """Students of random real pairs, trained in ``kind`` and scored in float32."""
        drawn = subject(self.bench, f"random:{self.asked.subset}", self.config.select)
        recipe = Recipe({"image": (0.1,), "text": (0.1,)}, epochs=40)
        found = []
        for seed in range(seeds):
            with computing("float32" if kind == "bfloat16" else kind):
                self.bench.compute = compute_of(kind)
                student = train_student(self.bench, drawn.draw(seed), recipe, seed)
                self.bench.compute = FLOAT32
            found.append(round(score_student(self.bench, student, "val").mean_recall, 3))
        return found

    def experts(self, kind: str, seeds: int) -> list[float]:
        """Sets of experts that were trained in ``kind``, matched in float32."""
        return [self._matched("bitraj", seed, experts_in=kind) for seed in range(seeds)]

    def hypergradient(self, method: str, kind: str, seeds: int) -> list[float]:
        """Sets whose outer iterations were computed in ``kind``."""
        return [self._matched(method, seed, iterations_in=kind) for seed in range(seeds)]

    def _matched(self, method: str, seed: int, experts_in: str = "float32", iterations_in: str = "float32") -> float:
        """Distil learned features, and score one student of the set on val."""
        asked = self.asked
        wanted = {"count": asked.experts, "epochs": 3, "seed": 100 * seed, "snapshots": (0, 1, 2, 3)}
        config = replace(self.config, experts=replace(self.config.experts, **wanted))
        iterations = asked.bitraj_iterations if method == "bitraj" else asked.bilevel_iterations
        config = replace(config, distill=replace(
            config.distill, method=method, space="features", pairs=100, iterations=iterations, validate_every=0,
            checkpoint_every=10**6, seed=seed))  # fmt: skip
        resolved = resolve(config)
        entry, taught = METHODS.find(method), []
        if entry.needs_experts:
            self.bench.compute = compute_of(experts_in)
            with computing("float32" if experts_in == "bfloat16" else experts_in):
                folder = self.folder / f"experts-{seed}-{experts_in}".replace(" ", "_")
                taught = list(record_experts(self.bench, config.experts, folder))
            self.bench.compute = FLOAT32
        built = entry.build()
        context = Context(self.bench, resolved.distill, resolved.options, taught)
        state = built.setup(starting_pairs(built, context, config.select), context.at(0))
        optimiser = OuterOptimiser(state, resolved.distill)
        for iteration in range(iterations):
            at = context.at(iteration)
            with computing(iterations_in):
                assert isinstance(built, TrainedMethod)
                update = built.step(state, at)
            optimiser.apply(update.gradients, at.progress, 1.0)
        drawn = subject(self.bench, built.export(state, context), self.config.select)
        assert drawn.own is not None
        return score(self.bench, drawn.draw(seed), drawn.own, seed)


def judged(exact: Sequence[float], found: Sequence[float]) -> dict[str, Any]:
    """How far the mean over seeds moved, beside the spread of the seeds in float32."""
    spread = statistics.stdev(exact)
    moved = statistics.mean(found) - statistics.mean(exact)
    apart = [b - a for a, b in zip(exact, found)]
    return {
        "mean": round(statistics.mean(found), 3),
        "moved": round(moved, 3),
        "spread_of_seeds": round(spread, 3),
        "largest_of_a_seed": round(max(map(abs, apart)), 3),
        "within": abs(moved) <= spread,
    }


def gradients(study: Study, kind: str) -> tuple[dict[str, torch.Tensor], int]:
    """The gradient through 4 inner steps of a trained tower, and how many products overflowed."""
    encoder = replace(study.config.encoder, setting="full")
    bench = open_bench(replace(study.config, encoder=encoder), study.reporter)
    data, student = bench.split("train").data, bench.student(0)
    own, real = torch.arange(0, 5 * PAIRS, 5), torch.arange(5 * PAIRS, 5 * (PAIRS + REAL), 5)  # five captions an image
    distilled = {"images": data.images.rows(data.caption_image[own]), "texts": data.texts.rows(own)}
    batch = data.images.rows(data.caption_image[real]), data.texts.rows(real)
    start = {side: {name: p.detach() for name, p in named.items()} for side, named in student.trained().items()}
    rates = {"image": torch.tensor(0.003), "text": torch.tensor(0.03)}  # of configs/flickr8k_full.yaml
    steps = [InnerStep(t, torch.arange(PAIRS), t) for t in range(STEPS)]
    with computing(kind) as mode:
        found = hypergradient(
            functools.partial(inner_loss, student), lambda params: infonce(student(*batch, params)),
            start, distilled, rates, steps,
        )  # fmt: skip
    return found.distilled | {f"rate of {k}": v for k, v in found.rates.items()}, mode.infinite if mode else 0


def full_gradients(study: Study, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Cosine and relative error of every gradient against float32's."""
    exact, rows = gradients(study, "float32")[0], []
    for kind in kinds:
        try:
            found, infinite = gradients(study, kind)
        except (VldistillError, RuntimeError) as error:
            rows.append({"format": kind, "failed": str(error).splitlines()[0]})
            continue
        errors = {
            name: {
                "cosine": round(float(torch.cosine_similarity(found[name].flatten(), exact[name].flatten(), 0)), 6),
                "relative_error": float(f"{float((found[name] - exact[name]).norm() / exact[name].norm()):.3g}"),
            }
            for name in exact
        }
        rows.append({"format": kind, "overflowed_products": infinite, "gradients": errors})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def parts(study: Study) -> dict[str, tuple[Callable[[str, int], list[float]], tuple[str, ...]]]:
    """By name a part's measurement, and the formats that it can compute in."""
    package, simulated = ("bfloat16", "float16", "tf32"), ("rounded bfloat16", "float16", "tf32")
    return {
        "hypergradient bitraj": (functools.partial(study.hypergradient, "bitraj"), simulated),
        "hypergradient bilevel": (functools.partial(study.hypergradient, "bilevel"), simulated),
        "experts": (study.experts, package),
        "students": (study.students, package),
        "features": (study.features, package),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="pixels of the images")
    parser.add_argument("--dim", type=int, default=128, help="width of the shared space")
    parser.add_argument("--images", type=int, default=400, help="training photos; half as many of val")
    parser.add_argument("--seeds", type=int, default=5, help="of students")
    parser.add_argument("--sets", type=int, default=3, help="distillations, each with a seed and experts of its own")
    parser.add_argument("--full-epochs", type=int, default=4)
    parser.add_argument("--subset", type=int, default=200, help="random pairs of students")
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--bitraj-iterations", type=int, default=50)
    parser.add_argument("--bilevel-iterations", type=int, default=20)
    parser.add_argument("--parts", nargs="*", help="by default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", help="where decoded images and features of float32 are")
    parser.add_argument("--folder", type=Path, help="for runs, kept; by default a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "precision.json")
    asked = parser.parse_args()
    if min(asked.seeds, asked.sets) < 2:
        parser.error(f"--seeds {asked.seeds}, --sets {asked.sets}: expected 2 or more, whose spread is told.")
    set_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        study_config = parse("distill", ["--config", CONFIG, "--run", str(folder / "run")])[0]
        source = smaller(Path(expand(study_config.data.source)), folder / "source", asked.images)
        words = [
            "--config",
            CONFIG,
            "--data.source",
            str(source),
            "--encoder.image.size",
            str(asked.size),
            "--encoder.dim",
            str(asked.dim),
        ]
        words += [
            "--run",
            str(folder / "run"),
            "--data.cache",
            asked.cache or str(folder / "cache"),
            "--runtime.threads",
            str(asked.threads),
        ]
        study = Study(parse("distill", [*words, "--runtime.device", "cpu"])[0], folder, asked)
        shown = {name: value for name, value in vars(asked).items() if name not in ("cache", "folder", "out", "parts")}
        rows: list[dict[str, Any]] = []
        report = {
            "command": "python benchmarks/precision.py --out docs/results/precision.json",
            "environment": environment(),
            "asked": shown,
            "measured": __doc__,
            "rows": rows,
        }
        for name, (measure, formats) in parts(study).items():
            exact: list[float] = []
            for kind in ("float32", *formats) if not asked.parts or name in asked.parts else ():
                rows.append(row(name, kind, exact, functools.partial(measure, kind, count_of(name, asked))))
                exact = exact or rows[-1].get("val_mean_recall", [])
                print(rows[-1], file=sys.stderr, flush=True)
                write_json(asked.out, report)
        if not asked.parts or "hypergradient full" in asked.parts:
            kinds = ["float32, 22 bits", "rounded bfloat16", "float16", "tf32"]
            report["gradients_through_a_trained_tower"] = full_gradients(study, kinds)
        write_json(asked.out, report)


def count_of(name: str, asked: argparse.Namespace) -> int:
    """Seeds of a part."""
    return asked.seeds if name in ("features", "students") else asked.sets


def row(name: str, kind: str, exact: Sequence[float], measure: Callable[[], list[float]]) -> dict[str, Any]:
    """One part in one format; a failure is recorded, not raised."""
    began = time.perf_counter()
    found: dict[str, Any] = {"part": name, "format": kind}
    try:
        scores = measure()
        found |= {"val_mean_recall": scores, **judged(exact or scores, scores)}
    except (VldistillError, RuntimeError) as error:
        found["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return found | {"seconds": round(time.perf_counter() - began, 1)}


if __name__ == "__main__":
    main()
