"""Distil image-caption data sets into a few hundred synthetic pairs, and measure honestly what they train.

Names are imported when first used, so that ``import vldistill`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vldistill.version import __version__

_HOMES = {
    "Config": "vldistill.config",
    "DistilledSet": "vldistill.distilled.distilled_set",
    "DualEncoder": "vldistill.encoders.dual",
    "Pairs": "vldistill.data.pairs",
    "Recipe": "vldistill.training.recipe",
    "Trajectory": "vldistill.experts.trajectory",
    "VldistillError": "vldistill.errors",
    "Workbench": "vldistill.workbench.bench",
    "evaluate_set": "vldistill.evaluation.protocol",
    "hypergradient": "vldistill.distillation.metagrad.backward_sweep",
    "load_pairs": "vldistill.data.load",
    "matching_loss": "vldistill.distillation.metagrad.matching",
    "record_experts": "vldistill.experts.record",
    "retrieval_metrics": "vldistill.evaluation.retrieval",
}

__all__ = ["__version__", *sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from vldistill.config import Config as Config
    from vldistill.data.load import load_pairs as load_pairs
    from vldistill.data.pairs import Pairs as Pairs
    from vldistill.distillation.metagrad.backward_sweep import hypergradient as hypergradient
    from vldistill.distillation.metagrad.matching import matching_loss as matching_loss
    from vldistill.distilled.distilled_set import DistilledSet as DistilledSet
    from vldistill.encoders.dual import DualEncoder as DualEncoder
    from vldistill.errors import VldistillError as VldistillError
    from vldistill.evaluation.protocol import evaluate_set as evaluate_set
    from vldistill.evaluation.retrieval import retrieval_metrics as retrieval_metrics
    from vldistill.experts.record import record_experts as record_experts
    from vldistill.experts.trajectory import Trajectory as Trajectory
    from vldistill.training.recipe import Recipe as Recipe
    from vldistill.workbench.bench import Workbench as Workbench


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vldistill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
