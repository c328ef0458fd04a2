"""Kill real processes with SIGKILL at random moments, start them again, and compare what comes out.

    python benchmarks/torture.py --kills 200

A life is one run folder with a cache of its own, from nothing to a judged set: encode, experts, distill, evaluate, on
forty drawn scenes, in setting heads (from a set that is made first) or full. Its processes are killed, half of them at
any moment, half of them while they write a file, and the same command is given again until the stage is done. Then
every decoded image, feature, expert, set, iteration and recall has to be that of a life that nobody disturbed: files
to the byte.

Processes are forked from one that has imported everything, so that a start costs no seconds; nothing else is special
about them. They checkpoint after every step and every iteration: more moments to be hit in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("encode", "experts", "distill", "evaluate", "select", "curve")
SETTINGS = ("heads", "full", "vectors")  # the last: setting heads, of a source of vectors
STARTS = {
    "heads": "canonical",
    "full": "real",
    "vectors": "canonical",
}  # canonical: another set is made first, within the same stage
SET = Path("sets") / "bitraj-6-s0"
SCENES = "scenes:train=40,val=20,test=20"
CONFIG = """\
runtime: {save_seconds: 0, device: cpu, threads: 1}
data: {source: "scenes:train=40,val=20,test=20"}
encoder:
  setting: SETTING
  image: {name: convnet, weights: random, size: 16, options: {width: 8}}
  text: {name: hashing, width: 32}
  dim: 16
experts: {count: 2, epochs: 3, batch: 32, momentum: 0.5, image_rate: 0.02}
distill:
  {method: bitraj, start: START, pairs: 6, iterations: 8, validate_every: 4, checkpoint_every: 1, ema: 0.5, keep: [4]}
bitraj: {syn_steps: 2}
evaluate: {seeds: 2, trials: 2, max_steps: 8, generic_epochs: 2, head_rates: [0.1], tower_rates: [0.01]}
"""
IMPORTED = (  # ahead, what stages import when they need it
    "jsonargparse", "matplotlib.font_manager", "peft", "sklearn.feature_extraction.text", "torchvision.transforms.v2",
    "vldistill.cli", "vldistill.commands", "vldistill.evaluation.protocol", "vldistill.evaluation.tables",
    *(f"vldistill.distillation.methods.{name}" for name in ("bilevel", "bitraj", "canonical", "covmatch", "dd")),
    *(f"vldistill.distillation.methods.{name}" for name in ("kernel", "kip", "lors", "mdm", "prototypes", "ptm")),
    "vldistill.distillation.methods.repblend", "vldistill.distillation.methods.text_solve",
)  # fmt: skip
PATIENCE = 300  # seconds after which a stage hangs
KILLS_A_STAGE = 4  # at most, so that every life ends
WRITE_DELAY = 0.001  # seconds after a write began within which it is hit


@dataclass
class Toll:
    """What happened so far."""

    kills: int = 0
    lives: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    aims: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    identical: int = 0
    different: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def words(stage: str, folder: Path, setting: str) -> list[str]:
    """The command of a stage."""
    config = folder / "config.yaml"
    if not config.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = CONFIG.replace("START", STARTS[setting])
        if setting == "vectors":
            text = text.replace(SCENES, f"embeddings:{vectors(folder.parent / 'vectors')}?val=0.25&test=0.25")
        text = text.replace("SETTING", "heads" if setting == "vectors" else setting)
        config.write_text(text, encoding="utf-8")
    given = [stage, "--config", str(config), "--run", str(folder / "run"), "--quiet"]
    given += ["--data.cache", str(folder / "cache")]
    filters, detectors = "score=top90%", "semantic" if setting == "vectors" else "exact,near,semantic,caption"
    more = {
        "evaluate": ["--set", str(folder / "run" / SET)],
        "select": [
            "--method", "kmeans", "--pairs", "6", "--budgets", "3,4", "--filters", filters,
            "--deduplicate", detectors, "--weigh", "true", "--ids", "csv,wds",
        ],
        "curve": ["--budgets", "4,6", "--selectors", "random"],
    }  # fmt: skip
    return [*given, *more.get(stage, [])]


def vectors(folder: Path) -> Path:
    """Eighty pairs of vectors, the same for every life."""
    if not folder.exists():
        draw = np.random.default_rng(0)
        common = draw.normal(size=(80, 3))
        folder.mkdir(parents=True)
        for name, width in (("image", 12), ("text", 10)):
            rows = common @ draw.normal(size=(3, width)) + 0.3 * draw.normal(size=(80, width))
            np.save(folder / f"{name}.npy", rows.astype(np.float32))
    return folder


def work(given: list[str], log: str, writes: Connection) -> None:
    """In a process of its own: one command, its output in a file; ``writes`` hears of every file that is written."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.scandir" or (event == "open" and str(arguments[0]).endswith(".tmp")):
            writes.send_bytes(b"w")

    sys.addaudithook(hear)
    from vldistill.cli import main

    code = main(given)
    sys.stdout.flush()
    os._exit(code)


class Processes:
    """Forks commands from a server that has imported what they need."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        here = str(Path(__file__).parent)  # the server has to find this module
        path = os.environ.get("PYTHONPATH", "")
        if here not in path.split(os.pathsep):
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, path]))
        self.context.set_forkserver_preload(["torture", *IMPORTED])

    def run(self, given: list[str], log: Path, aim: tuple[str, float] | None = None) -> tuple[int, float, int]:
        """Run a command; its exit code (-9 where it was killed), seconds, and events around writes.

        Args:
            aim: ``("moment", s)`` kills after s seconds; ``("write", n)`` right after the n-th event around a write.
        """
        hears, tells = self.context.Pipe(duplex=False)
        process = self.context.Process(target=work, args=(given, str(log), tells))
        began = time.monotonic()
        process.start()
        tells.close()
        events, kill_at = 0, began + aim[1] if aim and aim[0] == "moment" else began + PATIENCE
        while process.is_alive():
            now = time.monotonic()
            if now >= kill_at:
                process.kill()
                break
            for ready in wait([hears, process.sentinel], kill_at - now):
                if ready is not hears:
                    continue
                try:
                    hears.recv_bytes()
                except EOFError:
                    process.join()
                    break
                events += 1
                if aim and aim[0] == "write" and events == int(aim[1]):
                    kill_at = time.monotonic() + (aim[1] % 1) * WRITE_DELAY
        process.join()
        hears.close()
        seconds = time.monotonic() - began
        if seconds > PATIENCE and aim is None:
            raise SystemExit(f"{shlex.join(given)} hangs; see {log}")
        assert process.exitcode is not None
        return process.exitcode, seconds, events


def results(folder: Path) -> dict[str, Any]:
    """Everything that has to be the same: files by their hash, figures by their value."""
    files = [*folder.glob("cache/**/*.npy"), *folder.glob("run/**/*.safetensors")]
    found: dict[str, Any] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    lines = [json.loads(line) for line in (folder / "run" / SET / "metrics.jsonl").read_text().splitlines()]
    found["iterations"] = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    evaluation = json.loads((folder / "run" / "results" / f"{SET.name}.json").read_text())
    found["recalls"] = [evaluation[recipe] for recipe in ("own", "generic")]
    left = ("*.tmp", "*.unfinished", ".lock", "checkpoint*", "*.lock")
    found["left behind"] = sorted({path.name for pattern in left for path in (folder / "run").rglob(pattern)})
    return found


def what_was_hit(folder: Path) -> str:
    """The file that a killed process was writing."""
    for path in sorted(folder.rglob(".*.tmp"), key=lambda found: found.stat().st_mtime, reverse=True):
        name = path.name.split(".")[1]
        return "".join(c for c in name if not c.isdigit()).strip("-_")
    return "between writes"


def live(
    processes: Processes, folder: Path, setting: str, draw: random.Random | None, toll: Toll, most: int,
    seconds: dict[str, float], events: dict[str, int], stages: tuple[str, ...] = STAGES,
) -> dict[str, Any]:  # fmt: skip
    """One life; without ``draw`` an undisturbed one, which fills ``seconds`` and ``events`` of every stage."""
    log = folder / "log.txt"
    for stage in stages:
        given = words(stage, folder, setting)
        kills = draw.randint(1, KILLS_A_STAGE) if draw else 0
        while True:
            aim = None
            if draw and kills and toll.kills < most:
                kind = draw.choice(["moment", "write"])
                limit = events[stage] if kind == "write" else seconds[stage]
                aim = kind, (1 if kind == "write" else 0) + draw.random() * limit
            code, took, heard = processes.run(given, log, aim)
            if code == 0:
                if not draw:
                    seconds[stage], events[stage] = took, heard
                    print(f"{setting} {stage}: {took:.1f} s, {heard} events around writes", flush=True)
                break
            if code != -9:
                toll.lost.append(f"{setting} {stage}: exit code {code}; {log.read_text()[-2000:]}")
                return {}
            assert aim is not None
            toll.kills, kills = toll.kills + 1, kills - 1
            toll.stages[f"{setting} {stage}"] += 1
            toll.aims[aim[0]] += 1
            toll.hits[what_was_hit(folder)] += 1
    return results(folder)


def torture(
    kills: int, seed: int, folder: Path, settings: tuple[str, ...] = SETTINGS, stages: tuple[str, ...] = STAGES
) -> Toll:
    """Kill ``kills`` processes in lives below ``folder``, settings in turn, and compare every life."""
    processes, toll, draw = Processes(), Toll(), random.Random(seed)
    straight: dict[str, tuple[dict[str, Any], dict[str, float], dict[str, int]]] = {}
    for setting in settings:
        seconds, events = dict[str, float](), dict[str, int]()
        found = live(processes, folder / f"straight-{setting}", setting, None, toll, 0, seconds, events, stages)
        straight[setting] = found, seconds, events
        if toll.lost:
            return toll
    while toll.kills < kills and not toll.lost:
        setting = settings[toll.lives % len(settings)]
        expected, seconds, events = straight[setting]
        place = folder / f"life-{toll.lives}"
        found = live(processes, place, setting, draw, toll, kills, seconds, events, stages)
        toll.lives += 1
        differing = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
        toll.identical += not differing
        toll.different += [f"life {toll.lives}, {setting}: {name}" for name in differing]
        if not differing:
            shutil.rmtree(place)
        print(
            f"life {toll.lives} ({setting}): {toll.kills} kills, {'differs' if differing else 'identical'}", flush=True
        )
    return toll


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where lives are; by default a temporary folder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "torture.json")
    asked = parser.parse_args()
    from vldistill.storage.files import write_json
    from vldistill.workbench.run_folder import environment

    about = environment()
    began = time.monotonic()
    place = asked.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    toll = torture(asked.kills, asked.seed, place)
    write_json(
        asked.out,
        {
            "command": shlex.join(["python", "benchmarks/torture.py", *sys.argv[1:]]),
            "environment": about,
            "seed": asked.seed,
            "kills": toll.kills,
            "kills_by_stage": dict(sorted(toll.stages.items())),
            "kills_aimed_at": dict(sorted(toll.aims.items())),
            "kills_hit": dict(toll.hits.most_common()),
            "lives": toll.lives,
            "lives_identical": toll.identical,
            "different": toll.different,
            "lost": toll.lost,
            "compared": "images, features, experts, kept and final sets (bytes); iterations and recalls (values)",
            "config": CONFIG,
            "seconds": round(time.monotonic() - began),
        },
    )
    print(f"{toll.kills} kills, {toll.identical} of {toll.lives} lives identical, {len(toll.lost)} lost; {asked.out}")
    return 1 if toll.different or toll.lost else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # as forked processes know this module
    import torture as this

    sys.exit(this.main())
