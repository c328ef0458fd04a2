"""What is to be measured where a GPU is present for the first time, in ten minutes at most, as one JSON file.

    python benchmarks/first_gpu.py --out docs/results/first_gpu.json

In this order, each part with a limit of its own, so that one that hangs costs the others nothing; what comes first
matters most, and the file is written after every part:

1. `device`: the tests of `tests/contract/test_devices.py` on the GPU, with tolerance;
2. `stages`: experts, distill, select, evaluate on drawn scenes, in setting `full`, then in `heads`;
3. `processes`: distill with two draws on as many GPUs as there are (at most two), by torchrun, through NCCL;
4. `gradient`: the table of `benchmarks/metagrad.py` at 224 px;
5. `bench`: `vldistill bench`, in what is left of the time.

Without a GPU it says so and ends with 2; `--device cpu` tries the script itself.
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
from pathlib import Path
from typing import Any

import torch

from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import environment

ROOT = Path(__file__).resolve().parent.parent
CLI = (sys.executable, "-m", "vldistill.cli")
SCENES = (
    *("--data.source", "scenes:train=200,val=40,test=40", "--encoder.text.name", "hashing"),
    *("--encoder.image.name", "convnet", "--encoder.image.weights", "random", "--encoder.image.size", "32"),
    *("--experts.count", "2", "--experts.epochs", "3", "--experts.augment", "false", "--quiet"),
)
SHORT = ("--pairs", "8", "--iterations", "5", "--distill.validate_every", "5")
JUDGED = ("--evaluate.trials", "2", "--evaluate.max_steps", "20", "--seeds", "2")
SHARES = {"device": 0.2, "stages": 0.3, "processes": 0.3, "gradient": 0.4}
"""Of the time that is left when a part begins: what it may take at most."""
LINES = 15  # of what a command said last that are kept


def told(words: list[str], seconds: float, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command: its exit code, seconds, and what it said last; killed after ``seconds``."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        try:
            environ = os.environ | (env or {})
            limit = max(seconds, 1)
            done = subprocess.run(words, stdout=said, stderr=said, timeout=limit, cwd=ROOT, env=environ, check=False)
            code: int | str = done.returncode
        except subprocess.TimeoutExpired:
            code = "time over"
        said.seek(0)
        last = said.read().splitlines()[-LINES:]
    shown = {"command": shlex.join(words), "code": code, "seconds": round(time.monotonic() - began, 1), "said": last}
    print(f"{shown['command'][:100]}: {code}, {shown['seconds']} s", file=sys.stderr, flush=True)
    return shown


def device_tests(device: str, seconds: float) -> dict[str, Any]:
    """The contract of every method and stage on a real device."""
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-q", "-x", "-m", "device"]
    return told(
        [*words, "tests/contract/test_devices.py"], seconds, {"VLDISTILL_TEST_DEVICE": device.partition(":")[0]}
    )


def stages(device: str, folder: Path, seconds: float) -> dict[str, Any]:
    """The smallest job of every stage, with a trained tower and with frozen ones."""
    found: dict[str, Any] = {}
    until = time.monotonic() + seconds
    for setting in ("full", "heads"):
        run = ["--run", str(folder / setting)]
        begin = [*SCENES, "--encoder.setting", setting, "--runtime.device", device]
        for name, words in {
            "experts": ["experts", *run, *begin],
            "distill": ["distill", *run, "--method", "bitraj", "--bitraj.syn_steps", "2", *SHORT, "--quiet"],
            "select": ["select", *run, "--method", "kmeans", "--pairs", "8", "--quiet"],
            "evaluate": ["evaluate", *run, "--set", "bitraj-8-s0", *JUDGED, "--quiet", "--json"],
        }.items():
            found[f"{name}, {setting}"] = told([*CLI, *words], until - time.monotonic())
    return found


def processes(device: str, folder: Path, seconds: float) -> dict[str, Any]:
    """One distillation, of draws that two processes share where there are two GPUs."""
    count = min(torch.cuda.device_count(), 2) if device.startswith("cuda") else 2
    words = ["distill", "--run", str(folder / "together"), *SCENES, "--runtime.device", device.partition(":")[0]]
    words += ["--method", "bilevel", "--bilevel.steps", "5", "--distill.draws", "2", *SHORT]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    return {"processes": count, **told([*launch, "-m", "vldistill.cli", "--", *words], seconds)}


def gradient(device: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Time and memory of the exact gradient over T, beside autograd through everything."""
    out = folder / "metagrad.json"
    words = [sys.executable, str(ROOT / "benchmarks" / "metagrad.py"), "--size", "224", "--repeats", "1"]
    words += ["--estimators", "unrolled,adjoint", "--device", device, "--threads", "1", "--out", str(out)]
    done = told(words, seconds)
    return {**done, "result": json.loads(out.read_text(encoding="utf-8")) if out.exists() else None}


def bench(device: str, folder: Path, seconds: float) -> dict[str, Any]:
    """``vldistill bench`` in the seconds that are left."""
    out = folder / "bench.json"
    done = told(
        [*CLI, "bench", "--minutes", f"{seconds / 60:.2f}", "--device", device, "--out", str(out)], seconds + 30
    )
    return {**done, "result": json.loads(out.read_text(encoding="utf-8")) if out.exists() else None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--parts", nargs="*", default=["device", "stages", "processes", "gradient", "bench"])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "first_gpu.json")
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no CUDA device here; --device cpu tries the script itself.", file=sys.stderr)
        return 2
    until = time.monotonic() + 60 * asked.minutes
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/first_gpu.py", *sys.argv[1:]]),
        "environment": environment(),
        "device": asked.device,
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="first-gpu-") as temporary:
        folder = Path(temporary)
        os.environ["VLDISTILL_CACHE"] = str(folder / "cache")
        for part in asked.parts:
            left = until - time.monotonic()
            seconds = SHARES.get(part, 1.0) * left
            if part == "device":
                report[part] = device_tests(asked.device, seconds)
            else:
                measure = {"stages": stages, "processes": processes, "gradient": gradient, "bench": bench}[part]
                report[part] = measure(asked.device, folder, seconds)
            write_json(asked.out, report)
    print(asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
