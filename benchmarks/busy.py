"""A command alone and beside a full load, with threads that spin and threads that sleep while they wait.

    python benchmarks/busy.py --out docs/results/busy.json

The load is one process a core that computes without end. Ratios are of one run: the command beside the load over the
same command alone. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vldistill.storage.files import write_json
from vldistill.workbench.run_folder import environment

SHORT = ["--distill.iterations", "10", "--evaluate.seeds", "1", "--evaluate.trials", "2", "--distill.pairs", "10"]
WAITS = {"spin": "ACTIVE", "sleep": "PASSIVE"}


def seconds(wait: str) -> float:
    """Wall seconds of a short demo whose threads wait for each other like ``wait``."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "vldistill", "demo", "--run", f"{folder}/run", *SHORT]
        own = {"OMP_WAIT_POLICY": WAITS[wait], "VLDISTILL_CACHE": f"{folder}/cache"}
        begin = time.perf_counter()
        subprocess.run(words, env={**os.environ, **own}, check=True, capture_output=True)
        return time.perf_counter() - begin


def spin() -> None:
    """Compute without end."""
    while True:
        sum(range(10_000))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    measured: dict[str, list[float]] = {f"{wait}, {load}": [] for wait in WAITS for load in ("alone", "beside")}
    for _ in range(options.repeats):
        for wait in WAITS:
            measured[f"{wait}, alone"].append(seconds(wait))
            load = [multiprocessing.Process(target=spin, daemon=True) for _ in range(cores)]
            for one in load:
                one.start()
            measured[f"{wait}, beside"].append(seconds(wait))
            for one in load:
                one.kill()
                one.join()
    median = {name: statistics.median(times) for name, times in measured.items()}
    ratios = {wait: median[f"{wait}, beside"] / median[f"{wait}, alone"] for wait in WAITS}
    result = {
        "command": f"python benchmarks/busy.py --repeats {options.repeats}",
        "environment": environment(),
        "cores": cores,
        "seconds": measured,
        "beside_over_alone": ratios,
        "sleep_over_spin_alone": median["sleep, alone"] / median["spin, alone"],
        "sleep_over_spin_beside": median["sleep, beside"] / median["spin, beside"],
    }
    print({name: value for name, value in result.items() if name != "environment"})
    if options.out:
        write_json(options.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
