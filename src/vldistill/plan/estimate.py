"""Sizes and times of a configuration, the times from one training step that is measured now.

Towers get random weights where theirs would be downloaded: shapes and speed are the same.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Container
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from vldistill.config import Config, ResolvedDistillConfig, expand
from vldistill.data.pairs import SPLITS
from vldistill.distillation.method import METHODS
from vldistill.errors import VldistillError
from vldistill.experts.record import bytes_per_expert, expert_path, expert_recipe
from vldistill.options.resolve import ResolvedConfig
from vldistill.runtime.devices import choose_device
from vldistill.runtime.log import Reporter
from vldistill.storage.files import human_bytes
from vldistill.training.recipe import Recipe
from vldistill.training.steps import steps_in
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import Run

ADJOINT = 6  # first-order steps that one step of the exact backward sweep counts as
TIMED = ("heads", "full", "lora")  # settings whose step is measured: images or their features, and sentence vectors
MEASURED_BATCH = 8  # images of the measured step of a trained tower; larger batches are scaled from it


class Estimate:
    """Sizes and times of one configuration.

    Args:
        config: of any stage.

    ``problems`` lists the errors that would stop the real command.
    """

    def __init__(self, config: Config) -> None:
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
        missing = bool(self.problems)  # then no tower is looked up on a hub
        if not (missing and image.name.startswith("hf-hub:")):
            self.check(lambda: self.bench.image_tower)
        if local or not missing:
            self.check(lambda: self.bench.text_tower)
        self.ready = not self.problems

    def check(self, refuse: Callable[[], object]) -> None:
        """Note what ``refuse`` raises as one of the problems."""
        try:
            refuse()
        except VldistillError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))

    def _count(self, split: str) -> None:
        pairs = self.bench.pairs(split)
        self.counts[split] = pairs.count_images, pairs.count_captions

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
        """Seconds to take all images through the frozen image tower once; 0 where it is trained, and of vectors."""
        if self.trains_tower or not self.bench.has_pixels:
            return 0.0
        size, tower = self.bench.image_tower.size, self.bench.image_tower
        images = torch.zeros(MEASURED_BATCH, 3, size, size, device=self.bench.device)
        with torch.no_grad():
            return _best_of(lambda: tower(images)) / MEASURED_BATCH * sum(images for images, _ in self.counts.values())

    @property
    def timed(self) -> bool:
        """Whether times can be estimated."""
        return self.ready and self.config.encoder.setting in TIMED

    def time_line(self, seconds: Callable[[], float]) -> str:
        """The line about the time."""
        if not self.timed:
            return f"expected time: not known for setting {self.config.encoder.setting}"
        return f"expected time: {human_time(seconds())} on {self.bench.device}, without validation"

    def training_seconds(self, pairs: int, recipe: Recipe, steps_per_epoch: int = 0) -> float:
        """Seconds to train one student or expert."""
        return steps_in(pairs, recipe, steps_per_epoch) * min(recipe.batch, pairs) * self._row_seconds

    def expert_seconds(self) -> float:
        """Seconds of one expert."""
        config = self.config.experts
        return self.training_seconds(self.counts["train"][1], expert_recipe(config), config.steps_per_epoch)

    def distill_seconds(self, config: ResolvedConfig) -> float:
        """Seconds of one distillation and of the set it starts from, by inner steps; a limit in minutes bounds both."""
        distill = config.distill
        if config.first:
            rest = replace(distill, start="real", start_image="", start_text="")
            seconds = sum(self.distill_seconds(replace(config, distill=part)) for part in (config.first, rest))
            return min(seconds, 60 * distill.minutes) if distill.minutes else seconds
        entry = METHODS.find(distill.method)
        inner, batch = entry.inner_steps(config.options)
        rows = batch or distill.pairs
        iterations = iterations_of(distill)
        seconds = iterations * distill.draws * inner * ADJOINT * rows * self._row_seconds
        if not self.trains_tower and distill.space == "pixels":
            every = max(sum(images for images, _ in self.counts.values()), 1)
            seconds += iterations * distill.draws * 3 * distill.pairs * self.encode_seconds / every
        return min(seconds, 60 * distill.minutes) if distill.minutes else seconds

    def evaluation_seconds(self, config: Config, pairs: int | None) -> float:
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
            if not self.bench.has_pixels:
                return [*lines, f"{self.trained_numbers:,} trained numbers, on vectors that stay where they are"]
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


def _best_of(work: Callable[[], object], times: int = 2) -> float:
    """Seconds of ``work``, the shortest of some; the first also warms up."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


def iterations_of(distill: ResolvedDistillConfig) -> int:
    """Iterations of a distillation; none of a method that trains nothing."""
    return distill.iterations if METHODS.find(distill.method).trains(distill.space) else 0


def human_time(seconds: float) -> str:
    """Seconds as a rough time: plans are not measurements."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            count = seconds / size
            return f"about {count:.0f} {unit}" if count >= 10 else f"about {count:.1f} {unit}"
    return f"about {max(seconds, 1):.0f} s"
