"""Gradients through inner SGD steps."""

from vldistill.distillation.metagrad.backward_sweep import Hypergradient, advance, hypergradient
from vldistill.distillation.metagrad.inner import ESTIMATORS, InnerStep
from vldistill.distillation.metagrad.matching import matching_loss

__all__ = ["ESTIMATORS", "Hypergradient", "InnerStep", "advance", "hypergradient", "matching_loss"]
