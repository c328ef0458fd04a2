"""Run one cell: the stage commands that answer it, and one result file.

A cell is independent of every other one: :func:`run_cell` takes the cell, the comparison's folder and a function that
runs a command, and leaves ``result.json`` in the cell's folder, atomically. Any process that can run commands (here, or
a task on a cluster with the same file system) can run cells.

    RUN/encode/GROUP/       notes on decoding and encoding the data; the results are in the cache
    RUN/experts/GROUP/      a run folder with the experts that all cells of one setting, towers and data share
    RUN/cells/ID/trial-1/   a run folder per trial; made/ has the set; another one its evaluation
    RUN/cells/ID/log.txt    output of the commands
    RUN/cells/ID/result.json, or failed.json
    RUN/tried.jsonl         every configuration that was ever distilled, by row
"""

from __future__ import annotations

from pathlib import Path

from vldistill.cluster import Launch, UnitFailed
from vldistill.comparison.cells import Cell
from vldistill.comparison.results import Answer, CellResult
from vldistill.comparison.trials import Trials, distilled
from vldistill.config import Config
from vldistill.config.plain import Plain, Record
from vldistill.errors import ArtefactError
from vldistill.evaluation.results import Evaluation
from vldistill.storage.files import digest, read_json, write_record
from vldistill.workbench.run_folder import environment, write_config


def run_cell(launch: Launch, run: Path, cell: Cell) -> None:
    """Run one cell, or resume it; writes its result.

    Raises:
        UnitFailed: a command failed; ``failed.json`` has its error.
        Stopped: the user asked to stop.
    """
    folder = run / "cells" / cell.id
    try:
        try:
            if cell.kind == "method":
                answer = _method_answer(cell, run, folder, launch)
            else:
                answer = Answer(_evaluated(cell, folder, launch))
        except ArtefactError as error:  # an unreadable file fails this cell alone
            raise UnitFailed(str(error), "refused") from None
        _refuse_other_data(cell, answer.evaluation, folder)
    except UnitFailed as failure:
        note_failure(cell, run, str(failure))
        raise
    write_record(folder / "result.json", {**_description(cell), **answer.to_json(), "environment": environment()})
    (folder / "failed.json").unlink(missing_ok=True)


def _refuse_other_data(cell: Cell, evaluation: Evaluation, folder: Path) -> None:
    """Refuse a set that was distilled, in an earlier call, from other data than it is evaluated on."""
    if cell.kind == "method" and "made_from_data" in evaluation.details:
        raise UnitFailed(
            f"its set was distilled from other training data than {cell.configs[0].data.source} holds now. Put the "
            f"data back, or delete {folder} to distil it again.",
            "refused",
        )


def note_failure(cell: Cell, run: Path, why: str) -> None:
    """Write the error of a failed cell."""
    write_record(run / "cells" / cell.id / "failed.json", {"cell": cell.id, "row": cell.row, "error": why})


def finished(cell: Cell, run: Path) -> CellResult | None:
    """The result of a cell, if it has one by the configured evaluation."""
    record = _kept(run / "cells" / cell.id / "result.json")
    try:
        result = CellResult.from_json(record) if record else None
    except ArtefactError:  # lacks figures: the cell runs again
        return None
    return result if result and result.evaluation_options == cell.evaluation_options else None


def failure(cell: Cell, run: Path) -> str | None:
    """The error of a cell's last run; None if it did not fail."""
    note = _kept(run / "cells" / cell.id / "failed.json")
    return str(note.get("error")) if note else None


def _kept(path: Path) -> Record | None:
    """A record of a cell; None where it is missing or damaged: the cell runs again."""
    try:
        value = read_json(path, "cell")
    except ArtefactError:
        return None
    return value if isinstance(value, dict) else None


def _description(cell: Cell) -> dict[str, Plain]:
    facts = {name: getattr(cell, name) for name in ("row", "kind", "name", "pairs", "setting", "towers", "seed")}
    facts |= {"data": cell.data} if cell.data else {}
    return {"cell": cell.id, **facts, "judging": cell.evaluation_options}


def _method_answer(cell: Cell, run: Path, folder: Path, launch: Launch) -> Answer:
    """Distil by every option that is tried, keep the best on val, and evaluate it."""
    if len(cell.configs) == 1:
        making = distilled(cell, cell.configs[0], run, folder / "made", launch)
        return Answer(_evaluated(cell, folder, launch, making.set), making)
    tried = Trials(cell, run, folder, launch).run()
    scores = [-1.0 if trial.val_mean_recall is None else trial.val_mean_recall for trial, _ in tried]
    trials = tuple(trial for trial, _ in tried)
    if max(scores) < 0:
        raise UnitFailed(f"all {len(trials)} trials failed; the first: {trials[0].error}")
    best, config = tried[scores.index(max(scores))]
    making = best.making
    if cell.trial_minutes or making is None:
        making = distilled(cell, config, run, folder / "made", launch)
    evaluation = _evaluated(cell, folder, launch, making.set, config)
    return Answer(evaluation, making, trials, best.options)


def _evaluated(cell: Cell, folder: Path, launch: Launch, target: str = "", config: Config | None = None) -> Evaluation:
    """The evaluation of a set or target, in a run folder of its own."""
    place = folder / f"judged-{digest(cell.evaluation_options)[:6]}"
    if not _evaluations(place):
        path = write_config(place.with_suffix(".yaml"), config or cell.configs[0])
        words = ["evaluate", "--config", str(path), "--run", str(place), "--set", target or cell.name]
        launch(words, folder / "log.txt")
    return Evaluation.from_json(read_json(_evaluations(place)[0], "evaluation"))


def _evaluations(place: Path) -> list[Path]:
    return sorted((place / "results").glob("*.json"))
