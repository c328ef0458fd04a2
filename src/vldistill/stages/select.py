"""The stage that chooses real pairs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from vldistill.config import Config
from vldistill.config.checks import check_label
from vldistill.config.plain import Plain
from vldistill.distillation.pair_weights import FILE, caption_weights, write_weights
from vldistill.errors import Stopped
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import peak_memory
from vldistill.selection.choose import check_count, check_ground, check_readable
from vldistill.selection.coreset import choose_coreset, coreset_name
from vldistill.selection.ids import check_ids
from vldistill.selection.material import Material
from vldistill.selection.pipeline import pipeline_options
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
    note = {
        "select": {"method": asked.method, "pairs": asked.pairs, "seed": asked.seed}
        | entry.options(asked)
        | pipeline_options(asked)
        | {name: list(getattr(asked, name)) for name in ("budgets", "ids") if getattr(asked, name)}
        | ({"weigh": True} if asked.weigh else {})
    }
    refuse_other(folder, note)
    bench.check_towers()
    if (folder / "set.json").exists():
        run.begin(config)
        reporter.info(f"{folder} is finished already; nothing to do")
        return folder
    check_readable(bench, asked.pairs)
    material = Material(bench, asked)
    check_ids(asked.ids, material.pairs.images.names, material.table)
    run.begin(config)
    began = time.monotonic()
    try:
        with held(folder.with_name(f".{folder.name}.lock"), str(folder)):
            coreset = choose_coreset(bench, asked, label)
            write_record(folder / "config.json", note)
            if asked.weigh:
                weights = caption_weights(bench)
                write_weights(bench, weights, folder / FILE)
                low = int((weights < config.data.min_weight).sum())
                reporter.info(
                    f"{low:,} of {len(weights):,} captions weigh less than {config.data.min_weight:g}; train without "
                    f"them in another run by --data.weights {folder / FILE}"
                )
            for budget in sorted(asked.budgets):
                part = run.sets / f"{coreset_name(replace(asked, pairs=budget, budgets=()), label)}-of-{asked.pairs}"
                coreset.first(budget, part.name).save(part, asked.ids)
                reporter.info(f"{budget} pairs, the first of {asked.pairs}, in {part}")
            coreset.save(folder, asked.ids)
    except KeyboardInterrupt:
        raise Stopped("stopped; a finished warm-up is kept. Run the same command to resume.") from None
    seconds = round(time.monotonic() - began, 2)
    steps: list[Plain] = [step.to_json() for step in coreset.steps]
    more = {"steps": steps} if steps else {}
    run.log(stage="select", set=folder.name, seconds=seconds, peak_memory_bytes=peak_memory(), **more)
    reporter.info(f"{len(coreset.pairs)} pairs, {coreset.pairs.stored_floats:,} stored floats in {folder}")
    return folder
