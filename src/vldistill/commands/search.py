"""``vldistill search --student STUDENT --images photos/ "a dog"``: the photos of a folder that fit a text best."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.api.student import Student
from vldistill.commands.shared import DONE


def main(argv: Sequence[str]) -> int:
    """The command; prints scores and paths, or one JSON object for each question."""
    parser = ArgumentParser(prog="vldistill search", description=__doc__)
    parser.add_argument("questions", type=str, nargs="+", help="texts such as captions")
    parser.add_argument("--student", type=str, required=True, help="a folder that `vldistill train` wrote")
    about = "a folder of photos (those in folders below it too), or a photo; broken ones are left out and counted"
    parser.add_argument("--images", type=str, required=True, help=about)
    parser.add_argument("--top", type=int, default=5, help="number of photos")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each question, a line each")
    parser.add_argument("--device", type=str, default=None, help="auto, cpu, cuda, ...")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    asked = parser.parse_args(list(argv))
    options = {"runtime.device": asked.device} if asked.device else {}
    student = Student.load(asked.student, **options)
    for question in asked.questions:
        found = student.search(question, asked.images, asked.top, quiet=asked.quiet)
        print(json.dumps(found.to_dict(), ensure_ascii=False) if asked.json else found)
    return DONE
