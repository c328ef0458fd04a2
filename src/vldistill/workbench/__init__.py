"""What every stage works with: the run folder, towers, features and splits."""

from vldistill.workbench.bench import Split, Workbench
from vldistill.workbench.opening import open_bench
from vldistill.workbench.run_folder import Run

__all__ = ["Run", "Split", "Workbench", "open_bench"]
