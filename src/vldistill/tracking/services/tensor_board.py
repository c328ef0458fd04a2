"""TensorBoard: event files in ``RUN/tensorboard/NAME``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from vldistill.tracking.tracker import Subject, register


@register("tensorboard", package="tensorboard")
class TensorBoard:
    """Scalars, previews and the settings as a text."""

    def __init__(self, subject: Subject) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = subject.run / "tensorboard" / subject.name
        for former in () if subject.resumed else folder.glob("events.out.tfevents.*"):
            former.unlink()  # of a subject of this name that was deleted, or evaluated before
        self.writer = SummaryWriter(folder)
        self.place = f"tensorboard --logdir {folder.parent}"
        if not subject.resumed:
            self.writer.add_text("settings", f"    {json.dumps(subject.settings, indent=2)}".replace("\n", "\n    "))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker. On disk when it returns: a killed process has given what its ``metrics.jsonl`` holds."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, path: Path) -> None:
        """See Tracker."""
        with Image.open(path) as image:
            self.writer.add_image(path.stem, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, done: bool) -> None:
        """See Tracker."""
        self.writer.close()
