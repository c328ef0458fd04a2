"""Memory of `inspect` and `evaluate` on a million made captions.

    python benchmarks/load.py

A Karpathy-style json with 100,000 images of 16 px in one tar and ten captions each, 80 % of them for training, is made
in a temporary folder. Both commands run as processes of their own; their peak memory is what the system counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import environment

ROOT = Path(__file__).resolve().parent.parent
TARGET_BYTES = 4 * 10**9
KINDS = 64  # different pictures
NOUNS = ("dog", "child", "bicycle", "bird", "boat", "woman", "horse", "ball", "tree", "car", "street", "river", "beach")
VERBS = ("runs past", "looks at", "stands near", "jumps over", "waits for", "plays with", "follows", "carries")
CONFIG = """\
runtime: {threads: 1, device: cpu}
data: {source: "SOURCE", cache: "CACHE"}
encoder:
  setting: heads
  image: {name: convnet, weights: random, size: 16, options: {width: 8}}
  text: {name: hashing, width: 384}
  dim: 32
evaluate: {seeds: 1, trials: 2, max_steps: 50, generic_epochs: 5, head_rates: [0.1]}
"""


def make_source(folder: Path, images: int, each: int) -> Path:
    """The json with its tar; returns the json."""
    draw = random.Random(0)
    pictures = [picture(number) for number in range(KINDS)]
    entries = []
    with tarfile.open(folder / "images.tar", "w") as archive:
        for number in range(images):
            raw = pictures[number % KINDS]
            member = tarfile.TarInfo(f"{number:07d}.png")
            member.size = len(raw)
            archive.addfile(member, BytesIO(raw))
            split = "val" if number % 10 == 0 else "test" if number % 10 == 1 else "train"
            sentences = [{"raw": caption(draw), "sentid": number * each + i} for i in range(each)]
            entries.append({"filename": member.name, "imgid": number, "split": split, "sentences": sentences})
    path = folder / "dataset_made.json"
    path.write_text(json.dumps({"dataset": "made", "images": entries}), encoding="utf-8")
    return path


def picture(number: int) -> bytes:
    colours = bytes(random.Random(number).randrange(256) for _ in range(4 * 4 * 3))
    out = BytesIO()
    Image.frombytes("RGB", (4, 4), colours).resize((16, 16)).save(out, "PNG")
    return out.getvalue()


def caption(draw: random.Random) -> str:
    """Ten words or so, with a number, so that a million captions are a million texts."""
    first, second = draw.choice(NOUNS), draw.choice(NOUNS)
    return f"a {first} {draw.choice(VERBS)} the {second} in front of house number {draw.randrange(10**6)}"


def measured(words: list[str], log: Path) -> dict[str, Any]:
    """Run ``vldistill WORDS``: exit code, peak memory of the process and seconds."""
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "vldistill.cli", *words], stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = round(time.monotonic() - began, 1)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    row = {"exit_code": process.returncode, "peak_memory_bytes": peak, "seconds": seconds,
           "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1), "below": TARGET_BYTES,
           "met": process.returncode == 0 and peak < TARGET_BYTES}  # fmt: skip
    print(words[0], row, flush=True)
    if process.returncode:
        print(log.read_text()[-3000:])
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=10, help="captions per image")
    parser.add_argument("--targets", nargs="*", default=["random:100"], help="what is evaluated")
    parser.add_argument("--folder", type=Path, help="by default a temporary folder, deleted afterwards")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "load.json")
    asked = parser.parse_args()
    about = environment()
    place = asked.folder or Path(tempfile.mkdtemp(prefix="load-"))
    place.mkdir(parents=True, exist_ok=True)
    source = make_source(place, asked.images, asked.each)
    config = place / "config.yaml"
    config.write_text(CONFIG.replace("SOURCE", str(source)).replace("CACHE", str(place / "cache")))
    os.environ["VLDISTILL_CACHE"] = str(place / "cache")
    commands = {"inspect": ["inspect", str(source), "--json"]}
    for target in asked.targets:
        words = ["evaluate", "--config", str(config), "--run", str(place / "run"), "--set", target, "--json"]
        commands[f"evaluate --set {target}"] = words
    rows = {name: measured(words, place / "log.txt") for name, words in commands.items()}
    result = {
        "command": shlex.join(["python", "benchmarks/load.py", *sys.argv[1:]]),
        "environment": about,
        "images": asked.images,
        "captions": asked.images * asked.each,
        "json_bytes": source.stat().st_size,
        "config": CONFIG,
        "load": rows,
    }
    write_json(asked.out, result)
    if asked.folder is None:
        shutil.rmtree(place)
    return 0 if all(row["met"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
