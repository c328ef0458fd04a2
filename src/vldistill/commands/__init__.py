"""The stages as functions: each reads files of the stage before and writes its own into the run folder."""

from vldistill.distillation.loop import METRICS
from vldistill.stages.distill import distill
from vldistill.stages.encode import encode
from vldistill.stages.evaluate import evaluate, score
from vldistill.stages.experts import experts
from vldistill.stages.select import select
from vldistill.workbench.opening import open_bench

__all__ = ["METRICS", "distill", "encode", "evaluate", "experts", "open_bench", "score", "select"]
