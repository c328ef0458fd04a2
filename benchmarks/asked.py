"""What the other scripts share: a run folder that was begun with other options holds no numbers of this plan."""

from __future__ import annotations

import sys
from pathlib import Path

from vldistill.parsing import parse
from vldistill.runs import FREE, Run, differences, to_plain, with_defaults


def refuse_other(run: Path, stage: str, words: list[str]) -> None:
    """End the script where ``run`` remembers another configuration than ``words`` of a stage give a new run."""
    if not Run(run).config_path.exists():
        return
    new = ["--run", str(run / "new")]
    asked, usual = (to_plain(parse(stage, [*given, *new])[0]) for given in (words, ["--data.source", "scenes"]))
    remembered = with_defaults(Run(run).remembered(), usual)  # options newer than the run had their default then
    found = [
        f"  {name}: {before!r} there, {after!r} asked for"
        for name, before, after in differences({name: remembered.get(name) for name in asked}, asked)
        if name not in FREE and not name.startswith("runtime.")
    ]
    if found:
        shown = "\n".join(found)
        sys.exit(f"{run} was begun with other options:\n{shown}\nDelete it to do it anew, or use another --run folder.")
