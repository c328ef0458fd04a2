"""How finished sets do elsewhere: on image towers and in settings that they were not made for.

    python benchmarks/elsewhere.py --sets runs/f8k-bilevel-100/sets/bilevel-100-s0 --also random:100 \\
        --places benchmarks/elsewhere_flickr8k.yaml --run runs/elsewhere --out docs/results/flickr8k_elsewhere.json

The file of places has options of `vldistill evaluate` by the name of each place. Every set and every target is judged
in every place; what is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from vldistill import DistilledSet
from vldistill.cli import main as vldistill
from vldistill.files import read_json, write_json
from vldistill.runs import environment


def judged(run: Path, target: str, options: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of ``target`` in the run folder of one place, made now unless it is there."""
    name = Path(target).name if "/" in target else target.replace(":", "-")
    path = run / "results" / f"{name}.json"
    if not path.exists():
        words = [word for key, value in options.items() for word in (f"--{key}", json.dumps(value).strip('"'))]
        given = [] if (run / "config.yaml").exists() else words
        code = vldistill(["evaluate", "--run", str(run), "--set", target, *given])
        if code:
            sys.exit(code)
    return read_json(path, "evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", type=Path, required=True)
    parser.add_argument("--also", nargs="*", default=[], help="random:N and full")
    parser.add_argument("--places", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    places = yaml.safe_load(asked.places.read_text(encoding="utf-8"))
    rows = []
    for name, options in places.items():
        for target in (*map(str, asked.sets), *asked.also):
            result = judged(asked.run / name, target, options)
            for recipe in ("own", "generic"):
                if result.get(recipe):
                    del result[recipe]["students"]
            rows.append({"place": name, **{key: value for key, value in result.items() if key != "environment"}})
            study = {
                "command": "python benchmarks/elsewhere.py " + " ".join(sys.argv[1:]),
                "environment": environment(),
                "config": {folder.name: DistilledSet.load(folder).info["config"] for folder in asked.sets},
                "places": places,
                "rows": rows,
            }
            write_json(asked.out, study)
    print(asked.out)


if __name__ == "__main__":
    main()
