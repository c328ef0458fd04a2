"""Stages as units: experts and encoding, given out to processes or to a cluster, with one progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.cluster.options import Place
from vldistill.cluster.shards import WHOLE, Shard
from vldistill.cluster.units import Unit, UnitFailed, command, run_units
from vldistill.data.pairs import SPLITS
from vldistill.experts.record import finished_experts
from vldistill.workbench.run_folder import write_config

if TYPE_CHECKING:
    from vldistill.config import Config
    from vldistill.encoders.features import Encoding
    from vldistill.runtime.log import Reporter
    from vldistill.workbench.bench import Workbench
    from vldistill.workbench.run_folder import Run


def spread_experts(
    run: Run, config: Config, bench: Workbench, reporter: Reporter, place: Place
) -> dict[str, UnitFailed]:
    """Record the experts that are missing, one unit each; returns the failures by unit."""
    count = config.experts.count
    known = finished_experts(bench, config.experts, run.experts) if any(run.experts.glob("*")) else {}
    wanted = [index for index in range(count) if known.get(index) is None]
    if not wanted:
        return {}
    folder = run.folder.absolute() / "units"
    words = ["--config", str(write_config(folder / "experts.yaml", config)), "--run", str(run.folder.absolute())]
    encode = _command("encode", ["encode", *words], folder / "encode.log")
    shards = {index: Shard(index + 1, count) for index in wanted}
    units = [
        _command(f"expert {index}", ["experts", *words, "--shard", str(shard)], folder / f"expert-{index:03d}.log")
        for index, shard in shards.items()
    ]
    units = [replace(unit, needs=("encode",)) for unit in units]
    return give_out("experts", [encode, *units], place, reporter)


def encode_shards(bench: Workbench, shard: Shard) -> list[tuple[Encoding, list[int]]]:
    """The missing feature shards of all splits that fall to ``shard``, counted through every table."""
    found: list[tuple[Encoding, list[int]]] = []
    first = 0
    for encoding in [encoding for split in SPLITS for encoding in bench.encodings(split)]:
        mine = [index for index in encoding.missing(bench.reporter) if shard.has(first + index)]
        found.append((encoding, mine))
        first += len(encoding.spans)
    return found


def spread_encode(
    run: Run, config: Config, bench: Workbench, reporter: Reporter, place: Place
) -> dict[str, UnitFailed]:
    """Encode the feature shards that are missing, one unit each; returns the failures by unit."""
    tables = encode_shards(bench, WHOLE)
    count = sum(len(encoding.spans) for encoding, _ in tables)
    folder = run.folder.absolute() / "units"
    words = ["--config", str(write_config(folder / "encode.yaml", config)), "--run", str(run.folder.absolute())]
    units: list[Unit] = []
    first = 0
    for encoding, missing in tables:
        for index in missing:
            part = ["encode", *words, "--shard", str(Shard(first + index + 1, count))]
            units.append(_command(f"{encoding.what}, shard {index}", part, folder / f"encode-{first + index:05d}.log"))
        first += len(encoding.spans)
    return give_out("feature shards", units, place, reporter)


def _command(name: str, words: Sequence[str], log: Path) -> Unit:
    return Unit(name, partial(command, words=list(words), log=str(log)))


def give_out(what: str, units: Sequence[Unit], place: Place, reporter: Reporter) -> dict[str, UnitFailed]:
    """Run ``units`` at ``place``, with one progress bar; returns and reports the failures by unit."""
    if not units:
        return {}
    failed: Mapping[str, UnitFailed]
    with place.backend(reporter) as backend:
        reporter.info(f"{what}: {len(units)} units, {place.describe(backend.slots)}")
        with reporter.progress(what, len(units)) as bar:
            failed = run_units(units, backend, lambda unit, error: bar.advance(1), reporter, place.retries)
    for name, error in failed.items():
        reporter.warn(f"{name}: {error}")
    return dict(failed)
