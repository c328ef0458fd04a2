"""``vldistill export --student STUDENT --to onnx|transformers --out FOLDER``: a student for other libraries.

What is written computes the student's embeddings to rounding; it is run and compared before the folder appears. What
cannot be exact, such as --to open_clip, is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from vldistill.api.student import Student
from vldistill.commands.helptext import KeptLines
from vldistill.commands.shared import DONE
from vldistill.convert.student import FORMS
from vldistill.convert.student_sides import SIDES


def main(argv: Sequence[str]) -> int:
    """The command; prints the folder."""
    parser = ArgumentParser(prog="vldistill export", description=__doc__, formatter_class=KeptLines)
    parser.add_argument("--student", type=str, required=True, help="a folder that `vldistill train` wrote")
    about = "; ".join(f"{name}: {about}" for name, about in FORMS.items())
    parser.add_argument("--to", type=str, required=True, help=about)
    parser.add_argument("--out", type=str, required=True, help="the folder to write, new or empty")
    parser.add_argument("--sides", type=str, nargs="+", default=list(SIDES), help="of onnx: image, text or both")
    asked = parser.parse_args(list(argv))
    here: dict[str, Any] = {"runtime.device": "cpu"}
    student = Student.load(asked.student, **here)
    print(student.export(asked.out, asked.to, asked.sides))
    return DONE
