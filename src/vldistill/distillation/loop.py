"""The only outer loop: step, guard, apply, log, validate, checkpoint, resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Generic

import torch

from vldistill.config.plain import Plain
from vldistill.distillation.averaging import averaged_update
from vldistill.distillation.guard import MEMORY, PATIENCE, diverged, not_finite, trouble_of
from vldistill.distillation.metagrad.backward_sweep import NonFiniteError
from vldistill.distillation.method import METHODS, Context, Method, Start, State, T, TrainedMethod, Update
from vldistill.distillation.outer_optimiser import OuterOptimiser
from vldistill.distillation.resume import (
    CHECKPOINT,
    METRICS_FILE,
    Progress,
    cut_metrics,
    foreign_checkpoint,
    part,
    read_checkpoint,
    same_experts,
    write_checkpoint,
)
from vldistill.distillation.validation import Validation, selection
from vldistill.distillation.written import Written
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError, DivergedError, Stopped
from vldistill.runtime.processes import ALONE, Processes
from vldistill.selection.classes import pair_classes
from vldistill.storage.checkpoints import Checkpoints
from vldistill.storage.files import append_line
from vldistill.tracking.follow import Trackers
from vldistill.training.losses import numbered_texts
from vldistill.workbench.headline import IN_WORDS, val_key


@dataclass
class Loop(Generic[T]):
    """One distillation.

    Args:
        method: what gives the gradients.
        context: what it works with.
        folder: the set's folder; checkpoint and metrics are written here.
        score: evaluates a set on val, higher is better.
        save: writes a kept set; called with the set and its iteration.
        stop_asked: true once the user wants to stop; asked after every step.
        processes: share the draws of each iteration. All go through the same steps and decisions; the first alone
            validates and writes.
        start_seconds: what making the start took, which counts.
        trackers: receive what is written to the metrics.
    """

    method: Method[T]
    context: Context[T]
    folder: Path
    score: Callable[[DistilledSet], float]
    save: Callable[[DistilledSet, int], None]
    stop_asked: Callable[[], bool]
    processes: Processes = ALONE
    start_seconds: float = 0.0
    trackers: Trackers = field(default_factory=Trackers)

    @property
    def checkpoints(self) -> Checkpoints:
        """The last two checkpoints; each holds everything, the best set too."""
        return Checkpoints(self.folder / CHECKPOINT, self.context.bench.reporter)

    def run(self, start: Start) -> DistilledSet:
        """Distil from ``start``, or resume from the checkpoint; returns the best set on val, or the last without val.

        Raises:
            Stopped: after the checkpoint is written, when the user asked to stop.
            DivergedError: when steps keep failing; :meth:`best_set` gives the best one so far.
        """
        config = self.context.config
        self._begin(start)
        last = self._iterations()
        with self.context.bench.reporter.progress(*self._described(last)) as bar:
            while True:
                iteration = self.progress.iteration
                last = min(last, iteration) if self._part_of_time() >= 1 else last
                self._keep_and_validate(iteration, last)
                if iteration >= last:
                    break
                context = replace(self.context.at(iteration), spent=self._part_of_time(), text_numbers=self._texts())
                try:
                    update = self._step(self.state, context)
                    trouble = self._trouble(update) or self._apply(update, context)
                except NonFiniteError as error:
                    update, trouble = None, str(error)
                logs = self._undo(iteration, trouble) if trouble or not update else self._accept(iteration, update)
                bar.advance(1, **logs)
                if self.processes.any(self.stop_asked()):
                    self._checkpoint()
                    raise Stopped(f"stopped after iteration {self.progress.iteration} of {last}; everything is saved")
                if self.progress.iteration % config.checkpoint_every == 0:
                    self._checkpoint()
        if last < config.iterations and self._part_of_time() >= 1:
            self.context.bench.reporter.info(f"{config.minutes:g} minutes are over after {last} iterations")
        if self.progress.undone and self.progress.undone == self.progress.iteration:
            self._checkpoint()
            raise DivergedError(diverged(f"all {self.progress.undone} steps were undone, nothing was learned"))
        return self.best_set()

    def _begin(self, start: Start) -> None:
        """State, optimiser and averages at their start, or as the checkpoint left them."""
        config = self.context.config
        self.state = self.method.setup(start, self.context.at(0))
        self._classes = pair_classes(self.context.bench, start.captions)
        self.progress = Progress(
            experts=[expert.path.name for expert in self.context.experts], seconds=self.start_seconds
        )
        self.optimiser = OuterOptimiser(self.state, config)
        self.average = _copies(self.state.variables) if config.ema else None
        self.validation = Validation(self.score, config.validate_every, _copies(self.state.variables))
        self._before = _copies(self._moving())
        self._resume()
        begun = self.processes.gather(self.progress.iteration)
        if any(iteration != begun[0] for iteration in begun):
            raise ArtefactError(
                f"the processes found checkpoints of iterations {begun} in {self.folder}. They need one file system; "
                f"delete that folder if it is on one."
            )
        self.processes.share(self._moving().values())  # a start computed on several GPUs may differ in the last digit
        self._began = self._now() - self.progress.seconds

    def _iterations(self) -> int:
        """Outer iterations; none for a method that trains nothing here."""
        config = self.context.config
        if not isinstance(self.method, TrainedMethod) or not METHODS.find(config.method).trains(config.space):
            return 0
        alone = config.draws == 1 and self.processes.size == 1
        self._step = self.method.step if alone else partial(averaged_update, self.method, processes=self.processes)
        return config.iterations

    def _texts(self) -> torch.Tensor | None:
        """Which learned texts are equal or of one class, where those are no negatives of each other."""
        config = self.context.config
        if self._classes is not None:
            return torch.tensor(self._classes.keys)[:, None].expand(-1, config.captions)
        distinct = self.context.negatives == "distinct"
        plain = self.method.plain(self.state) if isinstance(self.method, Written) else self.state
        return numbered_texts(plain.variables["texts"], config.captions) if distinct else None

    def _described(self, last: int) -> tuple[str, int, int, float]:
        """What the progress bar shows: a title, iterations in all and done, and the seconds there are."""
        config = self.context.config
        seconds = max(0.0, 60 * config.minutes - self.progress.seconds) if config.minutes else math.inf
        return f"{config.method}, {config.pairs} pairs", last, self.progress.iteration, seconds

    def _keep_and_validate(self, iteration: int, last: int) -> None:
        """Write a set that is to be kept, and validate where that is due; the first process does."""
        if not self.processes.first:
            return
        shown = self.average or self.state.variables
        if iteration in self.context.config.keep:
            self.save(self._export(shown, iteration), iteration)
        if self.validation.due(iteration, last):
            score = self.validation.validate(self._export(shown, iteration), shown, iteration, self.progress)
            measure = self.context.bench.measure
            self._log({"iteration": iteration, val_key(measure): score, "seconds": self._seconds()})
            self.context.bench.reporter.info(f"iteration {iteration}: {IN_WORDS[measure]} on val {score:.2f}")

    def _trouble(self, update: Update) -> str:
        """Why an update must not be applied; empty if it may. Losses of different phases are not compared."""
        if update.phase != self.progress.phase:
            self.progress.phase, self.progress.recent = update.phase, []
        return trouble_of(update, self.progress.recent)

    def _apply(self, update: Update, context: Context[T]) -> str:
        """Take the step; why it must be undone, empty if it may stay."""
        self._before = _copies(self._moving())
        done = context.progress if update.progress is None else update.progress
        self.optimiser.apply(update.gradients, done, self.progress.scale)
        for name, value in update.carried.items():
            self.state.carried[name].copy_(value)
        return not_finite(
            {
                "{} is not finite after the step": self.state.variables,
                "the optimiser's {} is not finite after the step": self.optimiser.state_dict(),
            }
        )

    def _accept(self, iteration: int, update: Update) -> dict[str, float]:
        """Count a step that was taken: averages and logs; returns what the progress bar shows."""
        progress = self.progress
        progress.recent = [*progress.recent[-MEMORY + 1 :], update.value]
        progress.bad_in_a_row = 0
        progress.iteration += 1
        if self.average is not None:
            for name in update.gradients:  # a variable that rests keeps its average
                self.average[name].lerp_(self.state.variables[name], 1 - self.context.config.ema)
        rates = {
            name.removeprefix("log_"): float(value.exp())
            for name, value in self.state.variables.items()
            if name.startswith("log_rate_") and value.ndim == 0
        }
        self._log({"iteration": iteration, "value": update.value, **update.logs, **rates})
        return {"loss": update.value, **rates}

    def _undo(self, iteration: int, trouble: str) -> dict[str, float]:
        """Go back to before the last step that was applied: that one led here. Rates are halved."""
        progress, trouble = self.progress, trouble.rstrip(".")
        self._restore(self._before)
        progress.scale /= 2
        progress.bad_in_a_row += 1
        progress.undone += 1
        message = f"iteration {iteration}: {trouble}; the last step is undone, rates are now x {progress.scale:g}"
        self.context.bench.reporter.warn(message)
        self._log({"iteration": iteration, "event": "undone", "why": trouble, "scale": progress.scale})
        if progress.bad_in_a_row >= PATIENCE:
            self._checkpoint()
            kept = f"best set on val (iteration {progress.best_iteration})" if progress.looks else "last good set"
            failed = f"{PATIENCE} steps in a row failed, the last because {trouble}"
            raise DivergedError(f"{diverged(failed)} The {kept} is kept.")
        progress.iteration += 1
        return {}

    def best_set(self) -> DistilledSet:
        """The best set on val so far; without validation the current set."""
        if self.progress.looks:
            return self._export(self.validation.best, self.progress.best_iteration)
        return self._export(self.average or self.state.variables, self.progress.iteration)

    def _export(self, variables: dict[str, torch.Tensor], iteration: int) -> DistilledSet:
        state = State({name: value.detach() for name, value in variables.items()}, self.state.carried)
        distilled = self.method.export(state, self.context.at(iteration))
        info = {**distilled.info, "selection": selection(self.progress, self._seconds(), self.context.bench.measure)}
        return replace(distilled, info=info if self._classes is None else {**info, "classes": self._classes.to_json()})

    def _part_of_time(self) -> float:
        """The part of the minutes that is over, validation included; 0 to 1, and 0 without a limit."""
        minutes = self.context.config.minutes
        return self.processes.of_first(min(self._seconds() / (60 * minutes), 1.0)) if minutes else 0.0

    def _seconds(self) -> float:
        return self._now() - self._began

    def _now(self) -> float:
        """Seconds on the clock that ``distill.minutes`` are measured by."""
        if self.context.config.clock == "wall":
            return time.monotonic()
        return time.process_time() / torch.get_num_threads()

    def _log(self, record: dict[str, Plain]) -> None:
        if not self.processes.first:
            return
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        append_line(self.folder / METRICS_FILE, json.dumps(plain))
        self.trackers.record(plain)

    def _moving(self) -> dict[str, torch.Tensor]:
        """Everything that a step changes, by name; the tensors are the live ones."""
        return {
            **{f"state/{k}": v for k, v in self.state.state_dict().items()},
            **{f"optimiser/{k}": v for k, v in self.optimiser.state_dict().items()},
            **{f"average/{k}": v for k, v in (self.average or {}).items()},
        }

    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Copy what :meth:`_moving` gave back."""
        self.state.load_state_dict(part(tensors, "state/"))
        self.optimiser.load_state_dict(part(tensors, "optimiser/"))
        for name, value in (self.average or {}).items():
            value.copy_(tensors[f"average/{name}"])

    def _checkpoint(self) -> None:
        if not self.processes.first:
            return
        self.progress.seconds = self._seconds()
        tensors = {
            **self._moving(),
            **{f"best/{k}": v for k, v in self.validation.best.items()},
            **{f"before/{k}": v for k, v in self._before.items()},
        }
        write_checkpoint(self.checkpoints, tensors, self.progress)

    def _resume(self) -> None:
        found = read_checkpoint(self.checkpoints)
        if found is None:
            if self.processes.first:
                (self.folder / METRICS_FILE).unlink(missing_ok=True)
            return
        path = self.checkpoints.path
        tensors, self.progress = found
        with foreign_checkpoint(path):
            self._restore(tensors)
            for name, value in self.validation.best.items():
                value.copy_(tensors[f"best/{name}"])
        self._before = part(tensors, "before/")
        self.context = replace(self.context, experts=same_experts(self.context.experts, self.progress.experts, path))
        if self.processes.first:
            cut_metrics(self.folder / METRICS_FILE, self.progress.iteration)
            self.trackers.resume(self.folder / METRICS_FILE)
        self.context.bench.reporter.info(f"resuming at iteration {self.progress.iteration}")


def _copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}
