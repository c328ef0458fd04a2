"""The stages as functions: each reads files of the stage before and writes its own into the run folder."""

from vldistill.commands.bench import open_bench
from vldistill.commands.distilling import distill
from vldistill.commands.judging import evaluate, score, select
from vldistill.commands.preparing import encode, experts
from vldistill.distillation.loop import METRICS

__all__ = ["METRICS", "distill", "encode", "evaluate", "experts", "open_bench", "score", "select"]
