"""``vldistill push --set SET --to OWNER/NAME --license ID``: publish a set on the Hugging Face hub.

The repository is a data set. A new one is private; --public shows it to everybody. Others read the set as
hf:OWNER/NAME wherever a set's folder is taken, and ``datasets.load_dataset`` shows its pictures and captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.api.sets import DistilledSet
from vldistill.commands.helptext import KeptLines
from vldistill.commands.shared import DONE
from vldistill.errors import ConfigError
from vldistill.runtime.log import Reporter


def main(argv: Sequence[str]) -> int:
    """The command; prints the address of the commit."""
    parser = ArgumentParser(prog="vldistill push", description=__doc__, formatter_class=KeptLines)
    parser.add_argument("--set", type=str, required=True, help="a set's folder, or hf:OWNER/NAME")
    parser.add_argument("--to", type=str, required=True, help="OWNER/NAME, with @BRANCH for another branch than main")
    about = "of the set, by the licence of your data: an id of the hub such as cc-by-4.0, or other with --terms"
    parser.add_argument("--license", type=str, default=None, help=about)
    parser.add_argument("--terms", type=str, default=None, help="of your data, in words or as an address")
    about = "confirm that the set is published although no licence is known"
    parser.add_argument("--without_license", action="store_true", help=about)
    parser.add_argument("--public", action="store_true", help="show a new repository to everybody")
    parser.add_argument("--message", type=str, default="", help="of the commit")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    asked = parser.parse_args(list(argv))
    lines = Reporter(quiet=asked.quiet)
    pairs = DistilledSet.load(asked.set)
    lines.info(f"{len(pairs)} pairs to {asked.to}; a new repository is {'public' if asked.public else 'private'}")
    try:
        address = pairs.push_to_hub(
            asked.to,
            license=asked.license,
            terms=asked.terms,
            without_license=asked.without_license,
            private=not asked.public,
            message=asked.message,
        )
    except ConfigError as error:  # as options are written here
        raise type(error)(re.sub(r"\b(license|terms|without_license)=(True\b)?", r"--\1 ", str(error))) from None
    print(address)
    return DONE
