"""How long the main path is: frames from the command to the inner loss, and calls of one iteration of ``bitraj``.

Counts Python frames of this package between ``vldistill distill`` and the student's loss, and with ``sys.setprofile``
the Python calls that one outer iteration makes (8 inner steps on 10 pairs of drawn scenes, setting ``heads``): those of
this package's functions, and all. Both are counts, not times.

    python benchmarks/main_path.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from vldistill import distillation
from vldistill.cli import main as command
from vldistill.distillation import inner_steps
from vldistill.distillation.loop import Loop

SOURCE = Path(distillation.__file__).resolve().parents[1]
WORDS = (
    *("--data.source", "scenes:train=200,val=20,test=20", "--encoder.text.name", "hashing"),
    *("--encoder.image.name", "convnet", "--encoder.image.weights", "random", "--encoder.image.size", "16"),
    *("--experts.count", "1", "--experts.epochs", "3", "--quiet"),
)
DISTILL = (
    *("--method", "bitraj", "--pairs", "10", "--bitraj.syn_steps", "8", "--iterations", "6"),
    *("--distill.validate_every", "0", "--distill.checkpoint_every", "1000"),
)


class Counted:
    """Calls of one outer iteration, and the frames that lead to its first loss."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.frames: list[tuple[str, str]] = []

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Count one event of ``sys.setprofile``."""
        if event == "call":
            self.calls[f"{_file(frame)}:{frame.f_code.co_qualname}"] += 1
            if not self.frames and frame.f_code is inner_steps.inner_loss.__code__:
                self.frames = _frames(frame)


def _file(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(SOURCE)) if path.is_relative_to(SOURCE) else "elsewhere"


def _frames(frame: FrameType | None) -> list[tuple[str, str]]:
    """This package's frames from the command down to ``frame``, as file and function."""
    found = []
    while frame:
        if _file(frame) != "elsewhere":
            found.append((_file(frame), frame.f_code.co_qualname))
        frame = frame.f_back
    return found[::-1]


def counted(run: Path, iteration: int = 3) -> Counted:
    """One iteration of a real ``vldistill distill``, counted."""
    found, keep_and_validate = Counted(), Loop._keep_and_validate

    def profiled(loop: Loop, number: int, last: int) -> None:  # what every iteration begins with
        sys.setprofile(found.profile if number == iteration else None)
        keep_and_validate(loop, number, last)

    Loop._keep_and_validate = profiled  # pyright: ignore[reportAttributeAccessIssue]
    try:
        assert command(["experts", "--run", str(run), *WORDS]) == 0
        assert command(["distill", "--run", str(run), *DISTILL]) == 0
    finally:
        Loop._keep_and_validate = keep_and_validate
    return found


def main() -> None:
    """Print the figures, or write them as JSON."""
    parser = argparse.ArgumentParser(description="Frames and calls of the main path.")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--show", type=int, default=12, help="how many of the functions called most are printed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = counted(Path(folder))
    figures = {
        "frames": len(found.frames),
        "files": len({file for file, _ in found.frames}),
        "calls_per_iteration": sum(count for name, count in found.calls.items() if not name.startswith("elsewhere")),
        "calls_with_libraries": found.calls.total(),
        "path": [f"{file}:{name}" for file, name in found.frames],
    }
    print(json.dumps(figures, indent=2))
    for name, count in found.calls.most_common(arguments.show):
        print(f"{count:6,}  {name}", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
