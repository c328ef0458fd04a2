"""``vldistill report RUN [RUN2 ...]``: one offline HTML file about one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vldistill.reporting.write import ReportOptions, write_report
from vldistill.runtime.log import Reporter


def main(argv: Sequence[str]) -> int:
    """The command: writes the file and prints its path."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="vldistill report", description=__doc__)
    parser.add_argument("runs", type=str, nargs="+", help="run folders; several are compared")
    parser.add_argument("--out", type=str, default=None, help="the file; RUN/report.html, for several report.html")
    parser.add_argument(
        "--students", type=str, default="auto", help="train students for the retrieval browser: auto, always, never"
    )
    parser.add_argument("--queries", type=int, default=24, help="captions, and photos, in the retrieval browser")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    asked = parser.parse_args(list(argv))
    options = ReportOptions(asked.students, asked.queries)
    print(write_report([Path(run) for run in asked.runs], asked.out, options, Reporter(quiet=asked.quiet)))
    return 0
