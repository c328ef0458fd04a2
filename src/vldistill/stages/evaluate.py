"""Evaluate sets, subsets and the full data by fresh students."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from vldistill.config import Config, EvaluateConfig
from vldistill.config.former import without_empty
from vldistill.config.plain import Plain
from vldistill.data.pairs import SPLITS
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.distilled.remote import local_folder
from vldistill.errors import ArtefactError, ConfigError, Stopped
from vldistill.evaluation.chosen import ChosenTarget
from vldistill.evaluation.partial_results import PartialResults, evaluation_key
from vldistill.evaluation.protocol import evaluate_set, quick_score
from vldistill.evaluation.results import Evaluation, Validation
from vldistill.evaluation.subjects import check_target
from vldistill.runtime.log import Reporter
from vldistill.runtime.processes import ALONE, Processes
from vldistill.selection.selector import SELECTORS
from vldistill.storage.files import digest, read_json, write_record
from vldistill.storage.hub import is_hub_name
from vldistill.storage.locks import held
from vldistill.workbench.headline import val_key
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run, environment


def evaluate(run: Run, config: Config, reporter: Reporter, target: str, processes: Processes = ALONE) -> Evaluation:
    """Evaluate a set, ``SELECTOR:N`` or ``full``; the result is written to the run's results and returned.

    Args:
        processes: the processes that share the students; the first one writes the result.
    """
    run.check(config)
    bench = open_bench(config, reporter, processes, run)
    # SELECTOR:N; one letter before the colon is a drive of Windows, and a folder may be named so
    named = target == "full" or (re.fullmatch(r"\w\w+:[^/\\]*", target) and not Path(target).exists())
    if not named:
        target = set_folder(run, target)
    target_set = target if named else DistilledSet.load(target)
    if isinstance(target_set, str) and target_set != "full":
        ChosenTarget.parse(target_set)
    for split in SPLITS:
        bench.pairs(split)
    bench.check_towers()
    check_target(bench, target_set, config.evaluate, config.select)
    with processes.first_before_others():
        if processes.first:
            run.begin(config)
        if processes.size > 1:  # decoded and encoded once
            for split in SPLITS:
                bench.split(split)
    path = run.results / _result_name(run, target_set, target, config.evaluate.protocol)
    key = evaluation_key(bench, target_set, config)
    options = without_empty(EvaluateConfig, asdict(config.evaluate))
    question = digest(key, options, bench.compute.precision)
    with held(path.with_name(f".{path.stem}.lock"), str(path)) if processes.first else nullcontext():
        answers = PartialResults(path.with_name(f"{path.stem}.unfinished"), key, reporter)
        kept, kept_question = _kept(path, reporter)
        if processes.of_first(kept is not None and kept_question == question):
            assert kept is not None, f"{path} is not on one file system of all processes"
            if processes.first:
                answers.remove()  # of a process that was killed right after it wrote the result
            reporter.info(f"{path} is finished already; delete it to evaluate again")
            return kept
        try:
            result = evaluate_set(bench, target_set, config.evaluate, config.select, answers, processes)
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped; {answers.count} trained students are kept. Run the same command to resume."
            ) from None
        processes.wait()  # until all have read the students' figures
        if not processes.first:
            return result
        if kept:
            reporter.warn(
                f"{path} held {_headline(kept)}, evaluated with other options; it is replaced by {_headline(result)}."
            )
        write_record(path, {**result.to_json(), "question": question, "environment": environment()})
        answers.remove()
    recalls = {
        recipe: {name: figure.mean for name, figure in scores.figures.items()}
        for recipe, scores in result.scores().items()
    }
    run.log(stage="evaluate", set=result.set, protocol=result.protocol, seconds=result.seconds, recalls=recalls)
    return result


def set_folder(run: Run, target: str) -> str:
    """The folder of a set, which may also be named as one of the run's, or on the hub.

    Raises:
        ConfigError: another kind of word, or a set that the hub does not hold.
    """
    if is_hub_name(target):
        return str(local_folder(target))
    if target and Path(target).exists():
        return target
    own = run.sets / target
    if target == own.name and own.is_dir():
        return str(own)
    if target.partition(":")[0].lower() in ("", "full", *SELECTORS):
        raise ConfigError(
            f"--set is {target!r}; expected the folder of a set (RUN/sets/NAME), or for real pairs, without "
            f"--val_only, SELECTOR:N (random:100) or full."
        )
    return target


def _result_name(run: Run, target_set: str | DistilledSet, target: str, protocol: str = "last") -> str:
    """The file of an evaluation in the run's results: another run's set does not take the place of the run's own."""
    name = target_set if isinstance(target_set, str) else target_set.name
    own = run.sets / name
    if isinstance(target_set, DistilledSet) and own.exists() and not own.samefile(target):
        name = f"{name}-from-{Path(target).resolve().parent.parent.name}"
    return f"{name.replace(':', '-')}{'' if protocol == 'last' else f'-{protocol}'}.json"


def _kept(path: Path, reporter: Reporter) -> tuple[Evaluation | None, Plain]:
    """The evaluation in a file and the hash of its question; None where there is none that can be read."""
    if not path.exists():
        return None, None
    try:
        record = read_json(path, "evaluation")
        return Evaluation.from_json(record), record.get("question")
    except ArtefactError as error:
        reporter.warn(f"{error} It is recomputed.")
        return None, None


def _headline(result: Evaluation) -> str:
    """An evaluation in words."""
    return f"{result.seeds} students by {' and '.join(result.scores())} recipe"


def score(run: Run, config: Config, reporter: Reporter, target: str) -> Validation:
    """The score on val of a set, as the outer loop validates (:func:`quick_score`); test stays closed."""
    run.check(config)
    bench = open_bench(config, reporter, run=run)
    target = set_folder(run, target)
    distilled = DistilledSet.load(target)
    check_target(bench, distilled, config.evaluate)
    if distilled.is_coreset and bench.setting != "heads":
        raise ConfigError(
            f"{target} is a coreset: it has no recipe of its own, by which validation trains students of setting "
            f"{bench.setting}. Leave out --val_only, or validate in setting heads."
        )
    run.begin(config)
    began = time.monotonic()
    try:
        value = quick_score(bench, distilled, config.evaluate)
    except KeyboardInterrupt:
        raise Stopped("stopped; a validation is short and starts again with the same command.") from None
    seconds = round(time.monotonic() - began, 2)
    result = Validation(distilled.name, bench.setting, value, seconds, bench.measure)
    path = run.results / "val" / _result_name(run, distilled, target)
    write_record(path, {**result.to_json(), "environment": environment()})
    run.log(stage="evaluate", set=distilled.name, **{val_key(bench.measure): value}, seconds=seconds)
    return result
