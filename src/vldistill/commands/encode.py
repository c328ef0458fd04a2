"""``vldistill encode``: decode and encode the data once, ahead of the other stages."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.cluster.options import add_place, place_of
from vldistill.commands.shared import DONE, SOME_FAILED, opened
from vldistill.options.words import parse
from vldistill.stages.encode import encode


def main(argv: Sequence[str]) -> int:
    """The command; returns 4 where some parts failed."""

    def extend(parser: ArgumentParser) -> None:
        add_place(parser)
        parser.add_argument("--decode_only", action="store_true", help="decode the images and leave the rest")

    config, rest = parse("encode", argv, extend)
    place = place_of(rest)
    run, reporter = opened(rest)
    return SOME_FAILED if encode(run, config, reporter, place, rest.decode_only) else DONE
