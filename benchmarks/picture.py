"""Draw the README's picture from a run of the demo: python benchmarks/picture.py RUN.

Drawn scenes before and after distillation: docs/assets/scenes.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
HEAD, BOTTOM = 72, 740  # rows of the preview: two rows of pairs below its title
WIDTH = 1200


def main() -> None:
    preview = Image.open(next(iter(Path(sys.argv[1]).glob("sets/*/preview.png"))))
    pairs = preview.crop((0, HEAD, preview.width, BOTTOM))
    picture = pairs.resize((WIDTH, round(WIDTH * pairs.height / pairs.width)), Image.Resampling.LANCZOS)
    target = ROOT / "docs" / "assets" / "scenes.png"
    target.parent.mkdir(exist_ok=True)
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
