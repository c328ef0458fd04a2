"""``vldistill train --set SET --out STUDENT``: train a student on a set and keep it.

By the recipe that the set carries, none of the real data are read. The folder is what ``vldistill search`` and
``Student.load`` take.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from vldistill.api.sets import DistilledSet
from vldistill.api.student_files import check_place
from vldistill.commands.helptext import KeptLines
from vldistill.commands.shared import DONE


def main(argv: Sequence[str]) -> int:
    """The command; prints the student's folder."""
    parser = ArgumentParser(prog="vldistill train", description=__doc__, formatter_class=KeptLines)
    parser.add_argument("--set", type=str, required=True, help="a set's folder")
    parser.add_argument("--out", type=str, required=True, help="the student's folder; new, empty, or a student's")
    about = "own (which the set carries), or generic (chosen on val of the real data)"
    parser.add_argument("--recipe", type=str, default="own", help=about)
    parser.add_argument("--seed", type=int, default=0, help="of its starting weights and of the order")
    about = "the real data, for the generic recipe; by default those that the set names"
    parser.add_argument("--data", type=str, default=None, help=about)
    about = "other towers and options than the set's own: a YAML file"
    parser.add_argument("--config", type=str, default=None, help=about)
    parser.add_argument("--device", type=str, default=None, help="auto, cpu, cuda, ...")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    asked = parser.parse_args(list(argv))
    check_place(Path(asked.out))
    options = {"runtime.device": asked.device} if asked.device else {}
    pairs = DistilledSet.load(asked.set)
    student = pairs.train(asked.recipe, asked.seed, asked.data, config=asked.config, quiet=asked.quiet, **options)
    print(student.save(asked.out))
    return DONE
