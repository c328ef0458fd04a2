"""What every stage does first: build the workbench, and refuse a folder of another configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from vldistill.config import Config
from vldistill.config.runtime import most_bytes
from vldistill.runtime.devices import augments_on, choose_compute, choose_device
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import keep_freed_memory, limit_memory
from vldistill.runtime.processes import ALONE, Processes
from vldistill.runtime.threads import describe_threads
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import Run


def open_bench(
    config: Config,
    reporter: Reporter,
    processes: Processes = ALONE,
    run: Run | None = None,
    standardisation: Mapping[str, torch.Tensor] | None = None,
) -> Workbench:
    """The workbench of a configuration; data that are not those ``run`` was begun with will be refused.

    Args:
        standardisation: of a set, where students are trained without the data that it was made of.
    """
    keep_freed_memory()
    device = choose_device(config.runtime, processes)
    reporter.info(describe_threads(device))
    limit_memory(device, most_bytes(config.runtime.max_memory) or 0)
    compute = replace(choose_compute(config.runtime, device), tell=reporter.warn)
    how = compute, augments_on(config.runtime, device)
    checks = run.check_data if run else None
    former = run is not None and run.former_splits
    return Workbench(
        config.data, config.encoder, device, reporter, *how,
        on_pixels=checks, former_splits=former, standardisation=standardisation,
    )  # fmt: skip
