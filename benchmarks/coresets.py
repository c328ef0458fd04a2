"""Time and peak memory of every selector at the size of COCO, each in a process of its own.

    python benchmarks/coresets.py                      # all of them, one after the other
    python benchmarks/coresets.py --only kcenter       # one; the others keep what the file has

113,000 images with five captions each, 512 made features per side in float16 on disk, 1,000 picks. The features lie in
2,000 loose clusters and captions lean to their image. What is measured is the choice from cached features; the warm-up
that some selectors need is a training like an expert's, is done once for all of them, and is not part of this.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import normalize

from vldistill.config import SelectConfig
from vldistill.runtime.memory import peak_memory
from vldistill.selection.features import PairFeatures
from vldistill.selection.selector import SELECTORS, Candidates
from vldistill.selection.warmup import open_rows
from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import commit

REPOSITORY = Path(__file__).resolve().parent.parent
OUT = REPOSITORY / "docs/results/select.json"
TARGET_SECONDS = 300
TARGET_BYTES = 2 * 10**9
CLUSTERS = 2_000
BLOCK = 4_096


@dataclass
class Made:
    """Candidates with features that are read from files."""

    folder: Path
    caption_image: torch.Tensor
    image_captions: list[np.ndarray]
    forgotten: torch.Tensor
    labels: np.ndarray | None = None

    @property
    def student(self) -> PairFeatures:
        """Opened anew, as a warm-up in the cache is."""
        images, texts = (open_rows(self.folder / f"{side}.npy") for side in ("images", "texts"))
        return PairFeatures(images, texts, self.caption_image)

    @property
    def towers(self) -> PairFeatures:
        """The same features: only their size matters here."""
        return self.student


def make_features(folder: Path, options: argparse.Namespace) -> None:
    """Write ``images.npy`` (N, D) and ``texts.npy`` (M, D), float16 unit rows."""
    draw = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(CLUSTERS, options.dim, generator=draw))
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.float16, (options.images, options.dim))
    texts = np.lib.format.open_memmap(
        folder / "texts.npy", "w+", np.float16, (options.images * options.each, options.dim)
    )
    noise = options.dim**-0.5
    for start in range(0, options.images, BLOCK):
        count = min(BLOCK, options.images - start)
        own = centres[torch.randint(CLUSTERS, (count,), generator=draw)]
        own = normalize(own + 1.2 * noise * torch.randn(count, options.dim, generator=draw))
        said = own.repeat_interleave(options.each, 0)
        said = normalize(said + 1.2 * noise * torch.randn(said.shape, generator=draw))
        images[start : start + count] = own.half().numpy()
        texts[start * options.each : (start + count) * options.each] = said.half().numpy()


def open_features(folder: Path, options: argparse.Namespace) -> Made:
    owner = torch.arange(options.images).repeat_interleave(options.each)
    forgotten = torch.randint(0, 3, (len(owner),), generator=torch.Generator().manual_seed(1))
    return Made(folder, owner, list(np.arange(len(owner)).reshape(options.images, -1)), forgotten)


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    candidates = open_features(folder, options)
    before, wall, cpu = own_peak(), time.perf_counter(), time.process_time()
    rows = SELECTORS.find(name).choose(cast(Candidates, candidates), options.pairs, 0, SelectConfig())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = own_peak()
    distinct = len(set(candidates.caption_image[rows].tolist()))
    assert distinct == options.pairs, f"{name}: {distinct} distinct images"
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_memory_bytes": peak,
        "peak_memory_before_bytes": before,
        "threads": options.threads,
        "load_average": round(os.getloadavg()[0], 2),
        "met": wall < TARGET_SECONDS and peak < TARGET_BYTES,
        "command": "python benchmarks/coresets.py " + " ".join(sys.argv[1 : sys.argv.index("--measure")]),
        "commit": commit(),
    }


def own_peak() -> int:
    """Peak memory of this program alone: what getrusage says begins with the size of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory()
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(SELECTORS))
    parser.add_argument("--images", type=int, default=113_000)
    parser.add_argument("--each", type=int, default=5, help="captions per image")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--measure", nargs=2, metavar=("SELECTOR", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]), options)))
        return
    rows = json.loads(options.out.read_text())["selectors"] if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        make_features(Path(folder), options)
        for name in options.only:
            words = [sys.executable, __file__, *sys.argv[1:], "--measure", name, folder]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            rows[name] = json.loads(done.stdout)
            print(f"{name}: {rows[name]['seconds']} s, {rows[name]['peak_memory_bytes'] / 1e9:.2f} GB", flush=True)
            write_json(options.out, describe(options) | {"selectors": dict(sorted(rows.items()))})


def describe(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "what": "choosing pairs from cached features",
        "images": options.images,
        "captions": options.images * options.each,
        "dim": options.dim,
        "pairs": options.pairs,
        "ground_set": SelectConfig().ground_set,
        "cluster_sample": SelectConfig().cluster_sample,
        "targets": {"seconds": TARGET_SECONDS, "peak_memory_bytes": TARGET_BYTES},
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    main()
