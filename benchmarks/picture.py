"""Draw the README's picture from a run of the demo: python benchmarks/picture.py RUN.

Drawn scenes before and after distillation, and recall over the iterations: docs/assets/scenes.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
HEAD, BOTTOM, COLUMNS = 72, 740, 4  # of the preview: rows of its first two lines of pairs, and pairs in a line
WIDTH = 1200


def main() -> None:
    run = Path(sys.argv[1])
    preview = Image.open(next(iter(run.glob("sets/*/preview.png"))))
    half = preview.crop((0, HEAD, preview.width * 2 // COLUMNS, BOTTOM))
    pairs = half.resize((WIDTH // 2, round(WIDTH / 2 * half.height / half.width)), Image.Resampling.LANCZOS)
    curve = Image.open(run / "curve.png").convert("RGB")
    curve.thumbnail((WIDTH // 2, pairs.height), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (WIDTH, pairs.height), "white")
    picture.paste(pairs, (0, 0))
    picture.paste(curve, (WIDTH // 2 + (WIDTH // 2 - curve.width) // 2, (pairs.height - curve.height) // 2))
    target = ROOT / "docs" / "assets" / "scenes.png"
    target.parent.mkdir(exist_ok=True)
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
