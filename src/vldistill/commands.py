"""The stages as functions: each reads files of the stage before and writes its own into the run folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vldistill.checkpoints import Checkpoints
from vldistill.cluster.options import Place
from vldistill.cluster.shards import WHOLE
from vldistill.cluster.stages import encode_shards, spread_encode, spread_experts
from vldistill.config import Config, DistillConfig, SelectConfig
from vldistill.data.pairs import SPLITS
from vldistill.devices import augments_on, choose_device, choose_passes
from vldistill.distill.augment import VIEWS
from vldistill.distill.draws import check_draws
from vldistill.distill.learned import set_name
from vldistill.distill.loop import CHECKPOINT, METRICS, Loop
from vldistill.distill.methods import (
    Context,
    check_captions,
    check_setting,
    check_size,
    find_method,
    settle,
    starting_pairs,
)
from vldistill.distill.start import Start, check_start, nearest_captions
from vldistill.distilled import DistilledSet
from vldistill.errors import ConfigError, DivergedError, Stopped, unknown
from vldistill.evaluate.answers import Answers, evaluation_key
from vldistill.evaluate.protocol import evaluate_set, quick_score
from vldistill.evaluate.subjects import check_target, chosen_subset
from vldistill.experts.record import open_experts, record_experts
from vldistill.files import read_json, write_record
from vldistill.interrupts import deferred_stop
from vldistill.locks import held
from vldistill.log import Reporter
from vldistill.memory import keep_freed_memory, peak_memory
from vldistill.ranks import ALONE, Ranks
from vldistill.report.sheets import draw_pairs
from vldistill.runs import Run, differences, environment, with_defaults
from vldistill.select import check_count, check_ground, find_selector, selectors
from vldistill.select.coreset import coreset_name, save_coreset
from vldistill.workbench import Workbench


def open_bench(config: Config, reporter: Reporter, ranks: Ranks = ALONE) -> Workbench:
    """The workbench of a configuration."""
    keep_freed_memory()
    device = choose_device(config.runtime, ranks)
    how = choose_passes(config.runtime, device), augments_on(config.runtime, device)
    return Workbench(config.data, config.encoder, device, reporter, *how)


def experts(
    run: Run, config: Config, reporter: Reporter, place: Place | None = None, ranks: Ranks = ALONE
) -> Mapping[str, Exception]:
    """Record the experts that are missing; returns what failed elsewhere, by unit.

    Args:
        place: where other units run, or the part that this job does.
        ranks: processes that share the batches of each expert's training; the first one writes.
    """
    place = place or Place()
    if ranks.size > 1 and (config.encoder.setting == "heads" or place.spread):
        raise ConfigError(
            "torchrun shares the batches of one expert, which is for trained towers, not for setting heads, nor for "
            "--workers and --cluster, which give every expert to one process. Leave torchrun out."
        )
    run.check(config)
    bench = open_bench(config, reporter, ranks)
    bench.pairs("train")  # what cannot be read or built is refused before the run folder is made
    bench.check_towers()
    with ranks.first_before_others():
        if ranks.first:
            run.begin(config)
        if ranks.size > 1:
            bench.split("train")
    began = time.monotonic()
    if place.spread:
        failed = spread_experts(run, config, bench, reporter, place)
        if failed:
            return failed
    try:
        save_seconds = config.runtime.save_seconds
        recorded = record_experts(bench, config.experts, run.experts, place.shard, save_seconds, ranks)
    except (KeyboardInterrupt, Stopped) as stop:
        done = len(list(run.experts.glob("expert-*.safetensors")))
        where = str(stop) or "stopped"
        raise Stopped(f"{where}; {done} finished experts are kept. The same command goes on.") from None
    if not ranks.first:
        return {}
    seconds = round(time.monotonic() - began, 2)
    losses = [expert.note["losses"] for expert in recorded]
    run.log(stage="experts", count=len(recorded), seconds=seconds, losses=losses, peak_memory_bytes=peak_memory())
    reporter.info(f"{len(recorded)} experts in {run.experts}")
    return {}


def encode(
    run: Run, config: Config, reporter: Reporter, place: Place | None = None, decode_only: bool = False
) -> Mapping[str, Exception]:
    """Decode the images and encode what the frozen towers see, once, into the cache that every run shares.

    Returns:
        What failed elsewhere, by unit.
    """
    place = place or Place()
    run.check(config)
    bench = open_bench(config, reporter)
    for split in SPLITS:
        bench.pairs(split)
    bench.check_towers()
    run.begin(config)
    failed: Mapping[str, Exception] = {}
    try:
        for split in SPLITS:
            bench.pixels(split)
        if decode_only:
            reporter.info(f"decoded images are in {bench.cache}")
            return failed
        if place.spread:
            failed = spread_encode(run, config, bench, reporter, place)
        elif place.shard != WHOLE:
            for encoding, shards in encode_shards(bench, place.shard):
                encoding.make(shards, reporter)
        else:
            for split in SPLITS:
                bench.split(split)
    except KeyboardInterrupt:
        raise Stopped("stopped; finished shards are kept. The same command goes on.") from None
    reporter.info(f"decoded images and features are in {bench.cache}")
    return failed


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
    check_draws(config.distill.draws, ranks)
    entry = find_method(config.distill.method)
    method = entry.build()
    check_setting(method, config.distill.method, config.encoder.setting)
    check_captions(method, config.distill.method, config.distill.captions)
    run.check(config)
    bench = open_bench(config, reporter, ranks)
    _check_space(config)
    for kind in config.distill.starts:
        check_start(kind, config.distill.pairs, config.select)
    check_count(bench.pairs("train").count_images, config.distill.pairs)
    check_size(config.distill.size, bench)
    if config.distill.validate_every:
        bench.pairs("val")
    folder = run.sets / set_name(config.distill)
    options = config.methods.get(config.distill.method) or entry.options()
    asked = _asked(config, options) | _asked_of_start(config)
    usual, _ = settle(Config(distill=DistillConfig(config.distill.method)))
    _refuse_other(folder, asked, _asked(usual, type(options)()))
    if (folder / "set.json").exists():
        if ranks.first:
            run.begin(remembered)  # refuses a contradiction
        DistilledSet.load(folder)  # refuses damage
        if ranks.first:
            Checkpoints(folder / CHECKPOINT, reporter).remove()  # of a process that was killed right after the end
        reporter.info(f"{folder} is finished already; nothing to do")
        return folder
    with ranks.first_before_others():
        teachers = (Run(experts_from) if experts_from else run).experts
        recorded = open_experts(bench, teachers, config.distill.experts) if "experts" in method.needs else []
        context = Context(bench, config.distill, options, recorded)
        method.check(context)
        begin = starting_pairs(method, context, config.select)
        if ranks.first:
            run.begin(remembered)
    lock = held(folder / ".lock", str(folder)) if ranks.first else nullcontext()
    with lock:
        if not ranks.of_first((folder / "set.json").exists()):  # else another process has just finished it
            _distill(run, config, context, method, begin, asked, ranks)
        ranks.wait()
    return folder


def _distill(
    run: Run, config: Config, context: Context, method: Any, begin: Start, asked: dict[str, Any], ranks: Ranks
) -> None:
    """Run the loop and write the set."""
    bench, folder = context.bench, run.sets / set_name(config.distill)
    if ranks.first:
        write_record(folder / "config.json", asked)
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
        )
        try:
            distilled = loop.run(begin)
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
    for entry in (selectors().get(kind) for kind in config.distill.starts):
        if entry is not None:
            usual = entry.options(SelectConfig())
            changed |= {name: value for name, value in entry.options(config.select).items() if value != usual[name]}
    return {"select": changed} if changed else {}


def _refuse_other(folder: Path, asked: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Refuse a set's folder that was begun with another configuration; what it lacks had its default then."""
    note = folder / "config.json"
    old = read_json(note, "set configuration") if note.exists() else asked
    found = list(differences(with_defaults(old, defaults or {}) if isinstance(old, Mapping) else old, asked))
    if found:
        shown = "\n".join(f"  {name}: {old!r} there, {new!r} asked for" for name, old, new in found)
        raise ConfigError(
            f"{folder} was begun with another configuration:\n{shown}\n"
            f"Use another --seed, --label or --run, give the settings it was begun with, or delete the folder."
        )


def _save(bench: Workbench, distilled: DistilledSet, begin: Start, folder: Path) -> None:
    """Write a set with its nearest captions and preview."""
    nearest = nearest_captions(bench, distilled.text_inputs)
    captions = tuple({"start": start, "nearest": near} for start, near in zip(begin.captions, nearest))
    distilled = distilled.with_captions(captions)
    if distilled.space == "pixels":
        before = replace(distilled, images=begin.images.cpu()).pixels()
        shown = [(caption["start"], caption["nearest"]) for caption in captions]
        folder.mkdir(parents=True, exist_ok=True)
        draw_pairs(_bytes(before), _bytes(distilled.pixels()), shown, folder / "preview.png", title=distilled.name)
    distilled.save(folder)


def _bytes(pixels: torch.Tensor) -> np.ndarray:
    return (pixels * 255).round().to(torch.uint8).numpy()


def select(run: Run, config: Config, reporter: Reporter) -> Path:
    """Choose real pairs, and write them as a set of the run; returns its folder."""
    asked = config.select
    entry = find_selector(asked.method)
    check_ground(asked.method, asked.pairs, asked)
    run.check(config)
    bench = open_bench(config, reporter)
    check_count(bench.pairs("train").count_images, asked.pairs)
    folder = run.sets / coreset_name(asked)
    note = {"select": {"method": asked.method, "pairs": asked.pairs, "seed": asked.seed} | entry.options(asked)}
    _refuse_other(folder, note)
    bench.check_towers()
    run.begin(config)
    if (folder / "set.json").exists():
        reporter.info(f"{folder} is finished already; nothing to do")
        return folder
    began = time.monotonic()
    try:
        with held(folder / ".lock", str(folder)):
            write_record(folder / "config.json", note)
            coreset = save_coreset(bench, asked, folder)
    except KeyboardInterrupt:
        raise Stopped("stopped; a finished warm-up is kept. The same command goes on.") from None
    seconds = round(time.monotonic() - began, 2)
    run.log(stage="select", set=folder.name, seconds=seconds, peak_memory_bytes=peak_memory())
    reporter.info(f"{len(coreset)} pairs, {coreset.stored_floats:,} stored floats in {folder}")
    return folder


def evaluate(run: Run, config: Config, reporter: Reporter, target: str) -> dict[str, Any]:
    """Judge a set, ``SELECTOR:N`` or ``full``; the result is written to the run's results and returned."""
    run.check(config)
    bench = open_bench(config, reporter)
    # SELECTOR:N; one letter before the colon is a drive of Windows, and a folder may be named so
    named = target == "full" or (re.fullmatch(r"\w\w+:[^/\\]*", target) and not Path(target).exists())
    judged = target if named else DistilledSet.load(target)
    if isinstance(judged, str) and judged != "full":
        chosen_subset(judged)
    for split in SPLITS:
        bench.pairs(split)
    bench.check_towers()
    check_target(bench, judged, config.evaluate, config.select)
    run.begin(config)
    path = run.results / _result_name(judged, config.evaluate.protocol)
    with held(path.with_name(f".{path.stem}.lock"), str(path)):
        answers = Answers(path.with_name(f"{path.stem}.unfinished"), evaluation_key(bench, judged, config), reporter)
        try:
            result = evaluate_set(bench, judged, config.evaluate, config.select, answers)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; {answers.count} trained students are kept. The same command goes on.") from None
        write_record(path, result | {"environment": environment()})
        answers.remove()
    run.log(stage="evaluate", set=result["set"], protocol=result["protocol"], seconds=result["seconds"])
    return result


def _result_name(judged: str | DistilledSet, protocol: str) -> str:
    """The file of an evaluation in the run's results."""
    name = judged if isinstance(judged, str) else judged.name
    return f"{name.replace(':', '-')}{'' if protocol == 'last' else f'-{protocol}'}.json"


def score(run: Run, config: Config, reporter: Reporter, target: str) -> dict[str, Any]:
    """Mean recall on val of a set, as the outer loop looks at it (:func:`quick_score`); test stays closed."""
    run.check(config)
    bench = open_bench(config, reporter)
    distilled = DistilledSet.load(target)
    check_target(bench, distilled, config.evaluate)
    if distilled.is_coreset and bench.setting != "heads":
        raise ConfigError(
            f"{target} is a coreset: it has no recipe of its own, by which a look at val trains students of setting "
            f"{bench.setting}. Leave out --val_only, or look at val in setting heads."
        )
    run.begin(config)
    began = time.monotonic()
    try:
        value = quick_score(bench, distilled, config.evaluate)
    except KeyboardInterrupt:
        raise Stopped("stopped; a look at val is short and starts anew. The same command does it.") from None
    seconds = round(time.monotonic() - began, 2)
    result = {"set": distilled.name, "setting": bench.setting, "val_mean_recall": value, "seconds": seconds}
    write_record(run.results / f"{distilled.name}-val.json", result | {"environment": environment()})
    run.log(stage="evaluate", set=distilled.name, val_mean_recall=value, seconds=seconds)
    return result


__all__ = ["METRICS", "distill", "encode", "evaluate", "experts", "open_bench", "score", "select"]
