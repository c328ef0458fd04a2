"""``vldistill evaluate``: train fresh students on a set, SELECTOR:N or full, and test them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vldistill.commands.shared import DONE, add_json, opened, say_next
from vldistill.errors import ConfigError
from vldistill.evaluation.tables import evaluation_text
from vldistill.options.words import parse
from vldistill.runtime.processes import joined
from vldistill.stages.evaluate import evaluate, score
from vldistill.workbench.headline import IN_WORDS


def main(argv: Sequence[str]) -> int:
    """The command; prints a table, or one JSON object."""

    def extend(parser: ArgumentParser) -> None:
        parser.add_argument(
            "--set", type=str, required=True, help="a set's folder, SELECTOR:N such as random:N, or full"
        )
        add_json(parser)
        parser.add_argument("--val_only", action="store_true", help="the score on val alone, as distill validates")

    config, rest = parse("evaluate", argv, extend)
    with joined() as processes:
        run, reporter = opened(rest, mute=not processes.first)
        if rest.val_only and processes.size > 1:
            raise ConfigError("--val_only trains few students, in one process; leave torchrun out.")
        if rest.val_only:
            validation = score(run, config, reporter, rest.set)
            words, plain = IN_WORDS[validation.measure], validation.to_json()
            text = f"{validation.set}: {words} on val {validation.score:.2f}"
        else:
            result = evaluate(run, config, reporter, rest.set, processes)
            text, plain = evaluation_text([result]), result.to_json()
    if processes.first:
        print(json.dumps(plain) if rest.json else text)
        say_next(reporter, "report", rest.run)
    return DONE
