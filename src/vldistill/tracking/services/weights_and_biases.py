"""Weights & Biases: offline in ``RUN/wandb``, unless the user's environment says to go online."""

# The package is an extra of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vldistill.tracking.tracker import Subject, register


@register("wandb", package="wandb")
class WeightsAndBiases:
    """One run of project ``vldistill`` (or ``WANDB_PROJECT``) a subject, grouped by run folder."""

    def __init__(self, subject: Subject) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        asked = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
        folder = Path(os.environ.get("WANDB_DIR") or subject.run)
        folder.mkdir(parents=True, exist_ok=True)
        self.module = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "vldistill"),
            dir=str(folder),
            id=subject.id,
            name=os.environ.get("WANDB_NAME", subject.name),
            group=os.environ.get("WANDB_RUN_GROUP", subject.run.resolve().name),
            job_type=subject.stage,
            config=dict(subject.settings),
            resume="allow" if subject.resumed else None,
            mode=None if asked else "offline",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric="iteration")  # its own steps count calls
        offline = f"wandb in {folder / 'wandb'}; `wandb sync` uploads it"
        self.place = offline if self.run.offline else self.run.url or "wandb"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self.run.log({"iteration": step, **values})

    def picture(self, step: int, path: Path) -> None:
        """See Tracker."""
        self.run.log({"iteration": step, path.stem: self.module.Image(str(path))})

    def close(self, done: bool) -> None:
        """See Tracker."""
        self.run.finish(exit_code=0 if done else 1)
