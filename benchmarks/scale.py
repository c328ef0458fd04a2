"""Seconds and memory of every stage on made sources of 10,000 to a million pairs, each stage in a process of its own.

    python benchmarks/scale.py --images 10000 100000 --work work
    python benchmarks/scale.py --images 1000000 --work work   # other sizes keep what the file has

A source is WebDataset shards of 32 px JPEGs with one caption each, a thousandth of them val and another test. It is
read (what every command does first), inspected, decoded, encoded by a small ``convnet`` and ``hashing``, and then used
by one expert of one epoch (setting heads), 20 iterations of ``bilevel``, and a herding coreset after a warm-up of one
epoch. What a stage needs of those before is in the cache by then, as with the command line. ``resident`` is the largest
resident memory of the process, ``own`` the part that is not pages of files, which the system takes back when it needs
them. CPU seconds are those of all threads; seconds are meant for a machine that does nothing else.
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
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import environment

OUT = Path(__file__).resolve().parent.parent / "docs/results/scale.json"
LIMIT_BYTES = 8 * 10**9
SHARD = 10_000
SIDE = 32
COLOURS = (
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink",
    "brown", "grey", "black", "white", "gold", "navy", "teal", "olive",
)  # fmt: skip
LAYOUTS = ("beside", "above", "inside", "around")
PALETTE = np.random.default_rng(0).integers(0, 256, (16, 3))


def make(folder: Path, images: int) -> None:
    """The made source: shards of JPEGs of two colours in a layout, with noise, and a caption that says so."""
    from PIL import Image

    folder.mkdir(parents=True)
    for first in range(0, images, SHARD):
        count = min(SHARD, images - first)
        draw = np.random.default_rng([1, first])
        numbers = np.stack([draw.integers(0, high, count) for high in (16, 16, 4)], axis=1)
        with tarfile.open(folder / f"made-{first // SHARD:05d}.tar", "w") as archive:
            for row, (one, two, layout) in enumerate(numbers.tolist()):
                pixels = np.empty((SIDE, SIDE, 3), np.int64)
                pixels[:] = PALETTE[one]
                half = SIDE // 2
                where = (np.s_[:, half:], np.s_[half:], np.s_[8:24, 8:24], np.s_[4:28, 4:28])[layout]
                pixels[where] = PALETTE[two]
                pixels += draw.integers(-20, 21, pixels.shape)
                buffer = BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
                text = f"a {COLOURS[one]} field {LAYOUTS[layout]} a {COLOURS[two]} one, picture {first + row}"
                for extension, raw in (("jpg", buffer.getvalue()), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{first + row:09d}.{extension}")
                    member.size = len(raw)
                    archive.addfile(member, BytesIO(raw))


def configured(work: Path, images: int) -> Any:
    """The configuration of all stages."""
    from vldistill.config import (
        Config,
        DataConfig,
        DistillConfig,
        EncoderConfig,
        ExpertsConfig,
        ImageTowerConfig,
        SelectConfig,
        TextTowerConfig,
    )
    from vldistill.distillation.methods.bilevel import BilevelOptions

    return Config(
        data=DataConfig(
            source=f"{work / f'source-{images}'}?val=0.001&test=0.001", cache=str(work / f"cache-{images}")
        ),
        encoder=EncoderConfig(
            image=ImageTowerConfig(name="convnet", weights="random", size=SIDE, options={"width": 8}),
            text=TextTowerConfig(name="hashing", width=128),
            dim=64,
        ),
        experts=ExpertsConfig(count=1, epochs=1, batch=256, augment=False),
        distill=DistillConfig(method="bilevel", pairs=100, iterations=20, validate_every=0),
        select=SelectConfig(method="herding", pairs=100, warmup_epochs=1),
        methods={"bilevel": BilevelOptions(steps=10)},
    )


def read(work: Path, images: int) -> None:
    """Names, places and captions, and the fingerprints."""
    from vldistill.data.load import read_collection

    collection = read_collection(configured(work, images).data.source)
    splits = [collection.pairs(split) for split in ("train", "val", "test")]
    assert sum(pairs.count_captions for pairs in splits) == images
    assert len({pairs.fingerprint for pairs in splits}) == len(splits)


def inspect(work: Path, images: int) -> None:
    """Every image opened once, as ``vldistill inspect``."""
    from vldistill.commands.inspect import describe
    from vldistill.config.plain import number, section
    from vldistill.runtime.log import Reporter

    found = describe(configured(work, images).data.source, Reporter(quiet=True), str(work / "sheet.png"))
    splits = section(found, "splits")
    assert sum(number(section(splits, split)["images"]) for split in splits) == images
    assert not found["broken"]


def cache(work: Path, images: int) -> None:
    """Images decoded into the cache."""
    bench = _bench(work, images)
    for split in ("train", "val", "test"):
        bench.pixels(split)


def features(work: Path, images: int) -> None:
    """Features of images and captions, with what is fitted to them."""
    bench = _bench(work, images)
    for split in ("train", "val", "test"):
        bench.split(split)


def experts(work: Path, images: int) -> None:
    """One expert of one epoch."""
    from vldistill.stages import experts

    experts.experts(*_run(work, images))


def bilevel(work: Path, images: int) -> None:
    """Twenty iterations."""
    from vldistill.stages.distill import distill

    distill(*_run(work, images))


def coreset(work: Path, images: int) -> None:
    """A warm-up of one epoch and 100 pairs by herding."""
    from vldistill.stages.select import select

    select(*_run(work, images))


def _run(work: Path, images: int) -> tuple[Any, Any, Any]:
    from vldistill.runtime.log import Reporter
    from vldistill.workbench.run_folder import Run

    return Run(work / f"run-{images}"), configured(work, images), Reporter(quiet=True)


def _bench(work: Path, images: int) -> Any:
    from vldistill.runtime.log import Reporter
    from vldistill.workbench.opening import open_bench

    return open_bench(configured(work, images), Reporter(quiet=True))


STAGES: dict[str, Callable[[Path, int], None]] = {
    "read": read,
    "inspect": inspect,
    "cache": cache,
    "features": features,
    "experts": experts,
    "bilevel": bilevel,
    "coreset": coreset,
}


@contextlib.contextmanager
def own_memory() -> Iterator[list[int]]:
    """The largest anonymous memory so far, bytes, in a list of one number; 0 where the system does not tell."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], _anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _anonymous() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def measured(stage: Callable[[Path, int], None], work: Path, count: int) -> dict[str, Any]:
    """One stage in this process, which has done nothing else."""
    import torch

    from vldistill.runtime.memory import peak_memory

    torch.set_num_threads(1)
    began, cpu = time.monotonic(), time.process_time()
    with own_memory() as own:
        stage(work, count)
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "resident_bytes": peak_memory(),
        "own_bytes": own[0],
    }


def size(work: Path, images: int, on: dict[str, Any]) -> dict[str, Any]:
    """Every stage at one size."""
    for kind in ("run", "cache"):
        shutil.rmtree(work / f"{kind}-{images}", ignore_errors=True)
    if not (work / f"source-{images}").exists():
        began = time.monotonic()
        shutil.rmtree(work / f"making-{images}", ignore_errors=True)
        make(work / f"making-{images}", images)
        (work / f"making-{images}").rename(work / f"source-{images}")
        print(f"{images:,} pairs made in {time.monotonic() - began:.0f} s", flush=True)
    stages = {}
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--images", str(images), "--work", str(work)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(f"{stage} at {images:,}: {done.stderr}")
        stages[stage] = json.loads(done.stdout.splitlines()[-1])
        told = stages[stage]
        print(
            f"{images:>9,} {stage:<9}{told['seconds']:9.1f} s{told['resident_bytes'] / 1e9:7.2f} GB resident"
            f"{told['own_bytes'] / 1e9:7.2f} GB own",
            flush=True,
        )
    return {
        "images": images,
        "stages": stages,
        "source_bytes": _bytes(work / f"source-{images}"),
        "cache_bytes": _bytes(work / f"cache-{images}"),
        "within_limit": all(told["resident_bytes"] <= LIMIT_BYTES for told in stages.values()),
        "environment": on,
        "machine": platform.processor() or platform.machine(),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000], help="sizes, in images")
    parser.add_argument(
        "--work", type=Path, default=None, help="where sources and caches go; default a temporary folder"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the json file")
    parser.add_argument("--stage", choices=STAGES, help="run one stage in this process, and print its figures")
    asked = parser.parse_args()
    if asked.stage:
        print(json.dumps(measured(STAGES[asked.stage], asked.work, asked.images[0])))
        return
    with contextlib.ExitStack() as stack:
        work = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        # asked once, before results are written: they are part of the checkout
        on = {name: value for name, value in environment().items() if name != "command"}
        for images in asked.images:
            row = size(work.absolute(), images, on)
            kept = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
            rows = sorted([old for old in kept if old["images"] != images] + [row], key=lambda one: one["images"])
            command = f"python benchmarks/scale.py --images {' '.join(str(one['images']) for one in rows)}"
            write_json(asked.out, {"command": command, "limit_bytes": LIMIT_BYTES, "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
