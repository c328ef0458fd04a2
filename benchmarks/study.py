"""Run one configuration from experts to table, and keep the numbers: python benchmarks/study.py --help.

    python benchmarks/study.py --config configs/flickr8k_heads.yaml --run runs/f8k \\
        --methods bitraj --pairs 100 --also random:100 random:1000 full --out docs/results/flickr8k_heads.json

Options of `vldistill distill` may follow (--distill.minutes 20). What the run folder holds already is not done again,
so a stopped study goes on. The JSON has the command, the commit, the seeds, and per row mean and standard deviation
over students, on test, and the val figures of every choice made, and what distilling and experts took.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from vldistill.cli import main as vldistill
from vldistill.storage.files import CHECKSUM, write_json
from vldistill.workbench.run_folder import environment


def stage(*arguments: str) -> None:
    code = vldistill(list(arguments))
    if code:
        sys.exit(code)


def evaluated(run: Path, target: str, seeds: int) -> dict[str, Any]:
    """The result of one evaluation, made now unless the run has it."""
    name = Path(target).name if target.startswith(str(run)) else target.replace(":", "-")
    path = run / "results" / f"{name}.json"
    if not path.exists() or json.loads(path.read_text())["seeds"] != seeds:
        stage("evaluate", "--run", str(run), "--set", target, "--seeds", str(seeds))
    return json.loads(path.read_text())


def shortened(result: dict[str, Any]) -> dict[str, Any]:
    """A row of the study: without single students and the environment, which is said once."""
    row = {key: value for key, value in result.items() if key not in ("environment", "question", CHECKSUM)}
    for recipe in ("own", "generic"):
        if row.get(recipe):
            row[recipe] = {key: value for key, value in row[recipe].items() if key != "students"}
            rates = row[recipe]["recipe"]["rates"]
            row[recipe]["recipe"]["rates"] = {side: [round(r, 6) for r in rate] for side, rate in rates.items()}
    return row


def distilled(folder: Path) -> dict[str, Any]:
    """What making a set took: iterations and seconds."""
    selection = json.loads((folder / "set.json").read_text())["info"]["selection"]
    return {name: selection[name] for name in ("iterations", "seconds")}


def experts_seconds(run: Path) -> float:
    """Seconds of the longest call that recorded experts, others having found them; 0 where the run has none."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max((line["seconds"] for line in lines if line.get("stage") == "experts"), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", help="another data.source than the configuration's")
    parser.add_argument("--methods", nargs="*", default=["bitraj"])
    parser.add_argument("--pairs", nargs="*", type=int, default=[100])
    parser.add_argument("--distill-seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--also", nargs="*", default=["random:100", "full"], help="random:N and full")
    parser.add_argument("--seeds", type=int, default=3, help="students per row")
    parser.add_argument("--no-experts", action="store_true", help="for methods that need none")
    parser.add_argument("--out", type=Path, required=True)
    asked, options = parser.parse_known_args()  # what is left are options of `vldistill distill`
    # An existing run remembers its configuration; giving it again would only repeat it.
    config = [] if (asked.run / "config.yaml").exists() else ["--config", asked.config]
    config += ["--data.source", asked.data] if config and asked.data else []
    if not asked.no_experts:
        stage("experts", *config, "--run", str(asked.run))
        config = []
    rows, used = [], {}
    for method in asked.methods:
        for pairs in asked.pairs:
            for seed in asked.distill_seeds:
                chosen = ["--method", method, "--pairs", str(pairs), "--seed", str(seed), *options]
                stage("distill", *config, "--run", str(asked.run), *chosen)
                config = []
                folder = asked.run / "sets" / f"{method}-{pairs}-s{seed}"
                rows.append(evaluated(asked.run, str(folder), asked.seeds) | {"distilled": distilled(folder)})
                used |= json.loads((folder / "config.json").read_text())  # with what the run leaves to the method
    rows += [evaluated(asked.run, target, asked.seeds) for target in asked.also]
    settings = yaml.safe_load((asked.run / "config.yaml").read_text())
    used = {name: settings[name] for name in ("encoder", "experts", "evaluate")} | used
    study = {
        "command": "python benchmarks/study.py " + " ".join(sys.argv[1:]),
        "environment": environment(),
        "config": used,
        "data": settings["data"]["source"],
        "experts_seconds": experts_seconds(asked.run),
        "rows": [shortened(row) for row in rows],
    }
    write_json(asked.out, study)
    print(asked.out)


if __name__ == "__main__":
    main()
