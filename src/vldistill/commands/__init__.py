"""The stages as functions: each reads files of the stage before and writes its own into the run folder."""

from vldistill.commands.distilling import distill
from vldistill.commands.judging import evaluate, score, select
from vldistill.commands.preparing import encode, experts
from vldistill.distillation.loop import METRICS
from vldistill.workbench.opening import open_bench

__all__ = ["METRICS", "distill", "encode", "evaluate", "experts", "open_bench", "score", "select"]
