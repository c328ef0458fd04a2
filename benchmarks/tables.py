"""Write the tables of the documentation from docs/results: python benchmarks/tables.py [--check].

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->`` in a Markdown file; NAME is a file of
docs/results without its ending. ``--check`` changes nothing and fails when a table is not what its file says.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from vldistill.files import write_text
from vldistill.report.tables import evaluation_text

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end table -->)", re.DOTALL)


def study_table(study: dict[str, Any]) -> str:
    """One row per set and recipe, what the numbers mean, and the command that made them."""
    table, _, note = evaluation_text(study["rows"]).rpartition("\n")
    return f"{table}\n\nTest split, {note}. Commit `{study['environment']['commit']}`, command\n`{study['command']}`.\n"


def filled(text: str, results: Path) -> str:
    """``text`` with every table made anew."""

    def fill(match: re.Match[str]) -> str:
        study = json.loads((results / f"{match['name']}.json").read_text(encoding="utf-8"))
        return f"{match[1]}{study_table(study)}{match[3]}"

    return TABLE.sub(fill, text)


def main() -> int:
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        old = path.read_text(encoding="utf-8")
        new = filled(old, ROOT / "docs" / "results")
        if new != old:
            stale.append(path)
            if "--check" not in sys.argv:
                write_text(path, new)
    for path in stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
