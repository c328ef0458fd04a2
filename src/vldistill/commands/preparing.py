"""Stages before a set: decode and encode the data once, record experts."""

from __future__ import annotations

import time
from collections.abc import Mapping

from vldistill.cluster.options import Place
from vldistill.cluster.shards import WHOLE
from vldistill.cluster.stages import encode_shards, spread_encode, spread_experts
from vldistill.config import Config
from vldistill.data.pairs import SPLITS
from vldistill.errors import ConfigError, Stopped
from vldistill.experts.record import record_experts
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import peak_memory
from vldistill.runtime.processes import ALONE, Ranks
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run


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
    bench = open_bench(config, reporter, ranks, run)
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
    bench = open_bench(config, reporter, run=run)
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
