"""The options that a cell tries: the grid, then beyond its edges, the same number for every row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from vldistill.cluster import UnitFailed
from vldistill.comparison.cells import Cell
from vldistill.comparison.trials import Trials, tried_configurations
from vldistill.config import Config
from vldistill.config.plain import expect
from vldistill.options.merge import merged, nested, resolved
from vldistill.storage.files import write_record
from vldistill.workbench.run_folder import to_plain

GRID = {"distill.image_lr": [0.01, 0.03], "distill.text_lr": [0.1, 0.3]}


def cell_of(widen: int, grid: dict[str, list[float]] | None = None) -> Cell:
    grid = grid or GRID
    base = to_plain(Config())
    values = [{}]
    for name, options in grid.items():
        values = [{**one, name: value} for one in values for value in options]
    plain = [merged(base, {"distill": {"method": "bilevel"}}, nested(one)) for one in values]
    configs = tuple(resolved(one, "test") for one in plain)
    return Cell("row", "method", "bilevel", 6, "heads", "own", 0, configs, 0.0, grid, widen)


def launcher(score: Callable[[Config], float], seen: list[Config]) -> Callable[[Sequence[str], Path], None]:
    """A command that leaves a set and a validation whose score depends on the configuration."""

    def launch(words: Sequence[str], log: Path) -> None:
        asked = dict(zip(words[1::2], words[2::2]))
        place = Path(asked["--run"])
        config = resolved(expect(yaml.safe_load(Path(asked["--config"]).read_text()), dict), "test")
        if words[0] == "distill":
            seen.append(config)
            folder = place / "sets" / "made"
            folder.mkdir(parents=True)
            write_record(folder / "set.json", {"info": {"selection": {"seconds": 1.0, "looks": 0}}})
        else:
            (place / "results" / "val").mkdir(parents=True)
            write_record(place / "results" / "val" / "made.json", {"val_mean_recall": score(config)})

    return launch


def rates(configs: list[Config]) -> list[tuple[float | None, float | None]]:
    return [(config.distill.image_lr, config.distill.text_lr) for config in configs]


def test_an_edge_that_is_best_is_searched_beyond(tmp_path: Path) -> None:
    seen: list[Config] = []
    launch = launcher(lambda config: 10 * (config.distill.image_lr or 0) - (config.distill.text_lr or 0), seen)
    found = Trials(cell_of(2), tmp_path, tmp_path / "cells" / "a", launch).run()
    assert rates(seen)[:4] == [(0.01, 0.1), (0.01, 0.3), (0.03, 0.1), (0.03, 0.3)]
    assert rates(seen)[4:] == [(0.09, 0.1), (0.27, 0.1)]
    assert [trial.val_mean_recall for trial, _ in found] == pytest.approx([0, -0.2, 0.2, 0.0, 0.8, 2.6])
    assert found[-1][0].options == {"distill.image_lr": 0.27, "distill.text_lr": 0.1}


def test_every_row_has_the_same_number_of_trials(tmp_path: Path) -> None:
    """Also where the best is inside the grid: then the others are near it."""
    grid: dict[str, list[float]] = {"distill.image_lr": [0.01, 0.03, 0.09], "distill.text_lr": [0.1, 0.3, 0.9]}
    seen: list[Config] = []
    inside = launcher(lambda c: -abs((c.distill.image_lr or 0) - 0.03) - abs((c.distill.text_lr or 0) - 0.3), seen)
    cell = cell_of(2, grid)
    cell = replace(cell, configs=cell.configs[::2])
    assert len(Trials(cell, tmp_path, tmp_path / "cells" / "a", inside).run()) == 7
    assert len(set(rates(seen))) == 7


def test_whole_numbers_stay_whole_and_words_have_no_beyond(tmp_path: Path) -> None:
    seen: list[Config] = []
    cell = cell_of(2, {"distill.draws": [1, 2]})
    launch = launcher(lambda config: config.distill.draws, seen)
    Trials(cell, tmp_path, tmp_path / "a", launch).run()
    assert [config.distill.draws for config in seen] == [1, 2, 4, 8]
    words: list[Config] = []
    cell = cell_of(2, {"distill.decay": ["none", "cosine"]})  # pyright: ignore[reportArgumentType]
    Trials(cell, tmp_path, tmp_path / "b", launcher(lambda config: 0.0, words)).run()
    assert [config.distill.decay for config in words] == ["none", "cosine"]


def test_a_value_that_does_not_work_is_a_failed_trial(tmp_path: Path) -> None:
    seen: list[Config] = []
    cell = cell_of(1, {"distill.ema": [0.5, 0.9]})
    found = Trials(cell, tmp_path, tmp_path / "a", launcher(lambda config: config.distill.ema or 0, seen)).run()
    assert len(seen) == 2 and len(found) == 3
    assert found[-1][0].val_mean_recall is None and "distill.ema is 1.62" in found[-1][0].error


def test_a_finished_trial_is_not_run_again_and_every_configuration_is_counted_once(tmp_path: Path) -> None:
    seen: list[Config] = []
    launch = launcher(lambda config: 10 * (config.distill.image_lr or 0), seen)
    for _ in range(2):
        Trials(cell_of(2), tmp_path, tmp_path / "cells" / "a", launch).run()
    assert len(seen) == 6
    with (tmp_path / "tried.jsonl").open("a") as lines:
        lines.write('{"row": "cut')
    place = ("heads", "own", "row", 6)
    assert {key: len(known) for key, known in tried_configurations(tmp_path).items()} == {place: 6}
    Trials(cell_of(0, {"distill.clip": [0.5, 0.7]}), tmp_path, tmp_path / "cells" / "b", launch).run()
    assert len(tried_configurations(tmp_path)[place]) == 8


def test_a_lost_process_ends_the_trials(tmp_path: Path) -> None:
    def lost(words: Sequence[str], log: Path) -> None:
        raise UnitFailed("gone", "lost")

    with pytest.raises(UnitFailed, match="gone"):
        Trials(cell_of(1), tmp_path, tmp_path / "a", lost).run()
    assert json.loads((tmp_path / "tried.jsonl").read_text())["row"] == "row"
