"""The verbs: distill, select, record experts, evaluate, report."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vldistill.api.asking import Asked, ConfigSource, Log, ask
from vldistill.api.evaluations import Evaluation
from vldistill.api.inspection import describe
from vldistill.api.progress import reporter
from vldistill.api.sets import DistilledSet
from vldistill.api.training import recorded, run_of
from vldistill.config.plain import Plain
from vldistill.distillation.method import METHODS
from vldistill.distilled import distilled_set
from vldistill.errors import ConfigError
from vldistill.experts import record
from vldistill.options.resolve import resolve
from vldistill.options.words import refuse_idle_options
from vldistill.reporting.write import ReportOptions, write_report
from vldistill.stages.distill import distill as distill_stage
from vldistill.stages.evaluate import evaluate as evaluate_stage
from vldistill.stages.experts import experts as experts_stage
from vldistill.stages.select import select as select_stage
from vldistill.storage.hub import is_hub_name
from vldistill.workbench.bench import Workbench

Place = str | Path


def distill(
    data: Place | None = None,
    pairs: int | None = None,
    *,
    config: ConfigSource | None = None,
    method: str | None = None,
    run: Place | None = None,
    experts_from: Place | None = None,
    quiet: bool = False,
    log: Log = None,
    **options: object,
) -> DistilledSet:
    """Distil a data source into a few pairs; the same call again resumes what was stopped, or reads what is finished.

    Args:
        data: a folder, a file, or a name such as ``scenes``; by default that of ``config`` or of the run.
        pairs: how many.
        config: a YAML file, also a packaged one such as ``photos.yaml``, or options by section.
        method: see ``vldistill ls methods``; by default the best known for the setting and the number of pairs.
        run: the run folder; by default one in the cache, named by the configuration and the data.
        experts_from: another run, whose experts are used. A method that needs experts records those that are missing.
        quiet: warnings only.
        log: trackers that follow: ``tensorboard``, ``wandb``, ``mlflow``, or several (docs/trackers.md).
        options: any other, by its name (``iterations=10``) or its dotted name (``**{"bilevel.steps": 20}``).

    Raises:
        VldistillError: what cannot work, and what to do; before long work starts.
        Stopped: by Ctrl-C, after everything is saved.
    """
    named = {name: value for name, value in (("pairs", pairs), ("method", method)) if value is not None}
    asked = ask("distill", data, config, run, {**named, **options}, quiet, log)
    resolved = resolve(asked.config)
    refuse_idle_options([*asked.words, *(["--method"] if method else [])], resolved)
    elsewhere = None if experts_from is None else Path(experts_from)
    if METHODS.find(resolved.distill.method).needs_experts and elsewhere is None:
        experts_stage(asked.run, asked.config, asked.reporter)
    return DistilledSet.load(distill_stage(asked.run, resolved, asked.reporter, elsewhere))


def select(
    data: Place | None = None,
    pairs: int | None = None,
    *,
    config: ConfigSource | None = None,
    method: str | None = None,
    run: Place | None = None,
    label: str = "",
    quiet: bool = False,
    log: Log = None,
    **options: object,
) -> DistilledSet:
    """Choose real pairs by a selector, as a set; arguments as of :func:`distill`.

    Args:
        data: the data source.
        pairs: how many.
        config: a YAML file, or options by section.
        method: see ``vldistill ls selectors``.
        run: the run folder.
        label: added to the set's name, to keep variants side by side in one run.
        quiet: warnings only.
        log: trackers that follow: ``tensorboard``, ``wandb``, ``mlflow``, or several (docs/trackers.md).
        options: any other.
    """
    named = {name: value for name, value in (("pairs", pairs), ("method", method)) if value is not None}
    asked = ask("select", data, config, run, {**named, **options}, quiet, log)
    return DistilledSet.load(select_stage(asked.run, asked.config, asked.reporter, label))


def record_experts(
    data: Place | Workbench | None = None,
    *old: Any,
    config: ConfigSource | None = None,
    run: Place | None = None,
    quiet: bool = False,
    log: Log = None,
    **options: object,
) -> Path:
    """Train experts on the real data and keep their trajectories; returns the run folder, for ``experts_from``.

    Args:
        data: the data source.
        old: of the former function of this name, which works on a workbench.
        config: a YAML file, or options by section.
        run: the run folder.
        quiet: warnings only.
        log: trackers that follow: ``tensorboard``, ``wandb``, ``mlflow``, or several (docs/trackers.md).
        options: any other, e.g. ``count=4``.
    """
    if isinstance(data, Workbench):
        text = "vldistill.record_experts takes data; for a workbench, use vldistill.experts.record.record_experts."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return record.record_experts(data, *old, **options)  # pyright: ignore[reportReturnType]
    if old:
        raise ConfigError(f"record_experts was given {len(old)} more arguments; expected data, and options by name.")
    asked = ask("experts", data, config, run, options, quiet, log)
    experts_stage(asked.run, asked.config, asked.reporter)
    return asked.run.folder


def evaluate(
    target: distilled_set.DistilledSet | Place,
    data: Place | None = None,
    *,
    config: ConfigSource | None = None,
    run: Place | None = None,
    zero_shot: str | Sequence[str] = (),
    quiet: bool = False,
    log: Log = None,
    **options: object,
) -> Evaluation:
    """Train fresh students on a set, or on real pairs, and test them; the result is kept, and read the next time.

    Args:
        target: a set, its folder or ``hf:OWNER/NAME``, ``SELECTOR:N`` such as ``random:100``, or ``full``.
        data: the data to test on; by default those of the run, or those that the set names.
        config: a YAML file, or options by section.
        run: the run folder; by default the set's own, or one in the cache.
        zero_shot: class sources, such as ``digits`` or ``classes:PATH``, whose test images students classify too.
        quiet: warnings only.
        log: trackers that follow: ``tensorboard``, ``wandb``, ``mlflow``, or several (docs/trackers.md).
        options: any other, e.g. ``seeds=3``, ``protocol="val-best"``.
    """
    if isinstance(target, str | Path) and (is_hub_name(target) or (Path(target) / "set.json").is_file()):
        target = DistilledSet.load(target)
    own = isinstance(target, distilled_set.DistilledSet)
    if own and data is None and config is None and run is None:
        run = run_of(target)
    if own and config is None and (run is None or not (Path(run) / "config.yaml").exists()):
        config = recorded(target)
    if zero_shot:
        options["zero_shot"] = [zero_shot] if isinstance(zero_shot, str) else list(zero_shot)
    asked = ask("evaluate", data, config, run, options, quiet, log)
    word = _folder_of(target, asked) if own else str(target)
    return Evaluation.of(evaluate_stage(asked.run, asked.config, asked.reporter, word))


def _folder_of(pairs: distilled_set.DistilledSet, asked: Asked) -> str:
    """The folder of a set; one that was made in memory is written below the run first."""
    folder = getattr(pairs, "folder", None)
    if folder is not None:
        return str(folder)
    content = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in pairs.tensors().values())).hexdigest()
    place = asked.run.folder / "given" / content[:16] / "sets" / pairs.name
    pairs.save(place)
    return str(place)


def report(
    *runs: Place, out: Place | None = None, students: str = "auto", queries: int = 24, quiet: bool = False
) -> Path:
    """One offline HTML page about one run, or several compared; returns its path.

    Args:
        runs: run folders.
        out: the file; by default ``report.html`` in the run.
        students: train students for the retrieval browser: ``auto``, ``always`` or ``never``.
        queries: captions, and photos, in the retrieval browser.
        quiet: warnings only.
    """
    if not runs:
        raise ConfigError("report was given no run; expected one or more run folders.")
    asked = ReportOptions(students, queries)
    return write_report([Path(run) for run in runs], None if out is None else str(out), asked, reporter(quiet))


def inspect(path: Place, *, sheet: Place | None = None, quiet: bool = False) -> dict[str, Plain]:
    """What a data source, an experts folder, a set or a run holds, as plain values.

    ``broken`` lists everything that could not be read.

    Args:
        path: it.
        sheet: of a data source, where its contact sheet is drawn (a .png file); by default in the cache.
        quiet: show no progress.
    """
    return describe(str(path), reporter(quiet), None if sheet is None else str(sheet))
