"""``vldistill evaluate``: train fresh students on a set, SELECTOR:N or full, and test them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.commands.shared import DONE, opened
from vldistill.evaluation.tables import evaluation_text
from vldistill.options.words import parse
from vldistill.stages.evaluate import evaluate, score


def main(argv: Sequence[str]) -> int:
    """The command; prints a table, or one JSON object."""

    def extend(parser: ArgumentParser) -> None:
        parser.add_argument(
            "--set", type=str, required=True, help="a set's folder, SELECTOR:N such as random:N, or full"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--val_only", action="store_true", help="mean recall on val, as distill looks at it; test stays closed"
        )

    config, rest = parse("evaluate", argv, extend)
    run, reporter = opened(rest)
    result = (score if rest.val_only else evaluate)(run, config, reporter, rest.set)
    if rest.json:
        print(json.dumps(result))
    elif rest.val_only:
        print(f"{result['set']}: mean recall on val {result['val_mean_recall']:.2f}")
    else:
        print(evaluation_text([result]))
    return DONE
