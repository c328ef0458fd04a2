"""Seconds and memory of filters and deduplication on made columns of a million rows and more, each in its own process.

    python benchmarks/filtering.py --rows 100000 1000000 --work work
    python benchmarks/filtering.py --rows 10000000 --work work   # other sizes keep what the file has

What is measured is the work of the library between reading and choosing: conditions on captions (words, characters, and
equal captions), and detectors of duplicates on hashes, sketches and features that lie on disk, mapped. A tenth of the
rows are near copies of others. ``own`` is the largest memory of the process that is not pages of files, Python and
torch included; seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from vldistill.config import SelectConfig
from vldistill.selection.condition import Condition
from vldistill.selection.duplicate import KEPT, first_of_equal
from vldistill.selection.duplicates.caption import caption_keys
from vldistill.selection.duplicates.embedding import Rows
from vldistill.selection.duplicates.near import Thumbnails, near_hashes
from vldistill.selection.duplicates.semantic import near_in_clusters
from vldistill.selection.filter import FILTERS
from vldistill.storage.files import read_json, write_json
from vldistill.workbench.run_folder import environment

OUT = Path(__file__).resolve().parent.parent / "docs/results/filtering.json"
LIMIT_BYTES = 8 * 10**9
WIDTH = 128  # of the made features
COPIES = 0.1
BLOCK = 65_536
WORDS = np.array(["a", "the", "red", "small", "old", "dog", "cat", "child", "street", "house", "tree", "boat", "runs"])


def make(folder: Path, rows: int) -> None:
    """Captions (a line each), digests, sketches and features of ``rows`` rows; a tenth lean to an earlier row."""
    arrays = {
        "digests": np.lib.format.open_memmap(folder / "digests.npy", "w+", np.uint8, (rows, 32)),
        "hashes": np.lib.format.open_memmap(folder / "hashes.npy", "w+", np.uint8, (rows, 16)),
        "thumbnails": np.lib.format.open_memmap(folder / "thumbnails.npy", "w+", np.uint8, (rows, 256)),
        "features": np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (rows, WIDTH)),
    }
    with (folder / "captions.txt").open("w") as captions:
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            draw = np.random.default_rng([3, first])
            hashes = draw.integers(0, 256, (count, 16), np.uint8)
            thumbnails = draw.integers(0, 256, (count, 256), np.uint8)
            features = draw.standard_normal((count, WIDTH), np.float32)
            copies = np.arange(count - int(COPIES * count), count)
            sources = draw.integers(0, count - len(copies), len(copies))
            hashes[copies] = hashes[sources]
            hashes[copies, draw.integers(0, 16, len(copies))] ^= 1
            thumbnails[copies] = thumbnails[sources] ^ 1
            features[copies] = features[sources] + 0.05 * features[copies]
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            digests = np.frombuffer(b"".join(sha256(row).digest() for row in hashes), np.uint8).reshape(-1, 32)
            for name, part in (
                ("digests", digests), ("hashes", hashes), ("thumbnails", thumbnails), ("features", features)
            ):  # fmt: skip
                arrays[name][first : first + count] = part
            chosen = WORDS[draw.integers(0, len(WORDS), (count, 9))]
            captions.writelines(" ".join(row[: 1 + at % 9]) + "\n" for at, row in enumerate(chosen))


class Lines:
    """The lines of a file, read when they are gone through."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        with self.path.open() as handle:
            yield from (line.rstrip("\n") for line in handle)


def filters(folder: Path, rows: int) -> int:
    """The conditions of DataComp's basic filter on captions."""
    material: Any = SimpleNamespace(pairs=SimpleNamespace(captions=Lines(folder / "captions.txt", rows)))
    kept = np.ones(rows, bool)
    for text in ("words>=3", "characters>=6"):
        condition = Condition.parse(text)
        kept &= condition.holds(FILTERS[condition.name].measure(material))
    return int((~kept).sum())


def captions(folder: Path, rows: int) -> int:
    return int((first_of_equal(caption_keys(Lines(folder / "captions.txt", rows))) != KEPT).sum())  # pyright: ignore


def exact(folder: Path, rows: int) -> int:
    digests = np.load(folder / "digests.npy", mmap_mode="r")
    return int((first_of_equal(np.array(digests)) != KEPT).sum())


def near(folder: Path, rows: int) -> int:
    hashes = np.array(np.load(folder / "hashes.npy", mmap_mode="r"))
    thumbnails = np.load(folder / "thumbnails.npy", mmap_mode="r")
    return int((near_hashes(hashes, Thumbnails([(thumbnails, np.arange(rows))]), 6) != KEPT).sum())


def semantic(folder: Path, rows: int) -> int:
    table = np.load(folder / "features.npy", mmap_mode="r")

    def read(index: torch.Tensor) -> torch.Tensor:
        return normalize(torch.from_numpy(table[index.numpy()].astype(np.float32)), dim=1)

    found = near_in_clusters(Rows([(read, np.arange(rows))]), 0.95, SelectConfig().cluster_sample, 0)
    return int((found != KEPT).sum())


STEPS: dict[str, Callable[[Path, int], int]] = {
    "filters": filters,
    "caption": captions,
    "exact": exact,
    "near": near,
    "semantic": semantic,
}


def own_memory() -> int:
    """Memory of this process that is not pages of files, its largest so far as far as the system says."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def measure(step: str, folder: Path, rows: int) -> dict[str, Any]:
    """One step in this process; memory is looked at every tenth of a second."""
    import threading

    torch.set_num_threads(1)
    peak, ends = [own_memory()], threading.Event()

    def watch() -> None:
        while not ends.wait(0.1):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began, cpu = time.perf_counter(), time.process_time()
    dropped = STEPS[step](folder, rows)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    ends.set()
    watcher.join()
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "own_bytes": peak[0],
        "dropped": dropped,
        "met": peak[0] < LIMIT_BYTES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--only", nargs="*", default=list(STEPS))
    parser.add_argument("--work", type=Path, help="where the made columns are written; by default a temporary folder")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--measure", nargs=3, metavar=("STEP", "FOLDER", "ROWS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        step, folder, rows = asked.measure
        print(json.dumps(measure(step, Path(folder), int(rows))))
        return
    sizes: dict[str, Any] = read_json(asked.out, "filtering")["sizes"] if asked.out.exists() else {}
    for rows in asked.rows:
        with tempfile.TemporaryDirectory(dir=asked.work) as folder:
            make(Path(folder), rows)
            for step in asked.only:
                words = [sys.executable, __file__, "--measure", step, folder, str(rows)]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
                found = sizes.setdefault(str(rows), {})[step] = json.loads(done.stdout)
                print(f"{rows:,} rows, {step}: {found}", flush=True)
                record: dict[str, Any] = {
                    "what": "filters and deduplication on made columns; CPU seconds of one thread",
                    "command": shlex.join(["python", "benchmarks/filtering.py", *sys.argv[1:]]),
                    "limit_bytes": LIMIT_BYTES,
                    "width": WIDTH,
                    "environment": environment(),
                    "sizes": sizes,
                }
                write_json(asked.out, record)


if __name__ == "__main__":
    main()
