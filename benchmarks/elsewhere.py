"""How sets do elsewhere, on image towers and in settings they were not made for, and what makes them move better.

    python benchmarks/elsewhere.py --plan benchmarks/elsewhere_flickr8k.yaml --run runs/elsewhere \\
        --out docs/results/flickr8k_elsewhere.json

The plan has a configuration, sets (options of `vldistill distill` by name), and places (options of `vldistill
evaluate` by name). Every set is distilled, then judged in every place beside ``--also``; what is there already is not
done again, and a set that was made with other options is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from ablation import words
from vldistill.cli import main as vldistill
from vldistill.storage.files import CHECKSUM, read_json, write_json
from vldistill.workbench.run_folder import environment


def command(stage: str, run: Path, options: dict[str, Any], *more: str) -> None:
    """Run one command in its own run folder: it refuses other options of a set, and judges anew where those changed."""
    code = vldistill([stage, "--run", str(run), *more, *words(options)])
    if code:
        sys.exit(code)


def distilled(run: Path, options: dict[str, Any]) -> Path:
    """The set of these options; the command leaves one alone that is there."""
    command("distill", run, options)
    return next(run.glob("sets/*/set.json")).parent


def judged(run: Path, target: str, options: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of ``target`` in this run folder; the command leaves one alone that is there."""
    command("evaluate", run, options, "--set", target)
    return read_json(next(run.glob("results/*.json")), "evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--also", nargs="*", default=["random:100"], help="random:N and full")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    plan = yaml.safe_load(asked.plan.read_text(encoding="utf-8"))
    targets = {
        name: str(distilled(asked.run / "made" / name, {"config": plan["config"], **options}))
        for name, options in plan["sets"].items()
    } | {name: name for name in asked.also}
    rows = []
    for place, options in plan["places"].items():
        for name, target in targets.items():
            result = judged(asked.run / place / name.replace(":", "-"), target, {"config": plan["config"], **options})
            for recipe in ("own", "generic"):
                if result.get(recipe):
                    del result[recipe]["students"]
            left_out = ("environment", "question", CHECKSUM)
            rows.append({key: value for key, value in result.items() if key not in left_out} | {"set": name})
            rows[-1]["place"] = place
            study = {
                "command": "python benchmarks/elsewhere.py " + " ".join(sys.argv[1:]),
                "environment": environment(),
                "plan": plan,
                "rows": rows,
            }
            write_json(asked.out, study)
    print(asked.out)


if __name__ == "__main__":
    main()
