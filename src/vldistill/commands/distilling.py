"""The stage that makes a set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vldistill.config import Config, DistillConfig, SelectConfig
from vldistill.distillation.augment import VIEWS
from vldistill.distillation.averaging import check_draws
from vldistill.distillation.export import set_name
from vldistill.distillation.loop import CHECKPOINT, Loop
from vldistill.distillation.method import METHODS, Context, Start
from vldistill.distillation.start import (
    check_size,
    check_start,
    is_folder,
    nearest_by_image,
    start_from,
    starting_pairs,
)
from vldistill.distilled.distilled_set import DistilledSet, one_line
from vldistill.errors import ConfigError, DataError, DivergedError, Stopped, unknown
from vldistill.evaluate.protocol import quick_score
from vldistill.experts.record import open_experts
from vldistill.options.resolve import as_first, first_method, settle
from vldistill.report.sheets import draw_pairs
from vldistill.runtime.interrupts import deferred_stop
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import peak_memory
from vldistill.runtime.processes import ALONE, Ranks
from vldistill.selection.choose import check_count
from vldistill.selection.selector import SELECTORS
from vldistill.stages.distill_checks import check_captions, check_setting
from vldistill.storage.checkpoints import Checkpoints
from vldistill.storage.files import write_record
from vldistill.storage.locks import held
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run, refuse_other

START = "start"  # folder, in a set's, of the set that was made first


def distill(
    run: Run, config: Config, reporter: Reporter, experts_from: Path | None = None, ranks: Ranks = ALONE
) -> Path:
    """Distil a set, or go on with it; returns its folder.

    Args:
        experts_from: another run that has the experts; here too ``distill.experts`` says how many are used.
        ranks: the processes that share the work; the first one writes.

    Raises:
        ConfigError: what cannot work or contradicts what the run or the set was begun with.
        ArtefactError: experts that are missing or do not fit, a damaged set or checkpoint.
        DivergedError: steps keep failing; the best set so far is kept.
        Stopped: by Ctrl-C or SIGTERM, after everything is saved.
    """
    remembered, (config, said) = config, settle(config)
    if said:
        reporter.info(said)
    entry = METHODS.find(config.distill.method)
    method = entry.build()
    if entry.own_start and config.distill.starts != ("real", "real"):
        start = config.distill.start_image or config.distill.start_text or config.distill.start
        reporter.warn(f"{config.distill.method} chooses its own starting pairs: distill.start {start} is left aside.")
    check_asked(config, experts_from, ranks)
    run.check(config)
    bench = open_bench(config, reporter, ranks, run)
    before = first_method(config.distill)
    check_data(config, bench)
    folder = run.sets / set_name(config.distill)
    options = config.methods.get(config.distill.method) or entry.options()
    asked = refuse_other_set(run, config)
    if (folder / "set.json").exists():
        if ranks.first:
            run.begin(remembered)  # refuses a contradiction
        return _finished(folder, reporter, ranks)
    with ranks.first_before_others():
        teachers = (Run(experts_from) if experts_from else run).experts
        recorded = open_experts(bench, teachers, config.distill.experts) if entry.needs_experts else []
        context = Context(bench, config.distill, options, recorded)
        method.check(context)
        own = replace(config.distill, start="real", start_image="", start_text="") if before else config.distill
        begin = starting_pairs(method, replace(context, config=own), config.select)
        if ranks.first:
            run.begin(remembered)
    lock = held(folder / ".lock", str(folder)) if ranks.first else nullcontext()
    with lock:
        if not ranks.of_first((folder / "set.json").exists()):  # else another process has just finished it
            if ranks.first:
                write_record(folder / "config.json", asked)
            made = _first(config, context, begin, folder / START, ranks) if before else None
            _distill(run, config, context, method, begin, made, ranks)
        ranks.wait()
    return folder


def check_asked(config: Config, experts_from: Path | None = None, ranks: Ranks = ALONE) -> None:
    """Refuse what cannot be, before data or towers are opened. Raises ConfigError.

    Args:
        config: whose method is settled.
    """
    name = config.distill.method
    check_draws(config.distill.draws, ranks)
    if experts_from and not METHODS.find(name).needs_experts:
        raise ConfigError(
            f"--experts_from is {experts_from}, but {name} needs no experts. Leave it out, or name a method that "
            f"matches trajectories (`vldistill ls methods`)."
        )
    check_setting(name, config.encoder.setting)
    check_captions(name, config.distill.captions)
    _check_space(config)
    _check_start(config)


def check_method(config: Config, bench: Workbench, experts: Sequence[Any]) -> None:
    """Refuse options of the method that cannot work, before anything is decoded. Raises ConfigError.

    Args:
        config: whose method is settled.
        bench: whose towers are not built here; other towers that the method takes are left aside.
        experts: recorded or planned ones.
    """
    entry = METHODS.find(config.distill.method)
    options = config.methods.get(config.distill.method) or entry.options()
    if getattr(options, "towers", ()):
        options = replace(options, towers=())
    entry.build().check(Context(bench, config.distill, options, list(experts)))


def refuse_other_set(run: Run, config: Config) -> dict[str, Any]:
    """What a set's folder is to remember. Raises ConfigError where it was begun with something else."""
    options = config.methods.get(config.distill.method) or METHODS.find(config.distill.method).options()
    asked = _asked(config, options) | _asked_of_start(config)
    usual, _ = settle(Config(distill=DistillConfig(config.distill.method)))
    refuse_other(run.sets / set_name(config.distill), asked, _asked(usual, type(options)()))
    return asked


def _check_start(config: Config) -> None:
    """Refuse a start that cannot be."""
    distill, before = config.distill, first_method(config.distill)
    for kind in {*distill.starts} - {before}:
        check_start(kind, distill.pairs, config.select, distill.space)
        if is_folder(kind) and distill.captions > 1:
            raise ConfigError(
                f"distill.start is the set {kind}, which has one text for each image, and distill.captions is "
                f"{distill.captions}. Use 1, or start from real pairs or a selector's."
            )
    if before:
        check_setting(before, config.encoder.setting)


def check_data(config: Config, bench: Workbench) -> None:
    """Refuse data with too few images, or without the val split that looks need where anything is trained."""
    check_count(bench.pairs("train").count_images, config.distill.pairs)
    check_size(config.distill.size, bench)
    if config.distill.validate_every and METHODS.find(config.distill.method).trains(config.distill.space):
        try:
            bench.pairs("val")
        except DataError as error:
            other = "Or take the last set instead of the best on val: distill.validate_every 0."
            raise DataError(f"{error} {other}") from None


def _finished(folder: Path, reporter: Reporter, ranks: Ranks) -> Path:
    """The folder of a set that is there already. Raises ArtefactError where it is damaged."""
    DistilledSet.load(folder)
    if ranks.first:
        Checkpoints(folder / CHECKPOINT, reporter).remove()  # of a process that was killed right after the end
    reporter.info(f"{folder} is finished already; nothing to do")
    return folder


def _distill(
    run: Run, config: Config, context: Context, method: Any, begin: Start, made: DistilledSet | None, ranks: Ranks
) -> None:
    """Run the loop from the pairs of ``begin``, or of the set that was ``made`` of them first, and write the set."""
    bench, folder = context.bench, run.sets / set_name(config.distill)
    start, start_seconds = begin, 0.0
    if made is not None:
        start = start_from(bench, made, config.distill.pairs, config.distill.space, config.distill.size)
        start_seconds = float(made.info["selection"]["seconds"])
    with deferred_stop() as stop_asked:
        loop = Loop(
            method,
            context,
            folder,
            score=lambda distilled: quick_score(bench, distilled, config.evaluate),
            save=lambda distilled, iteration: _save(
                bench, distilled, begin, folder / "kept" / f"iteration-{iteration}"
            ),
            stop_asked=stop_asked,
            ranks=ranks,
            start_seconds=start_seconds,
        )
        try:
            distilled = loop.run(start)
        except DivergedError:
            if ranks.first:
                _save(bench, loop.best_set(), begin, folder / "kept" / "best-before-divergence")
            raise
        except Stopped as stop:
            raise Stopped(f"{stop}. The same command goes on.") from None
    if not ranks.first:
        return
    _save(bench, distilled, begin, folder)
    loop.checkpoints.remove()
    selection = distilled.info["selection"]
    run.log(stage="distill", set=folder.name, peak_memory_bytes=peak_memory(), **selection)
    bench.reporter.info(f"{len(distilled)} pairs, {distilled.stored_floats:,} stored floats in {folder}")


def _first(config: Config, context: Context, begin: Start, folder: Path, ranks: Ranks) -> DistilledSet:
    """The set that another starts from: read, or made in ``folder``, which goes on where it was stopped.

    The first process makes it alone: its own outer loop has nothing to share.
    """
    bench = context.bench
    own = as_first(config.distill, bench.setting)
    with ranks.first_before_others():
        if not (folder / "set.json").exists():
            entry = METHODS.find(own.method)
            inner = Context(bench, own, config.methods.get(own.method) or entry.options())
            method = entry.build()
            method.check(inner)
            with deferred_stop() as stop_asked:
                loop = Loop(method, inner, folder, lambda _: 0.0, lambda *_: None, stop_asked)
                try:
                    made = loop.run(begin)
                except Stopped as stop:
                    raise Stopped(f"{stop}. The same command goes on.") from None
            _save(bench, made, begin, folder)
            loop.checkpoints.remove()
    return DistilledSet.load(folder)


def _check_space(config: Config) -> None:
    """Refuse combinations of space, setting and augmentation that have no meaning."""
    for kind in config.distill.augment:
        if kind not in VIEWS:
            raise ConfigError(unknown("distill.augment", kind, VIEWS))
    if config.distill.space == "features":
        if config.encoder.setting != "heads":
            raise ConfigError(
                f"distill.space features needs setting heads, not {config.encoder.setting}: "
                f"a trained tower has no fixed features. Use space pixels."
            )
        if config.distill.augment:
            raise ConfigError("distill.augment changes pictures; with distill.space features there are none.")


def _asked(config: Config, options: Any) -> dict[str, Any]:
    """The configuration of one set, as its folder remembers it."""
    sections = {"distill": asdict(config.distill), config.distill.method: asdict(options)}
    return json.loads(json.dumps(sections))


def _asked_of_start(config: Config) -> dict[str, Any]:
    """The selectors' options that shaped the start and differ from the defaults: a set that was begun before an option
    existed is still the same set.
    """
    changed: dict[str, Any] = {}
    for entry in (SELECTORS.get(kind) for kind in config.distill.starts):
        if entry is not None:
            usual = entry.options(SelectConfig())
            changed |= {name: value for name, value in entry.options(config.select).items() if value != usual[name]}
    asked: dict[str, Any] = {"select": changed} if changed else {}
    if first := first_method(config.distill):
        usual = METHODS.find(first).options()
        given = asdict(config.methods.get(first) or usual)
        asked |= {first: {n: v for n, v in given.items() if v != getattr(usual, n)}}
    return asked


def _save(bench: Workbench, distilled: DistilledSet, begin: Start, folder: Path) -> None:
    """Write a set with its nearest captions and preview."""
    nearest = nearest_by_image(bench, distilled.text_inputs)
    captions = tuple({"start": start, "nearest": near} for start, near in zip(begin.captions, nearest))
    distilled = distilled.with_captions(captions)
    if distilled.space == "pixels":
        before = replace(distilled, images=begin.images.cpu()).pixels()
        shown = [(one_line(caption["start"]), one_line(caption["nearest"])) for caption in captions]
        folder.mkdir(parents=True, exist_ok=True)
        draw_pairs(_bytes(before), _bytes(distilled.pixels()), shown, folder / "preview.png", title=distilled.name)
    distilled.save(folder)


def _bytes(pixels: torch.Tensor) -> np.ndarray:
    return (pixels * 255).round().to(torch.uint8).numpy()
