"""Stages before a set: decode and encode the data once, record experts."""

from __future__ import annotations

import time
from collections.abc import Mapping

from vldistill.cluster.options import Place
from vldistill.config import Config
from vldistill.errors import ConfigError, Stopped
from vldistill.experts.record import record_experts
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import peak_memory
from vldistill.runtime.processes import ALONE, Processes
from vldistill.stages.spread import spread_experts
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run


def experts(
    run: Run, config: Config, reporter: Reporter, place: Place | None = None, processes: Processes = ALONE
) -> Mapping[str, Exception]:
    """Record the experts that are missing; returns what failed elsewhere, by unit.

    Args:
        place: where other units run, or the part that this job does.
        processes: processes that share the batches of each expert's training; the first one writes.
    """
    place = place or Place()
    if processes.size > 1 and (config.encoder.setting == "heads" or place.spread):
        raise ConfigError(
            "torchrun shares the batches of one expert, which is for trained towers, not for setting heads, nor for "
            "--workers and --cluster, which give every expert to one process. Leave torchrun out."
        )
    run.check(config)
    bench = open_bench(config, reporter, processes, run)
    bench.pairs("train")  # what cannot be read or built is refused before the run folder is made
    bench.check_towers()
    with processes.first_before_others():
        if processes.first:
            run.begin(config)
        if processes.size > 1:
            bench.split("train")
    began = time.monotonic()
    if place.spread:
        failed = spread_experts(run, config, bench, reporter, place)
        if failed:
            return failed
    try:
        save_seconds = config.runtime.save_seconds
        recorded = record_experts(bench, config.experts, run.experts, place.shard, save_seconds, processes)
    except (KeyboardInterrupt, Stopped) as stop:
        done = len(list(run.experts.glob("expert-*.safetensors")))
        where = str(stop) or "stopped"
        raise Stopped(f"{where}; {done} finished experts are kept. Run the same command to resume.") from None
    if not processes.first:
        return {}
    seconds = round(time.monotonic() - began, 2)
    losses = [list(expert.note.losses or ()) for expert in recorded]
    run.log(stage="experts", count=len(recorded), seconds=seconds, losses=losses, peak_memory_bytes=peak_memory())
    reporter.info(f"{len(recorded)} experts in {run.experts}")
    return {}
