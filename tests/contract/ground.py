"""Where methods are tried."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.experts.trajectory import Trajectory
from vldistill.workbench.bench import Workbench


@dataclass
class Ground:
    """A workbench and its experts."""

    bench: Workbench
    experts: list[Trajectory]
