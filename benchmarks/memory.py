"""Memory computed from shapes against memory that a process takes on a CPU, and what fits on GPUs by the former.

    python benchmarks/memory.py --out docs/results/memory.json

`measured` is the high-water mark of the resident size beside what was resident before, in a fresh process whose C
library hands freed blocks back at once, after a smaller call that loads and warms up everything. `computed` comes from
`vldistill/plan/memory.py`, which runs the same code on tensors without numbers. `fits` are computed alone. `hours` are
operations of the founding paper's Flickr30K row over assumed speeds, no measurement.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = 0.15
TEXT_WIDTH = 768  # of BERT
CHECKED = (  # work, tower, pixels, pairs, inner steps
    ("step", "mobilenetv2_100", 96, 16, 1),
    ("step", "resnet18", 96, 16, 1),
    ("gradient", "mobilenetv2_100", 64, 8, 2),
    ("gradient", "mobilenetv2_100", 64, 8, 6),
    ("gradient", "resnet18", 64, 8, 2),
    ("gradient", "vit_tiny_patch16_224", 224, 4, 2),
)
FITS = (  # tower, pixels: the founding paper's, and a small one
    ("nfnet_l0", 224),
    ("mobilenetv2_100", 224),
)
FITS_ROWS, FITS_STEPS = (8, 16), 8
GPUS = (8, 24, 80)  # GB
PAPER = {
    "tower": "nfnet_l0",
    "size": 224,
    "captions": 145_000,
    "experts": 20,
    "epochs": 10,
    "iterations": 2000,
    "syn_steps": 8,
    "pairs": 100,
}  # configs/paper/flickr30k.yaml
BACK, ADJOINT = 3, 6  # a pass there and back over one there; a step of the exact gradient over one there and back
SPEEDS = {"a GPU of 8 GB": (20, 6), "a GPU of 24 GB": (50, 20), "a GPU of 80 GB": (120, 50)}
"""TFLOP/s assumed to be reached: in bfloat16 (experts), and in TF32 (the exact gradient)."""
LEFT_FREE = 0.15  # for workspaces, fragments and CUDA's own


def student_of(tower: str, size: int) -> Any:
    """A student of setting ``full`` with random weights, and its image tower's width."""
    import torch

    from vldistill.config import ImageTowerConfig
    from vldistill.encoders.build import build_image_tower
    from vldistill.encoders.dual import DualEncoder, Head

    torch.manual_seed(0)
    image = build_image_tower(ImageTowerConfig(tower, "random", size))
    return DualEncoder(image, Head(TEXT_WIDTH, image.width), 1 / 0.07).eval()


def computed(work: str, tower: str, size: int, pairs: int, steps: int) -> dict[str, int]:
    """Bytes from shapes."""
    from vldistill.plan.memory import run_bytes, step_bytes

    shapes = (pairs, 3, size, size), (pairs, TEXT_WIDTH)
    student = student_of(tower, size)
    if work == "step":
        return {"computed": step_bytes(student, *shapes)}
    found = run_bytes(student, *shapes, steps)
    return {"computed": found.total, "activations": found.activations, "copies": found.copies}


def measured(work: str, tower: str, size: int, pairs: int, steps: int) -> dict[str, int]:
    """Bytes that this process takes."""
    import torch

    import metagrad
    from vldistill.distillation.inner_steps import inner_loss
    from vldistill.distillation.metagrad import InnerStep, hypergradient
    from vldistill.distillation.metagrad.tape import TapeStorage
    from vldistill.training.losses import infonce

    torch.set_num_threads(1)
    student = student_of(tower, size)
    start = {side: {name: p.detach() for name, p in named.items()} for side, named in student.trained().items()}
    target = {side: {name: p + 1e-3 for name, p in named.items()} for side, named in start.items()}

    def outer(reached: Any) -> Any:
        apart = [((p - target[side][n]) ** 2).sum() for side, named in reached.items() for n, p in named.items()]
        return torch.stack(apart).sum()

    def call(count: int, inner: int) -> None:
        inputs = torch.randn(count, 3, size, size), torch.randn(count, TEXT_WIDTH)
        if work == "step":
            leaves = [p for named in student.trained().values() for p in named.values()]
            torch.autograd.grad(infonce(student(*inputs)), leaves)
            return
        rows = [InnerStep(t, torch.arange(count), t) for t in range(inner)]
        rates = {side: torch.tensor(1e-3) for side in start}
        hypergradient(
            functools.partial(inner_loss, student), outer, start, dict(zip(("images", "texts"), inputs)), rates, rows,
            storage=TapeStorage(1 << 60),
        )  # fmt: skip

    call(2, 1)
    before = metagrad.settled("cpu")
    call(pairs, steps)
    return {"measured": metagrad.peak("cpu") - before}


def fits() -> list[dict[str, Any]]:
    """By tower what a gradient needs, and how many pairs a step may have on each GPU, from shapes."""
    from vldistill.plan.memory import run_bytes

    rows = []
    for tower, size in FITS:
        student = student_of(tower, size)
        few, more = (run_bytes(student, (n, 3, size, size), (n, TEXT_WIDTH), FITS_STEPS).activations for n in FITS_ROWS)
        weights = sum(4 * p.numel() for p in student.parameters())
        each = (more - few) / (FITS_ROWS[1] - FITS_ROWS[0])
        fixed = few - each * FITS_ROWS[0] + weights * (1 + FITS_STEPS)
        pairs = {f"{gpu} GB": max(int(((1 - LEFT_FREE) * 1e9 * gpu - fixed) // each), 0) for gpu in GPUS}
        found = {"tower": tower, "size": size, "steps": FITS_STEPS, "weights": weights}
        rows.append(found | {"bytes_per_pair": round(each), "fixed_bytes": round(fixed), "pairs_per_step": pairs})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def hours() -> dict[str, Any]:
    """Operations of a pass of the paper's tower, and hours of the row's stages at the assumed speeds."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    student = student_of(str(PAPER["tower"]), int(PAPER["size"])).to("meta")
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        student.image(torch.empty(1, 3, PAPER["size"], PAPER["size"], device="meta"))
    there = counted.get_total_flops()
    one = BACK * there / 1e12
    experts = int(PAPER["experts"]) * int(PAPER["epochs"]) * int(PAPER["captions"]) * one
    distill = int(PAPER["iterations"]) * int(PAPER["syn_steps"]) * int(PAPER["pairs"]) * ADJOINT * one
    found = {
        name: {"experts": round(experts / first / 3600, 1), "distill": round(distill / second / 3600, 1)}
        for name, (first, second) in SPEEDS.items()
    }
    work = {"flop_per_image_there": there, "experts_tflop": round(experts), "distill_tflop": round(distill)}
    return {"row": PAPER, **work, "assumed_tflop_per_second": SPEEDS, "hours": found}


def apart(kind: str, job: tuple[Any, ...]) -> dict[str, Any]:
    """One side of a comparison in a fresh process; a failure is recorded, not raised."""
    import metagrad

    environment = os.environ | metagrad.ENVIRONMENT | metagrad.MEMORY_ENVIRONMENT
    words = [sys.executable, __file__, "--job", json.dumps([kind, *job])]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "memory.json")
    parser.add_argument("--parts", nargs="*", default=["fits", "hours", "checked"], help="the others stay in the file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        kind, *job = json.loads(asked.job)
        print(json.dumps((computed if kind == "computed" else measured)(*job)))
        return
    from vldistill.storage.files import write_json
    from vldistill.workbench.run_folder import environment

    rows: list[dict[str, Any]] = []
    report = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    report |= {"command": "python benchmarks/memory.py --out docs/results/memory.json", "environment": environment(),
              "measured": __doc__, "target": TARGET}  # fmt: skip
    for name, find in (("fits", fits), ("hours", hours)):
        if name in asked.parts:
            report[name] = find()
            write_json(asked.out, report)
    if "checked" in asked.parts:
        report["rows"] = rows
    for job in CHECKED if "checked" in asked.parts else ():
        row: dict[str, Any] = dict(zip(("work", "tower", "size", "pairs", "steps"), job))
        row |= {**apart("computed", job), **apart("measured", job)}
        if "failed" not in row:
            row["off"] = round(row["computed"] / row["measured"] - 1, 4)
            row["met"] = abs(row["off"]) <= TARGET
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        write_json(asked.out, report)


if __name__ == "__main__":
    main()
