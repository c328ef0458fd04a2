"""The stage that makes a set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vldistill.config import Config, ResolvedDistillConfig
from vldistill.config.plain import Plain
from vldistill.data.pairs import SPLITS
from vldistill.distillation.export import set_name
from vldistill.distillation.loop import Loop
from vldistill.distillation.method import METHODS, Context, Method, Start, T
from vldistill.distillation.resume import CHECKPOINT
from vldistill.distillation.start import nearest_by_image, start_from, starting_pairs
from vldistill.distillation.written import written
from vldistill.distilled.distilled_set import DIVERGED, DistilledSet, one_line
from vldistill.drawing.sheets import draw_pairs
from vldistill.errors import DataError, DivergedError, Stopped
from vldistill.evaluation.data_checks import check_pairs
from vldistill.evaluation.protocol import quick_score
from vldistill.experts.record import open_experts
from vldistill.options.resolve import ResolvedConfig, resolve
from vldistill.runtime.interrupts import deferred_stop
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import peak_memory
from vldistill.runtime.processes import ALONE, Processes
from vldistill.stages.distill_checks import check_asked, check_data, refuse_other_set
from vldistill.storage.checkpoints import Checkpoints
from vldistill.storage.files import write_record
from vldistill.storage.locks import held
from vldistill.tracking.follow import Trackers
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run

START = "start"  # folder, in a set's, of the set that was made first


def distill(
    run: Run, config: Config, reporter: Reporter, experts_from: Path | None = None, processes: Processes = ALONE
) -> Path:
    """Distil a set, or resume it; returns its folder.

    Args:
        experts_from: another run that has the experts; here too ``distill.experts`` is how many are used.
        processes: the processes that share the work; the first one writes.

    Raises:
        ConfigError: what cannot work or contradicts what the run or the set was begun with.
        ArtefactError: experts that are missing or do not fit, a damaged set or checkpoint.
        DivergedError: steps keep failing; the best set so far is kept.
        Stopped: by Ctrl-C or SIGTERM, after everything is saved.
    """
    config = resolve(config)
    entry = METHODS.find(config.distill.method)
    method = entry.build()
    _announce(config, reporter)
    check_asked(config, experts_from, processes)
    run.check(config.given)
    bench = open_bench(config, reporter, processes, run)
    check_data(config, bench)
    folder = run.sets / set_name(config.distill)
    asked = refuse_other_set(run, config)
    if (folder / "set.json").exists():
        if processes.first:
            run.begin(config.given)  # refuses a contradiction
        return _finished(folder, reporter, processes)
    with processes.first_before_others():
        teachers = (Run(experts_from) if experts_from else run).experts
        recorded = open_experts(bench, teachers, config.distill.experts) if entry.needs_experts else []
        context = Context(bench, config.distill, config.options, recorded)
        method.check(context)
        shown = written(method, config.distill, bench.image_tower.size, bench.setting)
        begin = _begin(config, method, context)
        if processes.first:
            run.begin(config.given)
    with held(folder / ".lock", str(folder)) if processes.first else nullcontext():
        if not processes.of_first((folder / "set.json").exists()):  # else another process has just finished it
            if processes.first:
                write_record(folder / "config.json", asked)
            with run.follow(folder, asked, Checkpoints(folder / CHECKPOINT, reporter).there) as trackers:
                _make(run, config, bench, shown, context, begin, folder, trackers, processes)
        processes.wait()
    return folder


def _make(
    run: Run,
    config: ResolvedConfig,
    bench: Workbench,
    method: Method[T],
    context: Context[T],
    begin: Start,
    folder: Path,
    trackers: Trackers,
    processes: Processes,
) -> None:
    """Run the outer loop and write the set, in ``folder``."""
    start, seconds = _start(config, bench, begin, folder / START, processes)

    def save(made: DistilledSet, place: Path, step: int) -> None:
        _save(bench, made, begin, place)
        if made.space == "pixels":
            trackers.picture(place / "preview.png", step)

    with deferred_stop() as stop_asked, _resumable():
        loop = Loop(
            method,
            context,
            folder,
            score=lambda distilled: quick_score(bench, distilled, config.evaluate),
            save=lambda made, iteration: save(made, folder / f"kept/iteration-{iteration}", iteration),
            stop_asked=stop_asked,
            processes=processes,
            start_seconds=seconds,
            trackers=trackers,
        )
        try:
            distilled = loop.run(start)
        except DivergedError:
            if processes.first:
                save(loop.best_set(), folder / DIVERGED, trackers.step)
            raise
    if processes.first:
        save(distilled, folder, trackers.step)
        loop.checkpoints.remove()
        run.log(stage="distill", set=folder.name, peak_memory_bytes=peak_memory(), **distilled.info["selection"])
        bench.reporter.info(f"{len(distilled)} pairs, {distilled.stored_floats:,} stored floats in {folder}")


def _announce(config: ResolvedConfig, reporter: Reporter) -> None:
    """Report which method is taken where none is named, and a start that it ignores."""
    distill = config.distill
    if config.why:
        reporter.info(config.why)
    if METHODS.find(distill.method).own_start and distill.starts != ("real", "real"):
        start = distill.start_image or distill.start_text or distill.start
        reporter.warn(f"{distill.method} chooses its own starting pairs: distill.start {start} is ignored.")


def _begin(config: ResolvedConfig, method: Method[T], context: Context[T]) -> Start:
    """The starting pairs; real ones where a set is made of them first."""
    if config.first:
        real = replace(config.distill, start="real", start_image="", start_text="")
        context = replace(context, config=real)
    return starting_pairs(method, context, config.select)


def _finished(folder: Path, reporter: Reporter, processes: Processes) -> Path:
    """The folder of a set that is there already. Raises ArtefactError where it is damaged."""
    DistilledSet.load(folder)
    if processes.first:
        Checkpoints(folder / CHECKPOINT, reporter).remove()  # of a process that was killed right after the end
    reporter.info(f"{folder} is finished already; nothing to do")
    return folder


@contextmanager
def _resumable() -> Iterator[None]:
    """Name the way to resume a run that was stopped."""
    try:
        yield
    except Stopped as stop:
        raise Stopped(f"{stop}. Run the same command to resume.") from None


def _start(
    config: ResolvedConfig, bench: Workbench, begin: Start, folder: Path, processes: Processes
) -> tuple[Start, float]:
    """What the loop starts from, and the seconds it took: ``begin``, or the set that is made of it first."""
    if config.first is None:
        return begin, 0.0
    made, distill = _first(config, config.first, bench, begin, folder, processes), config.distill
    start = start_from(bench, made, distill.pairs, distill.space, distill.size)
    return start, float(made.info["selection"]["seconds"])


def _first(
    config: ResolvedConfig,
    own: ResolvedDistillConfig,
    bench: Workbench,
    begin: Start,
    folder: Path,
    processes: Processes,
) -> DistilledSet:
    """The set that another starts from: read, or made in ``folder``, where it is resumed if it was stopped.

    The first process makes it alone: its own outer loop has nothing to share.
    """
    with processes.first_before_others():
        if not (folder / "set.json").exists():
            inner = Context(bench, own, config.options_of(own.method))
            method = METHODS.find(own.method).build()
            method.check(inner)
            with deferred_stop() as stop_asked, _resumable():
                loop = Loop(method, inner, folder, lambda _: 0.0, lambda *_: None, stop_asked)
                made = loop.run(begin)
            _save(bench, made, begin, folder)
            loop.checkpoints.remove()
    return DistilledSet.load(folder)


def _save(bench: Workbench, distilled: DistilledSet, begin: Start, folder: Path) -> None:
    """Write a set with its nearest captions and preview."""
    nearest = nearest_by_image(bench, distilled.text_inputs)
    captions = tuple({"start": start, "nearest": near} for start, near in zip(begin.captions, nearest))
    distilled = replace(distilled.with_captions(captions), info={**distilled.info, "checks": _checks(bench)})
    if distilled.space == "pixels":
        before = replace(distilled, images=begin.images.cpu()).pixels()
        shown = [(one_line(caption["start"]), one_line(caption["nearest"])) for caption in captions]
        folder.mkdir(parents=True, exist_ok=True)
        draw_pairs(_bytes(before), _bytes(distilled.pixels()), shown, folder / "preview.png", title=distilled.name)
    distilled.save(folder)


def _checks(bench: Workbench) -> list[Plain]:
    """What the numbers on this data can mean, for the card; nothing where the source lacks a split."""
    try:
        checks = check_pairs({split: bench.pairs(split) for split in SPLITS})
    except DataError:
        return []
    return [check.summary for check in checks]


def _bytes(pixels: torch.Tensor) -> np.ndarray:
    return (pixels * 255).round().to(torch.uint8).numpy()
