"""Seconds and memory of every stage on made vectors, 512 numbers of float16 on both sides, each in its own process.

    python benchmarks/vectors_scale.py --pairs 100000 1000000 --work work
    python benchmarks/vectors_scale.py --pairs 10000000 --work work   # 21 GB of disk; other sizes stay in the file

A source is a folder as clip-retrieval writes it: shards of 100,000 rows with a table each. Val and test are as many as
the reader makes, 10,000 at most, and the row ``full`` of a curve is 100,000 pairs. Vectors are read where they lie: no
second copy is made. ``own`` is memory that is not pages of files. CPU seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scale import measured
from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import environment

OUT = Path(__file__).resolve().parent.parent / "docs/results/vectors_scale.json"
LIMIT_BYTES = 8 * 10**9
SHARD, WIDTH, COMMON = 100_000, 512, 32


def make(folder: Path, pairs: int) -> None:
    """The made source: both sides are a map of common numbers, with noise, scaled to length 1."""
    import pyarrow
    from pyarrow.parquet import write_table

    draw = np.random.default_rng(0)
    maps = {side: draw.normal(size=(COMMON, WIDTH)).astype(np.float32) for side in ("img", "text")}
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for first in range(0, pairs, SHARD):
        number, count = first // SHARD, min(SHARD, pairs - first)
        own = np.random.default_rng([1, number])
        common = own.normal(size=(count, COMMON)).astype(np.float32)
        for side, mapped in maps.items():
            rows = common @ mapped + 4 * own.normal(size=(count, WIDTH)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            np.save(folder / f"{side}_emb/{side}_emb_{number}.npy", rows.astype(np.float16))
        keys = [f"{number:05d}{row:04d}" for row in range(count)]
        table = {"image_path": keys, "caption": [f"what is said of number {first + row}" for row in range(count)]}
        write_table(pyarrow.table(table), folder / f"metadata/metadata_{number}.parquet")


def configured(work: Path, pairs: int, method: str = "bilevel") -> Any:
    """The configuration of all stages."""
    from vldistill.config import Config, DataConfig, DistillConfig, EncoderConfig, EvaluateConfig, SelectConfig
    from vldistill.distillation.methods.bilevel import BilevelOptions
    from vldistill.options.vectors import on_vectors

    config = Config(
        data=DataConfig(source=f"embeddings:{work / f'source-{pairs}'}", cache=str(work / f"cache-{pairs}")),
        encoder=EncoderConfig(dim=128),
        distill=DistillConfig(method=method, pairs=100, iterations=20, validate_every=0),
        evaluate=EvaluateConfig(seeds=1, trials=1, max_steps=200),
        select=SelectConfig(method="kmeans", pairs=100),
        methods={"bilevel": BilevelOptions(steps=10)},
    )
    return on_vectors(config)


def inspect(work: Path, pairs: int) -> None:
    """Every vector looked at, and the checks of the data, as ``vldistill inspect``."""
    from vldistill.api.inspection import describe
    from vldistill.config.plain import number, section
    from vldistill.runtime.log import Reporter

    found = describe(configured(work, pairs).data.source, Reporter(quiet=True))
    splits = section(found, "splits")
    assert sum(number(section(splits, split)["images"]) for split in splits) == pairs
    assert not found["broken"]


def _run(work: Path, pairs: int, method: str = "bilevel") -> tuple[Any, Any, Any]:
    from vldistill.runtime.log import Reporter
    from vldistill.workbench.run_folder import Run

    return Run(work / f"run-{pairs}"), configured(work, pairs, method), Reporter(quiet=True)


def kmeans(work: Path, pairs: int) -> None:
    """The 100 pairs nearest to the centres of k-means."""
    from vldistill.stages.select import select

    select(*_run(work, pairs))


def canonical(work: Path, pairs: int) -> None:
    """100 pairs in closed form."""
    from vldistill.stages.distill import distill

    distill(*_run(work, pairs, "canonical"))


def bilevel(work: Path, pairs: int) -> None:
    """100 pairs, 20 iterations of 10 inner steps."""
    from vldistill.stages.distill import distill

    distill(*_run(work, pairs))


def curve(work: Path, pairs: int) -> None:
    """100 random pairs, the sets so far, and the row ``full``; one student each, one trial, 200 steps at most."""
    from vldistill.stages.curve import CurveRequest
    from vldistill.stages.curve import curve as draw

    print(draw(*_run(work, pairs), CurveRequest((100,), ("random",))), file=sys.stderr)


STAGES: dict[str, Callable[[Path, int], None]] = {
    "inspect": inspect, "kmeans": kmeans, "canonical": canonical, "bilevel": bilevel, "curve": curve,
}  # fmt: skip


def size(work: Path, pairs: int, on: dict[str, Any]) -> dict[str, Any]:
    """Every stage at one size."""
    for kind in ("run", "cache"):
        shutil.rmtree(work / f"{kind}-{pairs}", ignore_errors=True)
    source = work / f"source-{pairs}"
    if not source.exists():
        shutil.rmtree(work / f"making-{pairs}", ignore_errors=True)
        make(work / f"making-{pairs}", pairs)
        (work / f"making-{pairs}").rename(source)
    stages = {}
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--pairs", str(pairs), "--work", str(work)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(f"{stage} at {pairs:,}: {done.stderr}")
        stages[stage] = found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{pairs:>10,} {stage:<10}{found['cpu_seconds']:9.1f} s{found['own_bytes'] / 1e9:7.2f} GB own", flush=True
        )
    return {
        "pairs": pairs,
        "stages": stages,
        "source_bytes": _bytes(source),
        "cache_bytes": _bytes(work / f"cache-{pairs}"),
        "within_limit": all(found["own_bytes"] <= LIMIT_BYTES for found in stages.values()),
        "environment": on,
        "machine": platform.processor() or platform.machine(),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000], help="sizes")
    parser.add_argument("--work", type=Path, default=None, help="where sources go; default a temporary folder")
    parser.add_argument("--out", type=Path, default=OUT, help="the json file")
    parser.add_argument("--stage", choices=STAGES, help="run one stage in this process, and print its figures")
    asked = parser.parse_args()
    if asked.stage:
        with contextlib.redirect_stdout(sys.stderr):
            found = measured(STAGES[asked.stage], asked.work, asked.pairs[0])
        print(json.dumps(found))
        return
    with contextlib.ExitStack() as stack:
        work = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        on = {name: value for name, value in environment().items() if name != "command"}
        for pairs in asked.pairs:
            row = size(work.absolute(), pairs, on)
            kept = json.loads(asked.out.read_text())["vectors"] if asked.out.exists() else []
            rows = sorted([old for old in kept if old["pairs"] != pairs] + [row], key=lambda one: one["pairs"])
            command = f"python benchmarks/vectors_scale.py --pairs {' '.join(str(one['pairs']) for one in rows)}"
            write_json(asked.out, {"command": command, "limit_bytes": LIMIT_BYTES, "threads": 1, "vectors": rows})


if __name__ == "__main__":
    main()
