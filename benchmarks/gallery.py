"""Make the pictures of docs/gallery.md: python benchmarks/gallery.py RUN.

Sets of drawn scenes by each method, small and short: the experts and sets are made in RUN, where they are resumed, and
a strip of each is drawn into docs/assets/gallery/. Offline; some minutes on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vldistill as vd
from vldistill.distillation.method import METHODS
from vldistill.drawing.pictures import enlarged, to_bytes

TARGET = Path(__file__).resolve().parent.parent / "docs" / "assets" / "gallery"
SHOWN, SIDE, GAP = 8, 64, 6  # pictures of a strip; pixels of each, and between them
PAIRS, ITERATIONS = 12, 40
OPTIONS: dict[str, dict[str, Any]] = {"ptm": {"ptm.straighten": [3, 4]}}  # the experts have four epochs


def main() -> None:
    run = Path(sys.argv[1])
    vd.record_experts(config="scenes.yaml", run=run, count=2)
    TARGET.mkdir(parents=True, exist_ok=True)
    vd.distill(run=run, pairs=PAIRS, method="bilevel", iterations=1, label="start", keep=[0])
    strip(vd.DistilledSet.load(run / "sets" / f"bilevel-{PAIRS}-s0-start" / "kept" / "iteration-0"), "start")
    for name, entry in METHODS.items():
        if "heads" in entry.settings:
            options = OPTIONS.get(name, {})
            strip(vd.distill(run=run, pairs=PAIRS, method=name, iterations=ITERATIONS, **options), name)


def strip(pairs: vd.DistilledSet, name: str) -> None:
    """The first pictures of a set in a row, as a small PNG."""
    sheet = Image.new("RGB", (SHOWN * (SIDE + GAP) - GAP, SIDE), "white")
    for place, picture in enumerate(to_bytes(np.asarray(pairs.pixels()[:SHOWN]))):
        sheet.paste(enlarged(picture, SIDE), (place * (SIDE + GAP), 0))
    path = TARGET / f"{name}.png"
    sheet.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
