"""Draw the README's picture from a run of the demo: python benchmarks/picture.py RUN.

Drawn scenes before and after distillation on the left, what students learn from them on the right:
docs/assets/scenes.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIZE, PAIRS_WIDTH = (1400, 470), 860


def main() -> None:
    run = Path(sys.argv[1])
    preview = Image.open(next(iter(run.glob("sets/*/preview.png"))))
    curve = Image.open(run / "curve.png")
    picture = Image.new("RGB", SIZE, "white")
    rows = preview.crop((0, 72, preview.width, 72 + round(preview.width * SIZE[1] / PAIRS_WIDTH)))
    picture.paste(rows.resize((PAIRS_WIDTH, SIZE[1]), Image.Resampling.LANCZOS), (0, 0))
    width = SIZE[0] - PAIRS_WIDTH - 20
    height = round(width * curve.height / curve.width)
    drawn = curve.resize((width, height), Image.Resampling.LANCZOS)
    picture.paste(drawn, (PAIRS_WIDTH + 20, (SIZE[1] - height) // 2))
    target = ROOT / "docs" / "assets" / "scenes.png"
    target.parent.mkdir(exist_ok=True)
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
