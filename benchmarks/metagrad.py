"""Time and activation memory of the gradient estimators, each measurement in a fresh process.

    python benchmarks/metagrad.py --out docs/results/metagrad.json
    python benchmarks/metagrad.py --model nfnet_l0 --estimators adjoint,unrolled --steps 8 --repeats 1

One measurement is one call of `hypergradient`: towers with random weights, BatchNorm in eval mode, a text
head, the published contrastive loss on all pairs in every inner step, and the matching loss to a random
nearby target. Before it, a call with two inner steps warms up the process (kernels, thread pools).

Seconds and memory come from different processes, because a C library that hands freed memory back at once
gives honest peaks and slow allocations: the processes that measure seconds run with the defaults of the
system, those that measure memory with `MEMORY_ENVIRONMENT`. All run with OMP_WAIT_POLICY=PASSIVE, so that
threads that wait for each other leave the processor to whatever else runs. Compared estimators alternate,
and ratios are medians over the repeats of the ratio within one repeat, so that other work on the machine
hits both alike. `cpu_seconds` (user and system time of the call) suffer less from it than `seconds` (wall).

Activation memory = peak - base - parameter copies. Base is the resident size after building everything, the
warm-up call and a trim; peak is the high-water mark of the resident size, reset after base was read (on a
GPU: the allocator's own counters). Parameter copies are theta_1 .. theta_T (`tape_bytes` without theta_0,
which is the caller's), the same for every estimator.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MODELS = {  # name: (pixels, pairs) as in the targets
    "nfnet_l0": (128, 8),
    "mobilenetv2_100": (96, 16),
}
TEXT_DIM = 384
RATE = 0.01
LOGIT_SCALE = 1 / 0.07
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
# Blocks above 1 MiB are mapped one by one and unmapped when freed: the resident size follows the live bytes.
MEMORY_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "1048576",
    "MALLOC_ARENA_MAX": "1",
}
TARGETS = {
    "time_adjoint_over_unrolled": ("nfnet_l0", 8, 0.85),
    "activations_adjoint_over_unrolled": ("nfnet_l0", 8, 0.35),
}
FLAT = 1.15  # activations of adjoint at T = 16 over those at T = 4


@dataclass(frozen=True)
class Job:
    """One measurement: ``measure`` is `seconds` or `memory`."""

    model: str
    estimator: str
    steps: int
    measure: str
    size: int
    pairs: int
    dtype: str
    device: str
    threads: int


def measure(job: Job) -> dict[str, Any]:
    """Run one job in this process."""
    import torch

    from vldistill.distillation.metagrad.backward_sweep import hypergradient
    from vldistill.distillation.metagrad.tape import tape_bytes

    torch.set_num_threads(job.threads)
    inner_loss, outer_loss, start, distilled = problem(job)
    rates = {group: torch.tensor(RATE, device=job.device) for group in start}

    def call(count: int) -> Any:
        return hypergradient(
            inner_loss, outer_loss, start, distilled, rates, inner_steps(job, count), estimator=job.estimator
        )

    call(2)
    base = settled(job.device)
    began, cpu_began = time.perf_counter(), time.process_time()
    result = call(job.steps)
    value = result.value.item()  # waits for the device
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    high = peak(job.device)
    one = tape_bytes(start, 0)
    copies = one * job.steps
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "value": value,
        "peak_bytes": high,
        "base_bytes": base,
        "parameter_bytes": one,
        "copies_bytes": copies,
        "activation_bytes": high - base - copies,
    }


def problem(job: Job) -> tuple[Any, Any, Any, Any]:
    """Inner loss, outer loss, start and distilled set for one model."""
    import timm
    import torch
    from torch import nn
    from torch.func import functional_call
    from torch.nn import functional as F

    from vldistill.distillation.metagrad.matching import matching_loss

    torch.manual_seed(0)
    dtype = getattr(torch, job.dtype)
    tower = timm.create_model(job.model, pretrained=False, num_classes=0).eval().to(job.device, dtype)
    dim = int(tower.num_features)  # pyright: ignore[reportArgumentType]
    head = nn.Sequential(nn.Linear(TEXT_DIM, dim), nn.GELU(), nn.Linear(dim, dim), nn.LayerNorm(dim))
    head = head.eval().to(job.device, dtype)
    start = {
        group: {name: p.detach() for name, p in module.named_parameters()}
        for group, module in (("image", tower), ("text", head))
    }
    target = {
        group: {name: p + 1e-3 * torch.randn_like(p) for name, p in tensors.items()} for group, tensors in start.items()
    }
    distilled = {
        "images": torch.randn(job.pairs, 3, job.size, job.size, device=job.device, dtype=dtype),
        "texts": torch.randn(job.pairs, TEXT_DIM, device=job.device, dtype=dtype),
    }

    def inner_loss(params: Any, s: Any, step: Any) -> torch.Tensor:
        image = functional_call(tower, params["image"], (s["images"][step.index],))
        text = functional_call(head, params["text"], (s["texts"][step.index],))
        logits = LOGIT_SCALE * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
        match = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2

    def outer_loss(params: Any) -> torch.Tensor:
        return matching_loss(params, start, target).value

    return inner_loss, outer_loss, start, distilled


def inner_steps(job: Job, count: int) -> list[Any]:
    """``count`` full-batch steps, each in its own order."""
    import torch

    from vldistill.distillation.metagrad.inner import InnerStep

    orders = [torch.randperm(job.pairs, generator=torch.Generator().manual_seed(t)) for t in range(count)]
    return [InnerStep(t, order.to(job.device), seed=t) for t, order in enumerate(orders)]


def settled(device: str) -> int:
    """Free what is unused, restart the peak counter, and return the bytes in use."""
    import torch

    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    return resident("VmRSS")


def peak(device: str) -> int:
    """The most bytes in use since `settled`."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.device(device).type == "cuda" else resident("VmHWM")


def resident(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}: memory can be measured on Linux only.")


def in_fresh_process(job: Job) -> dict[str, Any]:
    """`measure` in a new Python; a failure is recorded, not raised."""
    environment = os.environ | ENVIRONMENT
    if job.measure == "memory":
        environment |= MEMORY_ENVIRONMENT
    command = [sys.executable, __file__, "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": f"exit {done.returncode}: {reason}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def skipped(job: Job, unrolled_limit: int) -> str | None:
    """Why a job is not run, if it is not."""
    if job.estimator == "unrolled" and job.steps > unrolled_limit:
        return f"unrolled above T = {unrolled_limit} needs more memory than this machine has (linear in T)"
    if job.estimator == "difference" and job.model.startswith("mobilenetv2"):
        return "difference refuses towers with ReLU6"
    return None


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every measurement: one row per model, T and estimator, with the repeats of each number as lists."""
    rows = []
    for model in args.model.split(","):
        size, pairs = MODELS.get(model, (224, 8))
        for steps in [int(value) for value in args.steps.split(",")]:
            group = {
                estimator: {
                    "model": model,
                    "steps": steps,
                    "estimator": estimator,
                    "seconds": [],
                    "cpu_seconds": [],
                    "activation_bytes": [],
                }
                for estimator in args.estimators.split(",")
            }
            rows.extend(group.values())
            for repeat in range(args.repeats):
                for estimator, row in group.items():
                    for kind in args.measure.split(","):
                        if kind == "memory" and repeat:
                            continue
                        job = Job(
                            model, estimator, steps, kind, args.size or size, args.pairs or pairs,
                            args.dtype, args.device, args.threads,
                        )  # fmt: skip
                        reason = skipped(job, args.unrolled_limit)
                        note(row, job, {"failed": reason} if reason else in_fresh_process(job))
    return rows


def note(row: dict[str, Any], job: Job, found: dict[str, Any]) -> None:
    """Add what one job found to its row."""
    row.update(size=job.size, pairs=job.pairs)
    if "failed" in found:
        row["left_out"] = found["failed"]
    elif job.measure == "seconds":
        row["seconds"].append(round(found["seconds"], 3))
        row["cpu_seconds"].append(round(found["cpu_seconds"], 3))
        row["value"] = found["value"]
    else:
        row["activation_bytes"].append(found["activation_bytes"])
        row |= {key: found[key] for key in ("peak_bytes", "base_bytes", "parameter_bytes", "copies_bytes")}
    print(f"{job.model} T={job.steps} {job.estimator} {job.measure}: {found}", file=sys.stderr, flush=True)


def ratio(
    rows: list[dict[str, Any]], key: str, above: tuple[str, int, str], below: tuple[str, int, str]
) -> float | None:
    """Median over the repeats of ``key`` of one row over that of another; rows are (model, steps, estimator)."""
    table = {(row["model"], row["steps"], row["estimator"]): row for row in rows}
    if above not in table or below not in table:
        return None
    pairs = list(zip(table[above][key], table[below][key], strict=False))
    return round(statistics.median(a / b for a, b in pairs), 4) if pairs else None


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Every comparison that the rows allow."""
    found: dict[str, float | None] = {}
    for model, steps in sorted({(row["model"], row["steps"]) for row in rows}):
        for estimator in sorted({row["estimator"] for row in rows} - {"unrolled"}):
            for key, short in (("seconds", "time"), ("cpu_seconds", "cpu_time"), ("activation_bytes", "activations")):
                name = f"{short}_{estimator}_over_unrolled/{model}/T{steps}"
                found[name] = ratio(rows, key, (model, steps, estimator), (model, steps, "unrolled"))
    for model in sorted({row["model"] for row in rows}):
        for estimator in sorted({row["estimator"] for row in rows}):
            name = f"activations_{estimator}_T16_over_T4/{model}"
            found[name] = ratio(rows, "activation_bytes", (model, 16, estimator), (model, 4, estimator))
    return {name: value for name, value in found.items() if value is not None}


def targets(found: dict[str, float]) -> dict[str, Any]:
    """Each target, what was measured, and whether it was met; `None` where it was not measured."""
    wanted = {f"{name}/{model}/T{steps}": limit for name, (model, steps, limit) in TARGETS.items()}
    wanted |= {f"activations_adjoint_T16_over_T4/{model}": FLAT for model in MODELS}
    return {
        name: {"at_most": limit, "measured": found.get(name), "met": found[name] <= limit if name in found else None}
        for name, limit in wanted.items()
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=",".join(MODELS), help="timm names, comma-separated")
    parser.add_argument("--estimators", default="unrolled,adjoint,tesla,difference")
    parser.add_argument("--steps", default="4,8,16", help="numbers of inner steps, comma-separated")
    parser.add_argument("--repeats", type=int, default=3, help="of the seconds; memory is measured once")
    parser.add_argument("--measure", default="memory,seconds")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0 takes the model's own of the targets")
    parser.add_argument("--pairs", type=int, default=0, help="0 takes the model's own of the targets")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--unrolled-limit", type=int, default=8, help="`unrolled` is left out above this T")
    parser.add_argument("--out", type=Path, help="a json file; without it the result is printed")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.job:
        print(json.dumps(measure(Job(**json.loads(args.job)))))
        return
    import torch

    from vldistill.workbench.run_folder import commit

    load = os.getloadavg()
    rows = run_all(args)
    found = ratios(rows)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "dtype": args.dtype,
        "threads": args.threads,
        "cpus": os.cpu_count(),
        "measured": __doc__,
        "environment": ENVIRONMENT,
        "memory_environment": MEMORY_ENVIRONMENT,
        "load_before": load,
        "targets": targets(found),
        "ratios": found,
        "rows": rows,
    }
    text = json.dumps(report, indent=1) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
