"""``vldistill convert SOURCE --to wds|hf|folder|csv --out FOLDER``: the same pairs in another form.

SOURCE is a data source, or the folder of a coreset or of a distilled set. The files of photos are copied as they are.
Drawings and distilled pictures become PNG; a distilled set is exported with its nearest real captions, marked as lossy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vldistill.convert.export import open_export, write_export
from vldistill.convert.writers import WRITERS
from vldistill.data.pairs import SPLITS
from vldistill.data.photos import PHOTO_LIMITS, PhotoLimits
from vldistill.errors import ConfigError, unknown
from vldistill.options.words import rewrite
from vldistill.runtime.log import Reporter


def main(argv: Sequence[str]) -> int:
    """The command. Raises ConfigError and DataError with the remedy."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="vldistill convert", description=__doc__)
    parser.add_argument("source", type=str, help="a data source, or the folder of a coreset or a distilled set")
    parser.add_argument("--to", type=str, required=True, help=", ".join(f"{n}: {w.about}" for n, w in WRITERS.items()))
    parser.add_argument("--out", type=str, required=True, help="the folder to write, which must not exist yet")
    parser.add_argument("--split", type=list[str], default=[], help="splits to convert, e.g. [train]; default all")
    parser.add_argument("--shard", type=int, default=10_000, help="images in each shard of wds")
    parser.add_argument("--from", type=str, default="", dest="origin", help="of a coreset: its source, if it has moved")
    parser.add_argument("--strict", action="store_true", help="refuse broken photos and captions")
    parser.add_argument("--max_pixels", type=int, default=PHOTO_LIMITS.pixels, help="as data.max_pixels of a run")
    parser.add_argument("--max_bytes", type=int, default=PHOTO_LIMITS.bytes, help="as data.max_bytes of a run")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    asked = parser.parse_args(rewrite("convert", argv, {"split": tuple[str, ...]}))
    if asked.to not in WRITERS:
        raise ConfigError(f"--to: {unknown('format', asked.to, WRITERS)}")
    if asked.shard < 1:
        raise ConfigError(f"--shard is {asked.shard}; expected at least 1 image.")
    for split in asked.split:
        if split not in SPLITS:
            raise ConfigError(f"--split: {unknown('split', split, SPLITS)}")
    reporter = Reporter(quiet=asked.quiet)
    limits = PhotoLimits(asked.max_pixels, asked.max_bytes)
    export = open_export(asked.source, asked.split, strict=asked.strict, origin=asked.origin, limits=limits)
    out = write_export(export, asked.to, Path(asked.out), reporter, shard=asked.shard, strict=asked.strict)
    print(out)
    return 0
