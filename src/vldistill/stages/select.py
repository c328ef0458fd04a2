"""The stage that chooses real pairs."""

from __future__ import annotations

import time
from pathlib import Path

from vldistill.config import Config
from vldistill.config.checks import check_label
from vldistill.errors import Stopped
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import peak_memory
from vldistill.selection.choose import check_count, check_ground, check_readable
from vldistill.selection.coreset import choose_coreset, coreset_name
from vldistill.selection.selector import SELECTORS
from vldistill.storage.files import write_record
from vldistill.storage.locks import held
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run, refuse_other


def select(run: Run, config: Config, reporter: Reporter, label: str = "") -> Path:
    """Choose real pairs, and write them as a set of the run; returns its folder.

    Args:
        label: added to the set's name, to keep variants side by side in one run.

    Raises:
        ConfigError: what cannot work or contradicts what the run or the set was begun with.
        Stopped: by Ctrl-C or SIGTERM; a finished warm-up is kept.
    """
    check_label("--label", label)
    asked = config.select
    entry = SELECTORS.find(asked.method)
    check_ground(asked.method, asked.pairs, asked)
    run.check(config)
    bench = open_bench(config, reporter, run=run)
    check_count(bench.pairs("train").count_images, asked.pairs)
    folder = run.sets / coreset_name(asked, label)
    note = {"select": {"method": asked.method, "pairs": asked.pairs, "seed": asked.seed} | entry.options(asked)}
    refuse_other(folder, note)
    bench.check_towers()
    if (folder / "set.json").exists():
        run.begin(config)
        reporter.info(f"{folder} is finished already; nothing to do")
        return folder
    check_readable(bench, asked.pairs)
    run.begin(config)
    began = time.monotonic()
    try:
        with held(folder.with_name(f".{folder.name}.lock"), str(folder)):
            coreset = choose_coreset(bench, asked, label)
            write_record(folder / "config.json", note)
            coreset.save(folder)
    except KeyboardInterrupt:
        raise Stopped("stopped; a finished warm-up is kept. Run the same command to resume.") from None
    seconds = round(time.monotonic() - began, 2)
    run.log(stage="select", set=folder.name, seconds=seconds, peak_memory_bytes=peak_memory())
    reporter.info(f"{len(coreset.pairs)} pairs, {coreset.pairs.stored_floats:,} stored floats in {folder}")
    return folder
