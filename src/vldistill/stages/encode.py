"""The stage that decodes and encodes the data, ahead of the others."""

from __future__ import annotations

from collections.abc import Mapping

from vldistill.cluster.options import Place
from vldistill.cluster.shards import WHOLE
from vldistill.config import Config
from vldistill.data.pairs import SPLITS
from vldistill.errors import Stopped
from vldistill.runtime.log import Reporter
from vldistill.stages.spread import encode_shards, spread_encode
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run


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
        if decode_only and bench.has_pixels:
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
        raise Stopped("stopped; finished shards are kept. Run the same command to resume.") from None
    where = f"decoded images and features are in {bench.cache}" if bench.has_pixels else "vectors stay where they are"
    reporter.info(where)
    return failed
