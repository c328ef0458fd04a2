"""``--dry_run``: what a stage or a comparison would do, the disk it needs and the time it is expected to take.

Nothing is decoded or written, and no weights are downloaded (of a text tower of the hub, its tokenizer and shape are).
Towers are built with random weights where theirs would be fetched: shapes and speed are the same. Times come from one
training step measured here and now, times the number of steps; they are meant to tell minutes from days.
"""

from __future__ import annotations

import copy
import functools
import shutil
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vldistill.commands.distilling import check_asked, check_data, check_method, refuse_other_set
from vldistill.config import Config, DistillConfig, expand
from vldistill.data.pairs import SPLITS
from vldistill.distill.methods import as_first, find_method, first_method, settle, trains
from vldistill.errors import ConfigError, VldistillError
from vldistill.evaluate.cells import Cell, expert_group, failure, finished, shared_experts
from vldistill.experts.record import (
    PlannedExpert,
    bytes_per_expert,
    expert_files,
    expert_path,
    expert_recipe,
    planned_experts,
)
from vldistill.experts.trajectory import Trajectory
from vldistill.files import human_bytes
from vldistill.log import Reporter
from vldistill.runs import Run
from vldistill.select import check_count
from vldistill.training import Recipe, steps_in
from vldistill.workbench import Workbench

ADJOINT = 6  # first-order steps that one step of the exact backward sweep counts as
TIMED = ("heads", "full", "lora")  # settings whose step is measured: images or their features, and sentence vectors
CELL_BYTES = 20_000  # a judged cell of a matrix, about
MEASURED_BATCH = 8  # images of the measured step of a trained tower; larger batches are scaled from it


class Estimate:
    """Sizes and times of one configuration.

    Args:
        config: of any stage.

    ``problems`` says what would stop the real command.
    """

    def __init__(self, config: Config) -> None:
        from vldistill.devices import choose_device

        self.problems: list[str] = []
        self.config = config
        image = config.encoder.image
        fetched = replace(image, weights="random") if image.weights == "hub" else image
        text = config.encoder.text
        local = text.name == "hashing" or Path(expand(text.name)).is_dir()
        encoder = replace(config.encoder, image=fetched, text=text if local else replace(text, weights="random"))
        self.bench = Workbench(config.data, encoder, choose_device(config.runtime), Reporter(quiet=True))
        self.counts: dict[str, tuple[int, int]] = {}
        for split in SPLITS:
            self.check(functools.partial(self._count, split))
        self.check(lambda: self.bench.image_tower)
        self.check(lambda: self.bench.text_tower)
        self.ready = not self.problems

    def check(self, refuse: Callable[[], object]) -> None:
        """Note what ``refuse`` raises as one of the problems."""
        try:
            refuse()
        except VldistillError as error:
            self._problem(error)

    def _count(self, split: str) -> None:
        pairs = self.bench.pairs(split)
        self.counts[split] = pairs.count_images, pairs.count_captions

    def _problem(self, error: VldistillError) -> None:
        if str(error) not in self.problems:
            self.problems.append(str(error))

    def of(self, config: Config) -> Estimate:
        """The same towers and measurements for another configuration of experts."""
        other = copy.copy(self)
        other.config = config
        return other

    @property
    def trains_tower(self) -> bool:
        """Whether a step passes a whole image tower."""
        return self.config.encoder.setting != "heads"

    @cached_property
    def trained_numbers(self) -> int:
        """Numbers that a student trains."""
        return sum(t.numel() for named in self.bench.student(0).trained().values() for t in named.values())

    @cached_property
    def _row_seconds(self) -> float:
        """Seconds per pair of one first-order step, measured on random inputs."""
        bench = self.bench
        student, batch = bench.student(0), MEASURED_BATCH if self.trains_tower else 128
        size = bench.image_tower.size
        shape = (batch, 3, size, size) if self.trains_tower else (batch, bench.image_tower.width)
        images, texts = torch.zeros(shape), torch.zeros(batch, bench.text_tower.width)
        return _best_of(lambda: student(images.to(bench.device), texts.to(bench.device)).sum().backward()) / batch

    @cached_property
    def encode_seconds(self) -> float:
        """Seconds to take all images through the frozen image tower once; 0 where it is trained."""
        if self.trains_tower:
            return 0.0
        size, tower = self.bench.image_tower.size, self.bench.image_tower
        images = torch.zeros(MEASURED_BATCH, 3, size, size, device=self.bench.device)
        with torch.no_grad():
            return _best_of(lambda: tower(images)) / MEASURED_BATCH * sum(images for images, _ in self.counts.values())

    @property
    def timed(self) -> bool:
        """Whether times can be told."""
        return self.ready and self.config.encoder.setting in TIMED

    def said_time(self, seconds: Callable[[], float]) -> str:
        """The line about the time."""
        if not self.timed:
            return f"expected time: not known for setting {self.config.encoder.setting}"
        return f"expected time: {human_time(seconds())} on {self.bench.device}, looks at val apart"

    def training_seconds(self, pairs: int, recipe: Recipe, steps_per_epoch: int = 0) -> float:
        """Seconds to train one student or expert."""
        return steps_in(pairs, recipe, steps_per_epoch) * min(recipe.batch, pairs) * self._row_seconds

    def expert_seconds(self) -> float:
        """Seconds of one expert."""
        config = self.config.experts
        return self.training_seconds(self.counts["train"][1], expert_recipe(config), config.steps_per_epoch)

    def distill_seconds(self, config: Config) -> float:
        """Seconds of one distillation and of the set it starts from, by inner steps; a limit in minutes bounds both."""
        distill, options = config.distill, config.methods.get(config.distill.method)
        if first_method(distill):
            own = as_first(distill, config.encoder.setting)
            rest = replace(distill, start="real", start_image="", start_text="")
            seconds = sum(self.distill_seconds(replace(config, distill=part)) for part in (own, rest))
            return min(seconds, 60 * distill.minutes) if distill.minutes else seconds
        inner = getattr(options, "syn_steps", getattr(options, "steps", 1))
        rows = getattr(options, "minibatch", 0) or distill.pairs
        iterations = _iterations(distill)
        seconds = iterations * distill.draws * inner * ADJOINT * rows * self._row_seconds
        if not self.trains_tower and distill.space == "pixels":
            every = max(sum(images for images, _ in self.counts.values()), 1)
            seconds += iterations * distill.draws * 3 * distill.pairs * self.encode_seconds / every
        return min(seconds, 60 * distill.minutes) if distill.minutes else seconds

    def judging_seconds(self, config: Config, pairs: int | None) -> float:
        """Seconds of one evaluation; ``pairs`` is None for the full data."""
        evaluate = config.evaluate
        epochs = max(evaluate.full_epochs) if pairs is None else max(evaluate.generic_epochs, *evaluate.subset_epochs)
        students = evaluate.seeds * len(evaluate.recipes) + len(evaluate.head_rates)
        students += len(evaluate.tower_rates) if self.trains_tower else 0
        return students * self.training_seconds(pairs or self.counts["train"][1], Recipe(epochs=epochs))

    def describe(self, known: Container[str] = ()) -> list[str]:
        """Data, towers, and what is trained. Lines about the data are left out where they are ``known``."""
        encoder = self.config.encoder
        lines = [line for line in self.data_lines() if line not in known]
        lines.append(f"setting {encoder.setting}, image tower {encoder.image.name}, text tower {encoder.text.name}")
        if self.ready:
            size = self.bench.image_tower.size
            pixels = 3 * size**2 * sum(images for images, _ in self.counts.values())
            lines.append(f"{self.trained_numbers:,} trained numbers{self._share()}, images of {size} px")
            lines.append(f"cache: {human_bytes(pixels)} of decoded images in {self.bench.cache}")
        return lines

    def data_lines(self) -> list[str]:
        """Images and captions of each split."""
        source = self.config.data.source
        counts = self.counts.items()
        return [
            f"{split}: {images:,} images, {captions:,} captions of {source}" for split, (images, captions) in counts
        ]

    def _share(self) -> str:
        """In words, how few numbers adapters and text head are beside the tower that stays frozen."""
        if self.config.encoder.setting != "lora":
            return ""
        tower = sum(weight.numel() for weight in self.bench.image_tower.parameters() if not weight.requires_grad)
        return f" ({self.trained_numbers / tower:.1%} of the image tower's {tower:,})"

    def experts_bytes(self, run: Path) -> tuple[int, int, int]:
        """Bytes of one expert, how many are missing in ``run``, and how many are wanted."""
        count = self.config.experts.count
        missing = sum(not expert_path(Run(run).experts, index).exists() for index in range(count))
        return bytes_per_expert(self.bench, self.config.experts), missing, count


def _best_of(work: Any, times: int = 2) -> float:
    """Seconds of ``work``, the shortest of some; the first also warms up."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


def stage_plan(stage: str, config: Config, run: Path, experts_from: Path | None = None) -> tuple[str, list[str]]:
    """The plan of ``experts`` or ``distill`` as text, and what would stop it."""
    config, said = settle(config)
    Run(run).check(config)
    estimate = Estimate(config)
    lines = [f"plan of `vldistill {stage}` in {run}", *estimate.describe()]
    if estimate.ready and stage == "experts":
        each, missing, count = estimate.experts_bytes(run)
        lines.append(
            f"experts: {count}, {count - missing} done; {human_bytes(each)} each, {_disk(each * missing, run)}"
        )
        lines.append(estimate.said_time(lambda: missing * estimate.expert_seconds() + estimate.encode_seconds))
    elif estimate.ready:
        distill = config.distill
        lines += [said] if said else []
        image = 3 * (distill.size or estimate.bench.image_tower.size) ** 2
        numbers = distill.pairs * (image + estimate.bench.text_tower.width)
        limit = f", at most {distill.minutes:g} minutes" if distill.minutes else ""
        lines.append(f"{distill.method}: {distill.pairs} pairs, {_iterations(distill)} iterations{limit}")
        # the set, its preview's pictures, and a checkpoint: variables, two moments, the best, the ones before
        lines.append(f"{numbers:,} learned numbers, {_disk(4 * numbers * (7 + len(distill.keep)), run)}")
        lines.append(estimate.said_time(lambda: estimate.distill_seconds(config) + estimate.encode_seconds))
        estimate.check(lambda: check_data(config, estimate.bench))
        experts: Sequence[Trajectory | PlannedExpert] = []
        if "experts" in find_method(distill.method).build().needs:
            experts, missing = _experts(Run(experts_from or run).experts, config)
            lines += missing
        estimate.check(lambda: check_method(config, estimate.bench, experts))
    if stage == "distill":
        estimate.check(lambda: check_asked(config, experts_from))
        estimate.check(lambda: refuse_other_set(Run(run), config))
    return "\n".join(lines), estimate.problems


def _experts(folder: Path, config: Config) -> tuple[Sequence[Trajectory | PlannedExpert], list[str]]:
    """The experts there are; or those to record, and a line that says so: planning ahead is no mistake."""
    try:
        return [Trajectory(path) for path in expert_files(folder, config.distill.experts)], []
    except VldistillError as error:
        return planned_experts(folder, config.experts, config.distill.experts), [f"first: {error}"]


def comparison_plan(cells: Sequence[Cell], run: Path, workers: int) -> tuple[str, list[str]]:
    """The plan of a comparison as text, and what would stop it."""
    lines = [f"plan of `vldistill compare` in {run}: {len(cells)} cells, {workers} at a time"]
    groups: dict[str, Estimate] = {}
    experts: set[str] = set()
    known: set[str] = set()
    shared = shared_experts(cells)
    seconds, disk = 0.0, 0
    for cell in cells:
        if cell.data_group not in groups:
            estimate = groups[cell.data_group] = Estimate(cell.configs[0])
            lines += [f"  {line}" for line in estimate.describe(known)]
            known |= set(estimate.data_lines())
            seconds += estimate.encode_seconds if estimate.timed else 0.0
        estimate = groups[cell.data_group]
        for group in cell.expert_groups:
            if group not in experts and estimate.ready:
                experts.add(group)
                recorded = estimate.of(shared[group])
                each, missing, count = recorded.experts_bytes(run / "experts" / group)
                disk += each * missing
                needed = missing * recorded.expert_seconds() if recorded.timed else 0.0
                seconds += needed
                lines.append(f"  experts {group}: {count}, {count - missing} done, {human_time(needed)}")
    lines.append("cells:")
    for cell in cells:
        estimate = groups[cell.data_group]
        state, needed = _cell_plan(cell, run, estimate)
        seconds += needed
        lines.append(f"  {cell.id}: {state}")
        if finished(cell, run) is None:
            if cell.pairs is not None and estimate.ready:
                estimate.check(functools.partial(check_count, estimate.counts["train"][0], cell.pairs))
            estimate.check(functools.partial(check_cell, cell, run, estimate.bench))
    problems = list(dict.fromkeys(text for estimate in groups.values() for text in estimate.problems))
    lines.append(f"experts: {_disk(disk, run)}")
    if not problems:
        unknown = sorted({e.config.encoder.setting for e in groups.values() if not e.timed})
        apart = f", without setting {', '.join(unknown)}" if unknown else ""
        lines.append(f"expected time: {human_time(seconds / workers)} with {workers} at a time{apart}")
    return "\n".join(lines), problems


def check_cell(cell: Cell, run: Path, bench: Workbench) -> None:
    """Refuse a cell whose set cannot be made as it is asked for, before anything is decoded. Raises ConfigError."""
    if cell.kind != "method":
        return
    for config in cell.configs:
        config, _ = settle(config)
        try:
            check_asked(config)
            folder = run / "experts" / expert_group(cell, config)
            experts = planned_experts(folder, config.experts, config.distill.experts) if cell.needs_experts else []
            check_method(config, bench, experts)
        except ConfigError as error:
            raise ConfigError(f"{cell.id}: {error}") from None


def cross_plan(
    columns: Mapping[str, Config],
    rows: Sequence[tuple[str, int | None]],
    folder: Path,
    done: Container[tuple[str, str]],
) -> tuple[str, list[str]]:
    """The plan of a matrix as text, and what would stop it.

    Args:
        columns: configuration by the name of its towers.
        rows: names, and pairs (None: the full data).
        folder: where the matrix is kept.
        done: cells that are finished, by row and column.
    """
    lines = [f"plan of `vldistill cross` in {folder}: {len(rows)} rows on {len(columns)} kinds of towers"]
    problems: list[str] = []
    known: set[str] = set()
    seconds = 0.0
    for column, config in columns.items():
        estimate = Estimate(config)
        problems += [text for text in estimate.problems if text not in problems]
        missing = [(name, pairs) for name, pairs in rows if (name, column) not in done]
        needed = 0.0
        if estimate.timed and missing:
            judging = (estimate.judging_seconds(config, pairs) for _, pairs in missing)
            needed = estimate.encode_seconds + sum(judging)
        seconds += needed
        time_said = f", {human_time(needed)}" if needed else ""
        lines.append(f"{column}: {len(rows) - len(missing)} of {len(rows)} done{time_said}")
        lines += [f"  {line}" for line in estimate.describe(known)]
        known |= set(estimate.data_lines())
    lines.append(f"matrix: {_disk(len(rows) * len(columns) * CELL_BYTES, folder)}, beside the caches")
    if not problems:
        lines.append(f"expected time: {human_time(seconds)}")
    return "\n".join(lines), problems


def _cell_plan(cell: Cell, run: Path, estimate: Estimate) -> tuple[str, float]:
    """The state of a cell in words, and the seconds it still needs."""
    if finished(cell, run) is not None:
        return "done", 0.0
    failed = f", failed the last time: {why}" if (why := failure(cell, run)) else ""
    if not estimate.timed:
        return f"to do{failed}", 0.0
    seconds = estimate.judging_seconds(cell.configs[0], cell.pairs)
    if cell.kind == "method":
        last = cell.configs[0]
        trials = [c for c in cell.configs if len(cell.configs) > 1]
        if cell.trial_minutes or not trials:
            seconds += estimate.distill_seconds(last)
        for config in trials:
            minutes = cell.trial_minutes or config.distill.minutes
            seconds += estimate.distill_seconds(replace(config, distill=replace(config.distill, minutes=minutes)))
    trials_said = f", {len(cell.configs)} trials" if len(cell.configs) > 1 else ""
    return f"to do, {human_time(seconds)}{trials_said}{failed}", seconds


def _iterations(distill: DistillConfig) -> int:
    return distill.outer.iterations if trains(find_method(distill.method).build(), distill) else 0


def _disk(needed: int, folder: Path) -> str:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    warning = "" if free >= needed else ": NOT ENOUGH"
    return f"{human_bytes(needed)} of disk, {human_bytes(free)} free{warning}"


def human_time(seconds: float) -> str:
    """Seconds as a rough time: plans are not measurements."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            count = seconds / size
            return f"about {count:.0f} {unit}" if count >= 10 else f"about {count:.1f} {unit}"
    return f"about {max(seconds, 1):.0f} s"
