"""Sets on towers, cell by cell: what ``vldistill cross`` fills, keeps and prints."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vldistill.config import Config
from vldistill.config.plain import Record, entry, section
from vldistill.config.plain_yaml import read_yaml
from vldistill.data.pairs import SPLITS
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.distilled.record import plain_name
from vldistill.errors import ConfigError, VldistillError
from vldistill.evaluation.chosen import count_in
from vldistill.evaluation.partial_results import PartialResults, content_of
from vldistill.evaluation.protocol import evaluate_set
from vldistill.evaluation.results import Evaluation
from vldistill.evaluation.subjects import check_target
from vldistill.evaluation.tables import markdown
from vldistill.options.merge import nested, on_towers, resolved
from vldistill.runtime.devices import choose_compute, choose_device
from vldistill.runtime.log import Reporter
from vldistill.storage.files import digest, read_json, write_record, write_text
from vldistill.workbench.headline import TOP1
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run, environment, to_plain

OWN = "own"  # the column of the run's own towers


def pairs_of(target: str | DistilledSet, pairs: int) -> int:
    """The budget of a row; ``pairs`` where its name has no number."""
    return (count_in(target) if isinstance(target, str) else None) or pairs


def read_towers(path: Path, config: Config) -> dict[str, Config]:
    """The configuration of every column, the run's own first. Raises ConfigError for a file that is malformed."""
    read = read_yaml(path, "--towers")
    if not isinstance(read, dict) or not all(isinstance(part, dict) for part in read.values()):
        raise ConfigError(f"--towers {path}: expected encoder sections by name, e.g. {{small: {{image: {{...}}}}}}.")
    if OWN in read:
        raise ConfigError(f"--towers {path}: {OWN!r} is the run's own towers; choose another name.")
    for name in map(str, read):
        if not plain_name(name):
            raise ConfigError(f"--towers {path}: {name!r} cannot name towers; expected letters, digits, '_' and '-'.")
    plain = to_plain(replace(config, evaluate=replace(config.evaluate, text_map="ridge")))
    columns = {OWN: resolved(plain, OWN)}
    for name, sections in read.items():
        encoder = on_towers(plain["encoder"], nested(sections))
        columns[str(name)] = resolved({**plain, "encoder": encoder}, f"--towers {path}: {name}")
    return columns


@dataclass(frozen=True)
class MatrixCell:
    """A finished cell: its evaluation, and the whole JSON object of its file."""

    evaluation: Evaluation
    record: Record

    @classmethod
    def read(cls, path: Path) -> MatrixCell:
        """Raises ArtefactError."""
        record = read_json(path, "cell of a matrix")
        return cls(Evaluation.from_json(record), record)


@dataclass
class Matrix:
    """Sets x towers.

    Args:
        run: its folder ``cross`` keeps a file per finished cell.
        towers: configuration by column.
        targets: a set, ``random:N`` or ``full``, by row.
        reporter: where progress goes.
    """

    run: Run
    towers: Mapping[str, Config]
    targets: Sequence[str | DistilledSet]
    reporter: Reporter

    def __post_init__(self) -> None:
        self.results: dict[tuple[str, str], MatrixCell] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self.folder = self.run.folder / "cross"

    def fill(self) -> None:
        """Evaluate every cell that has no file of these data yet. A failure is noted, and the other cells continue.

        Raises:
            VldistillError: the data, or the run's own image tower that they are decoded for, cannot be opened.
        """
        config_of_own = self.towers[OWN]
        own = open_bench(config_of_own, self.reporter, run=self.run)
        for target in self.targets:
            if isinstance(target, str):  # refused on every tower if the data cannot supply it
                check_target(own, target, config_of_own.evaluate, config_of_own.select)
        now = {split: own.pixels(split).pairs.fingerprint for split in SPLITS}
        for column, config in self.towers.items():
            paths = {name_of(target): self._path(column, config, target) for target in self.targets}
            bench = own if column == OWN else None
            for target in self.targets:
                name = name_of(target)
                key = digest(paths[name].name, now)
                answers = PartialResults(paths[name].with_suffix(".unfinished"), key, self.reporter)
                if self._kept(paths[name], now) is None:
                    try:
                        bench = bench or open_bench(config, self.reporter, run=self.run)
                        bench.check_towers()
                        check_target(bench, target, config.evaluate, config.select)
                        result = evaluate_set(bench, target, config.evaluate, config.select, answers)
                    except VldistillError as error:
                        known = {(there, why) for (_, there), why in self.failed.items()}
                        self.failed[name, column] = str(error)
                        if (column, str(error)) not in known:  # towers that cannot be built fail every row
                            self.reporter.warn(f"{name} on {column}: {error}")
                        continue
                    plain = result.to_json()
                    write_record(paths[name], {**plain, "towers": column, "environment": environment()})
                answers.remove()
                self.results[name, column] = MatrixCell.read(paths[name])

    def _kept(self, path: Path, now: Mapping[str, str]) -> MatrixCell | None:
        """A finished cell; None where there is none, or its data differ from the fingerprints ``now``."""
        if not path.exists():
            return None
        kept = MatrixCell.read(path)
        same = all(now.get(split, known) == known for split, known in kept.evaluation.data.items())
        return kept if same else None

    def finished(self) -> set[tuple[str, str]]:
        """The cells that have a file of the run's data, by row and column; no data are opened."""
        now = {split: str(seen.get("fingerprint")) for split, seen in self.run.data().items()}
        return {
            (name_of(target), column)
            for column, config in self.towers.items()
            for target in self.targets
            if self._kept(self._path(column, config, target), now) is not None
        }

    def _path(self, column: str, config: Config, target: str | DistilledSet) -> Path:
        """A name that changes with whatever the result depends on."""
        plain = to_plain(config)
        content = target if isinstance(target, str) else content_of(target)
        parts = [config.data.source, plain["encoder"], plain["evaluate"], plain["select"], content]
        precision = choose_compute(config.runtime, choose_device(config.runtime)).precision
        key = digest(*parts, *([] if precision == "float32" else [precision]))
        return self.folder / column / f"{name_of(target).replace(':', '-')}-{key[:6]}.json"

    def write(self, name: str) -> str:
        """Write ``NAME.md``, ``.csv`` and ``.json``; returns the Markdown."""
        text = self.markdown()
        write_text(self.folder / f"{name}.md", text)
        write_text(self.folder / f"{name}.csv", self.csv())
        results = {f"{row} on {column}": cell.record for (row, column), cell in self.results.items()}
        failed = {f"{row} on {column}": why for (row, column), why in self.failed.items()}
        write_record(self.folder / f"{name}.json", {"results": results, "failed": failed, "environment": environment()})
        return text

    def markdown(self) -> str:
        """The matrix, and what its columns are."""
        lines = [[row, *(self._cell(row, column) for column in self.towers)] for row in map(name_of, self.targets)]
        notes = []
        for column in self.towers:
            found = [cell.evaluation for (_, there), cell in self.results.items() if there == column]
            if found:
                maps = [section(one.details, "text_map") for one in found if "text_map" in one.details]
                note = f"- {column}: {found[0].image_tower} and {found[0].text_tower}"
                if maps:
                    r2 = entry(maps[0], "r2_val", int, float) or 0.0
                    note += f"; the set's texts by a ridge map from {maps[0].get('from')}, R2 {r2:.2f} on val"
                notes.append(note)
        failures: dict[tuple[str, str], list[str]] = {}
        for (row, column), why in self.failed.items():
            failures.setdefault((column, why), []).append(row)
        notes += [f"- failed: {', '.join(rows)} on {column}: {why}" for (column, why), rows in failures.items()]
        evaluate = next(iter(self.towers.values())).evaluate
        legend = (
            f"{self._measure()} on test in percent, {self._recipe()} recipe, protocol {evaluate.protocol}, "
            f"mean ± standard deviation over {evaluate.seeds} students."
        )
        return "\n".join([markdown(["set", *self.towers], lines), "", legend, "", *notes, ""])

    def csv(self) -> str:
        """One line per cell, every recall."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["set", "towers", "recipe", "measure", "mean", "std"])
        for (row, column), cell in self.results.items():
            for recipe, scores in cell.evaluation.scores().items():
                for measure, figure in scores.figures.items():
                    writer.writerow([row, column, recipe, measure, figure.mean, figure.std])
        return out.getvalue()

    def _measure(self) -> str:
        found = {scores.measure for cell in self.results.values() for scores in cell.evaluation.scores().values()}
        return "Zero-shot top-1" if TOP1 in found else "Mean of six recalls"

    def _recipe(self) -> str:
        return "generic" if "generic" in next(iter(self.towers.values())).evaluate.recipes else "own"

    def _cell(self, row: str, column: str) -> str:
        if (row, column) in self.failed:
            return "failed"
        cell = self.results.get((row, column))
        scores = cell.evaluation.scores().get(self._recipe()) if cell else None
        return str(scores.headline) if scores else "-"


def name_of(target: str | DistilledSet) -> str:
    """The name of a row."""
    return target if isinstance(target, str) else target.name
