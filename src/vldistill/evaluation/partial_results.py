"""Partial results of an evaluation, student by student: an interrupted one resumes with the next student."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from vldistill.config import Config, SelectConfig, expand
from vldistill.config.former import without_neutral
from vldistill.config.plain import Plain
from vldistill.config.select import FILES
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError
from vldistill.runtime.log import Reporter
from vldistill.storage.files import digest, read_json, write_record
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench
from vldistill.workbench.class_sets import class_bench

T = TypeVar("T")


class PartialResults:
    """The figures of students, each in a file of its own until the evaluation is finished.

    Args:
        folder: of one evaluation; None keeps nothing.
        key: a hash of everything that the figures depend on besides recipe and seed.
        reporter: warned of damaged files.
    """

    def __init__(self, folder: Path | None = None, key: str = "", reporter: Reporter | None = None) -> None:
        self.folder, self.key, self.reporter = folder, key, reporter
        self.count = 0
        self._began, self._before = time.monotonic(), 0.0

    def answer(self, kind: str, recipe: Recipe, seed: int, find: Callable[[], Plain], parse: Callable[[Plain], T]) -> T:
        """The figures of a student: read, or computed by ``find`` and kept.

        Args:
            kind: ``val`` or ``test``.
            recipe: of the student.
            seed: of the student.
            find: returns a JSON value.
            parse: makes the figures of it; raises ArtefactError, TypeError or ValueError for a damaged one.
        """
        if self.folder is None:
            return parse(find())
        path = self.folder / f"{digest(self.key, kind, recipe.to_dict(), seed)}.json"
        kept = self._read(path, parse)
        if kept is None:
            began = time.monotonic()
            found = find()
            kept = parse(found), time.monotonic() - began
            write_record(path, {"answer": found, "seconds": kept[1]})
        else:
            self._before += kept[1]
        self.count += 1
        return kept[0]

    def seconds(self) -> float:
        """Time spent, including that of interrupted processes."""
        return self._before + time.monotonic() - self._began

    def remove(self) -> None:
        """Delete the files: the evaluation is finished."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, path: Path, parse: Callable[[Plain], T]) -> tuple[T, float] | None:
        if not path.exists():
            return None
        try:
            kept = read_json(path, "a student's figures")
            return parse(kept["answer"]), float(kept["seconds"])
        except (ArtefactError, KeyError, TypeError, ValueError) as error:
            if self.reporter is not None:
                self.reporter.warn(f"{error} This student is trained again.")
            return None


def content_of(distilled: DistilledSet) -> str:
    """A hash of a set's training data for students: its tensors and its recipe."""
    return digest(*(t.contiguous().numpy().tobytes() for t in distilled.tensors().values()), distilled.recipe.to_dict())


def evaluation_key(bench: Workbench, target: str | DistilledSet, config: Config) -> str:
    """A hash of everything students' figures depend on: data, towers, pairs, protocol."""
    content = content_of(target) if isinstance(target, DistilledSet) else digest(target, *_choice(config.select))
    fingerprints = [bench.pairs(split).fingerprint for split in ("train", "val", "test")]
    options: dict[str, Plain] = {
        "protocol": config.evaluate.protocol,
        "looks": config.evaluate.max_validations,
        "map": config.evaluate.text_map,
    }
    if config.evaluate.zero_shot:
        options["zero_shot"] = [_test_of(bench, source, config) for source in config.evaluate.zero_shot]
    precision = [] if bench.compute.precision == "float32" else [bench.compute.precision]
    views, kind = bench.data_config.views, bench.data_config.features
    return digest(content, bench.fingerprint, fingerprints, options, views, kind, *precision)


def _choice(select: SelectConfig) -> list[Plain]:
    """Everything that the choice of real pairs depends on: options, and what the files hold that they name."""
    options = without_neutral(SelectConfig, asdict(select))
    files = [expand(str(options[name])) for name in FILES if options.get(name)]
    held = [digest(Path(file).read_bytes()) for file in files if Path(file).is_file()]
    return [options, *([held] if held else [])]


def _test_of(bench: Workbench, source: str, config: Config) -> list[Plain]:
    """A class source and what its test split holds."""
    other = class_bench(bench, source, config.evaluate.zero_shot_prompts)
    return [source, other.pairs("test").fingerprint]
