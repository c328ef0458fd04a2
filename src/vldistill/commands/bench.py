"""What every stage does first: build the workbench, and refuse a folder of another configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vldistill.config import Config
from vldistill.errors import ConfigError
from vldistill.runs import Run, differences, with_defaults
from vldistill.runtime.devices import augments_on, choose_device, choose_passes
from vldistill.runtime.log import Reporter
from vldistill.runtime.memory import keep_freed_memory
from vldistill.runtime.processes import ALONE, Ranks
from vldistill.storage.files import read_json
from vldistill.workbench import Workbench


def open_bench(config: Config, reporter: Reporter, ranks: Ranks = ALONE, run: Run | None = None) -> Workbench:
    """The workbench of a configuration; data that are not those ``run`` was begun with will be refused."""
    keep_freed_memory()
    device = choose_device(config.runtime, ranks)
    how = choose_passes(config.runtime, device), augments_on(config.runtime, device)
    return Workbench(config.data, config.encoder, device, reporter, *how, on_pixels=run.check_data if run else None)


def refuse_other(folder: Path, asked: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Refuse a set's folder that was begun with another configuration; what it lacks had its default then."""
    note = folder / "config.json"
    old = read_json(note, "set configuration") if note.exists() else asked
    found = list(differences(with_defaults(old, defaults or {}) if isinstance(old, Mapping) else old, asked))
    if found:
        shown = "\n".join(f"  {name}: {old!r} there, {new!r} asked for" for name, old, new in found)
        raise ConfigError(
            f"{folder} was begun with another configuration:\n{shown}\n"
            f"Use another --seed, --label or --run, give the settings it was begun with, or delete the folder."
        )
